"""bsds-denoiser: photographs without the noise of a sensor, at a strength of one's choice.

    claim     30.71 dB on CBSD68 with noise of deviation 25, rounded and clipped to bytes (version 2)
    time      67 minutes on 2 CPU cores with bfloat16 arithmetic, 9 of them lost beside other work
    seed      0
    command   imago-train fit bsds-denoiser --data DIR
    fast      29.67 dB with a sixth of the arithmetic, exported as bsds-denoiser-fast: --set epochs=40 --set width=32
              --set blocks=3

The form of FFDNet (Zhang et al. 2018, arXiv 1710.04026): half the size, a map of the noise's deviation beside the
picture, which here has residual blocks and no batch norm. Half of the noisy windows are rounded and clipped to bytes,
as pictures that are sent are; the other half are not, as in papers. One in eight is grey, with the same noise in all
channels: to a network that never saw it, that is texture.
"""

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.imaging.codec import encode_png
from app.manifest import Tiling
from training.data import photographs
from training.data.feed import Slices
from training.engine import Count, Plan
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


class DenoiseHyper(EnhanceHyper):
    """What was chosen."""

    epochs: Count = 36
    width: Count = 64


class BsdsDenoiser(Recipe[DenoiseHyper]):
    """The shipped denoiser."""

    name = "bsds-denoiser"
    hyper = DenoiseHyper
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

    def plan(self, hyper: DenoiseHyper, data: Path, run: Run) -> Plan:
        """Network, loop and batches of a run."""
        images, held_out = photographs.training(data)
        feed = windows_feed(images, hyper, with_noise)
        loop = EnhanceLoop(Denoiser(hyper.width, hyper.blocks), hyper, hyper.epochs * len(feed))
        clean = central_windows(held_out, 256)
        level = torch.full((len(clean),), WATCHED_AT / 255)
        random = torch.Generator().manual_seed(0)
        return Plan(loop, feed, Slices((noisy(clean, level, random), level, clean), 5), validate_every=5)

    def graph(self, hyper: DenoiseHyper, weights: dict[str, Tensor], data: Path) -> DenoiseGraph:
        """The averaged network."""
        network = Denoiser(hyper.width, hyper.blocks)
        network.load_state_dict(submodule(weights, "average.module"))
        return DenoiseGraph(network.eval())

    def examples(self, hyper: DenoiseHyper, data: Path) -> Arrays:
        """Eight noisy windows."""
        clean = central_windows(photographs.benchmark(data, "CBSD68")[:8], 128)
        level = torch.arange(8) * 10.0
        bytes_ = noisy(clean, level / 255, torch.Generator().manual_seed(0)).mul(255).round().clamp(0, 255)
        return {"image": bytes_.to(torch.uint8).permute(0, 2, 3, 1).numpy(), "strength": level.numpy()}

    def score(self, version: Version, data: Path) -> dict[str, float]:
        """PSNR in dB and SSIM on CBSD68, and on the grey pictures of Set12, with noise of three strengths, rounded and
        clipped to bytes as pictures that are sent are; with the strength told, and with that found by the service."""
        figures: dict[str, float] = {}
        for pictures, strength in product(("CBSD68", "Set12"), (25, 15, 50)):
            clean, called = photographs.benchmark(data, pictures), pictures.lower()
            files = [encode_png(picture) for picture in spoiled(clean, strength)]
            for suffix, told in (("", strength), ("_blind", None)):
                found = likeness(version.pictures(files, strength=told), clean)
                figures |= {f"{called}_{name}_{strength}{suffix}": value for name, value in found.items()}
            figures[f"{called}_psnr_{strength}_noisy"] = likeness(spoiled(clean, strength), clean)["psnr"]
        return figures


def with_noise(windows: Tensor, random: torch.Generator) -> Batch:
    """Windows float [N,3,H,W] with noise of any strength, its deviation [N], and the windows, some of them grey."""
    number = torch.arange(len(windows)).view(-1, 1, 1, 1)
    grey = number % 8 == 0
    clean = torch.where(grey, windows.mean(1, keepdim=True), windows)
    level = torch.rand(len(clean), generator=random) * STRONGEST / 255
    noise = noisy(torch.zeros_like(clean), level, random)
    spoilt = clean + torch.where(grey, noise[:, :1], noise)
    sent = spoilt.mul(255).round().clamp(0, 255) / 255
    given = torch.where(number % 2 == 0, sent, spoilt)
    return given.contiguous(memory_format=torch.channels_last), level, clean.contiguous()


def noisy(clean: Tensor, level: Tensor, random: torch.Generator) -> Tensor:
    """Float [N,3,H,W] with white noise of these deviations [N]."""
    return clean + torch.randn(clean.shape, generator=random) * level.view(-1, 1, 1, 1)


def spoiled(clean: list[NDArray[np.uint8]], strength: float) -> Iterator[NDArray[np.uint8]]:
    """Pictures with white noise, rounded and clipped; always the same noise for a picture and a strength, and in all
    channels of a grey one."""
    for number, picture in enumerate(clean):
        grey = bool((picture == picture[..., :1]).all())
        noise = np.random.default_rng(number).normal(0, strength, (*picture.shape[:2], 1 if grey else 3))
        yield np.clip(np.rint(picture + noise), 0, 255).astype(np.uint8)
