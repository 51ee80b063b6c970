"""bsds-upscaler: photographs at twice their width and height.

    claim     37.29 dB on the brightness of Set5 (version 1); bicubic enlarging has 33.67
    time      43 minutes on one CPU core with bfloat16 arithmetic, beside other work
    seed      0
    command   imago-train fit bsds-upscaler --data DIR --epochs 24

Residual blocks at the size of the picture sent, and channels put side by side as pixels at the end (Shi et al. 2016,
arXiv 1609.05158). It learns to undo Pillow's bicubic filter, which is that of the papers' tests (a = -0.5, with
antialiasing).
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from app.imaging.codec import encode_png
from app.manifest import Tiling
from training.data import photographs
from training.data.feed import Slices
from training.engine import Count, Plan
from training.enhancing import Batch, EnhanceHyper, EnhanceLoop, central_windows, likeness, windows_feed
from training.networks.graphs import UpscaleGraph
from training.networks.restorer import SCALE, Upscaler
from training.onnx_file import Arrays
from training.recipe import Card, Recipe
from training.run import Run, submodule
from training.version import Version


class UpscaleHyper(EnhanceHyper):
    """What was chosen."""

    blocks: Count = 4


class BsdsUpscaler(Recipe[UpscaleHyper]):
    """The shipped upscaler."""

    name = "bsds-upscaler"
    hyper = UpscaleHyper
    headline = "set5_luma_psnr"
    unit = "dB"
    anchor = "37.58 dB: DnCNN-3 (Zhang et al. 2017); bicubic 33.66"
    card = Card(
        task="enhance",
        description="Enlarges photographs to twice their width and height.",
        licence="Weights: Apache-2.0. Training data: BSDS500, for research use.",
        data=photographs.FACTS,
        labels=(),
        uses="Photographs that are too small for a screen or a print; demonstration and load tests.",
        limits="It learned from pictures that were made smaller by one good filter: what a bad filter or strong JPEG "
        "compression destroyed is enlarged as it is.",
        tiling=Tiling(side=256, overlap=12, scale=SCALE),
    )

    def plan(self, hyper: UpscaleHyper, data: Path, run: Run) -> Plan:
        """Network, loop and batches of a run."""
        images, held_out = photographs.training(data)
        feed = windows_feed(images, hyper, with_less)
        loop = EnhanceLoop(Upscaler(hyper.width, hyper.blocks), hyper, hyper.epochs * len(feed))
        large = central_windows(held_out, 256)
        return Plan(loop, feed, Slices((halved(large), large), 5), validate_every=5)

    def graph(self, hyper: UpscaleHyper, weights: dict[str, Tensor], data: Path) -> UpscaleGraph:
        """The averaged network."""
        network = Upscaler(hyper.width, hyper.blocks)
        network.load_state_dict(submodule(weights, "average.module"))
        return UpscaleGraph(network.eval())

    def examples(self, hyper: UpscaleHyper, data: Path) -> Arrays:
        """Eight small windows."""
        small = central_windows(photographs.benchmark(data, "CBSD68")[:8], 96)
        return {"image": small.mul(255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()}

    def score(self, version: Version, data: Path) -> dict[str, float]:
        """PSNR in dB and SSIM of brightness, two pixels of border left out, on Set5 and CBSD68 made smaller by the
        bicubic filter; and PSNR of enlarging by that filter."""
        figures = {}
        for name in ("Set5", "CBSD68"):
            wanted = [_even(picture) for picture in photographs.benchmark(data, name)]
            small = [half(picture) for picture in wanted]
            found = version.pictures([encode_png(picture) for picture in small])
            for figure, value in likeness(found, wanted, SCALE, luma=True).items():
                figures[f"{name.lower()}_luma_{figure}"] = value
            plain = (resized(picture, SCALE) for picture in small)
            figures[f"{name.lower()}_luma_psnr_bicubic"] = likeness(plain, wanted, SCALE, luma=True)["psnr"]
        return figures


def with_less(large: Tensor, random: torch.Generator) -> Batch:
    """Windows float [N,3,H,W] at half their size, and the windows."""
    return halved(large).contiguous(memory_format=torch.channels_last), large


def halved(large: Tensor) -> Tensor:
    """Float [N,3,H,W] in 0..1 as pictures of half the width and height, rounded to bytes."""
    images = large.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    small = torch.from_numpy(np.stack([half(image) for image in images]))
    return small.permute(0, 3, 1, 2).float() / 255


def half(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 [H,W,3] at half its width and height."""
    return resized(picture, 1 / SCALE)


def resized(picture: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    """uint8 [H,W,3] resized by Pillow's bicubic filter."""
    size = (round(picture.shape[1] * scale), round(picture.shape[0] * scale))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))


def _even(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return picture[: picture.shape[0] // SCALE * SCALE, : picture.shape[1] // SCALE * SCALE]
