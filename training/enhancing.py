"""The loop of the restorers: windows of photographs made worse, L1 to what they were, AdamW, averaged weights."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from training.averaging import AveragedHyper, AveragedLoop
from training.data.feed import Draw, Feed
from training.engine import Count, Rate

WATCHED = "validation/psnr"


class EnhanceHyper(AveragedHyper):
    """What every restorer lets one choose."""

    epochs: Count = 60
    """Of as many windows as `windows` cuts from each photograph."""
    batch_size: Count = 16
    lr: Rate = 1e-3
    windows: Count = 16
    side: Count = 96
    """Pixels of the side of a window of the result."""
    warm_up: int = Field(default=100, ge=0)
    width: Count = 48
    blocks: Count = 5


Batch = tuple[Tensor, ...]
"""What the network takes, each with the rows of the batch first, and last what it is to give, float [N,3,H,W]."""


class EnhanceLoop(AveragedLoop[nn.Module]):
    """One step: mean absolute error."""

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """The loss of one batch."""
        *given, wanted = batch
        loss = functional.l1_loss(self.network(*given).float(), wanted)
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, index: int) -> None:
        """Peak signal-to-noise ratio of the averaged network, in dB."""
        *given, wanted = batch
        found = self.average.module(*given).float().clamp(0, 1)
        ratio = peak_signal_noise_ratio(found, wanted, data_range=1.0, reduction="elementwise_mean", dim=(1, 2, 3))
        self.log(WATCHED, ratio, prog_bar=True, batch_size=len(wanted))


def windows_feed(images: Sequence[NDArray[np.uint8]], hyper: EnhanceHyper, worsen: Any) -> Feed[Batch]:
    """Batches of windows cut at random; `worsen(windows, random)` makes a batch of float [N,3,side,side] in 0..1."""
    tensors = [torch.tensor(image).permute(2, 0, 1).contiguous() for image in images]

    def make(draw: Draw) -> Batch:
        cut = [window(tensors[row % len(tensors)], hyper.side, draw.random) for row in draw.rows.tolist()]
        batch: Batch = worsen(torch.stack(cut).float() / 255, draw.random)
        return batch

    return Feed(len(images) * hyper.windows, hyper.batch_size, hyper.seed, make)


def window(image: Tensor, side: int, random: torch.Generator) -> Tensor:
    """A window of uint8 [3,H,W] at a random place, in one of its eight orientations."""
    top, left, turn = (
        int(torch.randint(0, limit, (), generator=random))
        for limit in (image.size(1) - side + 1, image.size(2) - side + 1, 8)
    )
    cut = torch.rot90(image[:, top : top + side, left : left + side], turn % 4, (1, 2))
    return cut.flip(2) if turn >= 4 else cut


def central_windows(images: Sequence[NDArray[np.uint8]], side: int) -> Tensor:
    """The middle of each picture, float [N,3,side,side] in 0..1, for validation."""
    places = [((image.shape[0] - side) // 2, (image.shape[1] - side) // 2) for image in images]
    cut = [image[top : top + side, left : left + side] for image, (top, left) in zip(images, places, strict=True)]
    return torch.from_numpy(np.stack(cut)).permute(0, 3, 1, 2).float() / 255


def likeness(
    found: Iterator[NDArray[np.uint8]], wanted: Sequence[NDArray[np.uint8]], border: int = 0, luma: bool = False
) -> dict[str, float]:
    """Mean PSNR in dB and SSIM of pictures uint8 [H,W,3], each weighing the same; `border` pixels are left out, and
    `luma` compares brightness alone (ITU-R BT.601), as papers on enlarging do."""
    ratios, similarities = [], []
    for mine, theirs in zip(found, wanted, strict=True):
        pair = _compared(mine, border, luma), _compared(theirs, border, luma)
        ratios.append(float(peak_signal_noise_ratio(pair[0], pair[1], data_range=255.0)))
        similarities.append(float(_ssim(*pair)))
    return {"psnr": float(np.mean(ratios)), "ssim": float(np.mean(similarities))}


def _compared(picture: NDArray[np.uint8], border: int, luma: bool) -> Tensor:
    inner = picture[border : picture.shape[0] - border, border : picture.shape[1] - border].astype(np.float64)
    channels = inner @ _LUMA + 16 if luma else inner
    return torch.from_numpy(channels.reshape(*inner.shape[:2], -1)).permute(2, 0, 1)[None]


_LUMA = np.array([65.481, 128.553, 24.966]) / 255
"""Brightness of 0..255 pixels, less 16 (ITU-R BT.601)."""


def _ssim(mine: Tensor, theirs: Tensor) -> Tensor:
    # Single precision: torch has no quick convolutions of doubles on a CPU, and the sixth digit is not reported.
    found = structural_similarity_index_measure(mine.float(), theirs.float(), data_range=255.0)
    assert isinstance(found, Tensor)
    return found
