"""bsds-denoiser: photographs without the noise of a sensor, at a strength of one's choice.

    claim     30.62 dB on CBSD68 with noise of deviation 25, rounded and clipped to bytes (version 1)
    time      73 minutes on one CPU core with bfloat16 arithmetic, beside other work
    seed      0
    command   imago-train fit bsds-denoiser --data DIR --epochs 40

The form of FFDNet (Zhang et al. 2018, arXiv 1710.04026): half the size, a map of the noise's deviation beside the
picture, which here has residual blocks and no batch norm. Half of the noisy windows are rounded and clipped to bytes,
as pictures that are sent are; the other half are not, as in papers.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.imaging.codec import encode_png
from app.manifest import Tiling
from training.data import photographs
from training.data.feed import Slices
from training.engine import Plan
from training.enhancing import Batch, EnhanceHyper, EnhanceLoop, central_windows, likeness, windows_feed
from training.networks.graphs import DenoiseGraph
from training.networks.restorer import Denoiser
from training.onnx_file import Arrays
from training.recipe import Card, Recipe
from training.run import Run, submodule
from training.version import Version

STRONGEST = 75
"""Standard deviation of the strongest noise that is learned, of 255."""
WATCHED_AT = 25
TILE = 512


class BsdsDenoiser(Recipe[EnhanceHyper]):
    """The shipped denoiser."""

    name = "bsds-denoiser"
    hyper = EnhanceHyper
    headline = "cbsd68_psnr_25"
    unit = "dB"
    anchor = "31.21 dB, of noise that is not clipped: FFDNet (Zhang et al. 2018); CBM3D 30.71"
    card = Card(
        task="enhance",
        description="Takes the noise out of photographs, at a strength of one's choice or as strong as it finds it.",
        licence="Weights: Apache-2.0. Training data: BSDS500, for research use.",
        data=photographs.FACTS,
        labels=(),
        uses="Photographs with the grain of a high sensitivity; demonstration and load tests.",
        limits="It learned white Gaussian noise on small photographs: blotches of JPEG and of phones' own processing "
        "are not that, and fine textures may be smoothed away at high strengths.",
        tiling=Tiling(side=TILE, overlap=24, multiple=2),
    )

    def plan(self, hyper: EnhanceHyper, data: Path, run: Run) -> Plan:
        """Network, loop and batches of a run."""
        images, held_out = photographs.training(data)
        feed = windows_feed(images, hyper, with_noise)
        loop = EnhanceLoop(Denoiser(hyper.width, hyper.blocks), hyper, hyper.epochs * len(feed))
        clean = central_windows(held_out, 256)
        level = torch.full((len(clean),), WATCHED_AT / 255)
        random = torch.Generator().manual_seed(0)
        return Plan(loop, feed, Slices((noisy(clean, level, random), level, clean), 5), validate_every=5)

    def graph(self, hyper: EnhanceHyper, weights: dict[str, Tensor], data: Path) -> DenoiseGraph:
        """The averaged network."""
        network = Denoiser(hyper.width, hyper.blocks)
        network.load_state_dict(submodule(weights, "average.module"))
        return DenoiseGraph(network.eval())

    def examples(self, hyper: EnhanceHyper, data: Path) -> Arrays:
        """Eight noisy windows."""
        clean = central_windows(photographs.benchmark(data, "CBSD68")[:8], 128)
        level = torch.arange(8) * 10.0
        bytes_ = noisy(clean, level / 255, torch.Generator().manual_seed(0)).mul(255).round().clamp(0, 255)
        return {"image": bytes_.to(torch.uint8).permute(0, 2, 3, 1).numpy(), "strength": level.numpy()}

    def score(self, version: Version, data: Path) -> dict[str, float]:
        """PSNR in dB and SSIM on CBSD68 with noise of three strengths, rounded and clipped to bytes as pictures that
        are sent are; with the strength told, and with the strength found by the service."""
        clean = photographs.benchmark(data, "CBSD68")
        figures: dict[str, float] = {}
        for strength in (25, 15, 50):
            files = [encode_png(picture) for picture in spoiled(clean, strength)]
            for suffix, told in (("", strength), ("_blind", None)):
                found = likeness(version.pictures(files, strength=told), clean)
                figures |= {f"cbsd68_{name}_{strength}{suffix}": value for name, value in found.items()}
            figures[f"cbsd68_psnr_{strength}_noisy"] = likeness(spoiled(clean, strength), clean)["psnr"]
        return figures


def with_noise(clean: Tensor, random: torch.Generator) -> Batch:
    """Windows float [N,3,H,W] with noise of any strength, its deviation [N], and the windows."""
    level = torch.rand(len(clean), generator=random) * STRONGEST / 255
    spoilt = noisy(clean, level, random)
    sent = spoilt.mul(255).round().clamp(0, 255) / 255
    half = (torch.arange(len(clean)) % 2 == 0).view(-1, 1, 1, 1)
    return torch.where(half, sent, spoilt).contiguous(memory_format=torch.channels_last), level, clean


def noisy(clean: Tensor, level: Tensor, random: torch.Generator) -> Tensor:
    """Float [N,3,H,W] with white noise of these deviations [N]."""
    return clean + torch.randn(clean.shape, generator=random) * level.view(-1, 1, 1, 1)


def spoiled(clean: list[NDArray[np.uint8]], strength: float) -> Iterator[NDArray[np.uint8]]:
    """Pictures with white noise, rounded and clipped; always the same noise for a picture and a strength."""
    for number, picture in enumerate(clean):
        noise = np.random.default_rng(number).normal(0, strength, picture.shape)
        yield np.clip(np.rint(picture + noise), 0, 255).astype(np.uint8)
