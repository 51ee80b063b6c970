"""Boxes in training: on their way into a network's input, and in windows cut at random. Edges are left, top, right,
bottom in pixels; a truth is float [n,5], edges and number of the label."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from app.imaging.geometry import visible_box
from app.manifest import ImageInput

_VISIBLE = 0.25
"""Least share of an object's area that a window must show for the object to be there."""
_LEAST = 2.0
"""Pixels that it must be wide and high."""


def boxes_in_input(edges: NDArray[np.float32], width: int, height: int, want: ImageInput) -> NDArray[np.float32]:
    """Boxes [n,4] of a `width` x `height` picture in what `app.imaging.geometry.fit` makes of it: the other way round
    than `boxes_in_picture`, and nothing is cut off."""
    left, top, right, bottom = visible_box(width, height, want)
    scale = np.array([want.width / (right - left), want.height / (bottom - top)] * 2)
    moved: NDArray[np.float32] = ((edges - np.array([left, top, left, top])) * scale).astype(np.float32)
    return moved


def padded(truths: Sequence[Tensor]) -> Tensor:
    """Truths of several pictures as one tensor [N,most,5]; what is added has the label -1."""
    whole = torch.full((len(truths), max(1, *map(len, truths)), 5), -1.0)
    for row, truth in enumerate(truths):
        whole[row, : len(truth)] = truth
    return whole


@dataclass(frozen=True)
class Windows:
    """Cuts windows out of pictures at random places and scales, mirrored, and with `turn` turned by quarters and put
    upside down, too; truths follow."""

    height: int
    width: int
    scales: tuple[float, float]
    """How much smaller the content of a picture may become (below 1), and how much larger."""
    turn: bool

    def cut(self, pictures: Tensor, truths: Sequence[Tensor], random: torch.Generator) -> tuple[Tensor, list[Tensor]]:
        """A window of each of float [N,3,H,W], float [N,3,height,width], and its truth. What lies beyond the picture is
        black; what shows too little of itself is not there."""
        whole = torch.tensor([pictures.shape[3], pictures.shape[2]]) / 2
        matrices = self._matrices(len(pictures), random)
        reach = matrices.abs() @ self._half
        centres = whole + (torch.rand(len(pictures), 2, generator=random) * 2 - 1) * (whole - reach).abs()
        # Into the units of `affine_grid`, in which both window and picture reach from -1 to 1.
        linear = matrices * self._half / whole[:, None]
        theta = torch.cat((linear, (centres / whole - 1)[:, :, None]), 2)
        grid = functional.affine_grid(theta, [len(pictures), 3, self.height, self.width], align_corners=False)
        windows = functional.grid_sample(pictures, grid, mode="bilinear", align_corners=False)
        return windows, [self._seen(*each) for each in zip(truths, matrices, centres, strict=True)]

    def mosaic(
        self, pictures: Tensor, truths: Sequence[Tensor], random: torch.Generator
    ) -> tuple[Tensor, list[Tensor]]:
        """One window from every four of float [4N,3,H,W], a quarter from each (Bochkovskiy et al. 2020, arXiv
        2004.10934)."""
        height, width = self.height // 2, self.width // 2
        cut, seen = Windows(height, width, self.scales, self.turn).cut(pictures, truths, random)
        rows = torch.cat((cut[0::2], cut[1::2]), 3)
        shifts = [torch.tensor([x, y, x, y, 0.0]) for y in (0, height) for x in (0, width)]
        moved = [truth + shifts[number % 4] for number, truth in enumerate(seen)]
        return torch.cat((rows[0::2], rows[1::2]), 2), [torch.cat(moved[i : i + 4]) for i in range(0, len(moved), 4)]

    @property
    def _half(self) -> Tensor:
        return torch.tensor([self.width, self.height]) / 2

    def _matrices(self, count: int, random: torch.Generator) -> Tensor:
        """From a step in a window to the step in its picture: float [N,2,2]."""
        low, high = (torch.tensor(scale).log() for scale in self.scales)
        scale = (low + (high - low) * torch.rand(count, generator=random)).exp()
        mirror = torch.randint(0, 2, (count,), generator=random) * 2.0 - 1
        angle = torch.randint(0, 4 if self.turn else 1, (count,), generator=random) * (torch.pi / 2)
        cosine, sine = angle.cos().round(), angle.sin().round()
        steps = torch.stack((cosine * mirror, -sine, sine * mirror, cosine), 1).view(-1, 2, 2)
        return steps / scale[:, None, None]

    def _seen(self, truth: Tensor, matrix: Tensor, centre: Tensor) -> Tensor:
        """The truth of a picture in a window of it."""
        corners = (truth[:, :4].view(-1, 2, 2) - centre) @ torch.linalg.inv(matrix).T + self._half
        low, high = corners.amin(1), corners.amax(1)
        border = 2 * self._half
        inner_low, inner_high = low.clamp_min(0).minimum(border), high.clamp_min(0).minimum(border)
        sides = inner_high - inner_low
        enough = sides.prod(1) >= _VISIBLE * (high - low).prod(1)
        kept = enough & (sides >= _LEAST).all(1)
        return torch.cat((inner_low, inner_high, truth[:, 4:]), 1)[kept]
