"""What an answer depends on, asked of a graph that cannot tell: its inputs again, each with another part hidden.

Zeiler and Fergus 2014, arXiv 1311.2901, section 4.2. What it costs is bounded: one row for the answer, and one for each
cell of a grid.
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from app.tensors import Tensors, split, stack

GRID = 7
"""Cells on each side."""
Cell = tuple[slice, slice]
"""Rows and columns of pixels."""
Evidence = Callable[[Tensors, Tensors, Cell], float]
"""How much of an answer is left, 1 being all of it, where a cell was hidden: outputs of that row, outputs of the whole
picture, cell."""


class Occlusion:
    """The rows of one explained call: `image` uint8 [H,W,C] first, then with each cell painted in its mean colour."""

    def __init__(self, image: NDArray[np.uint8], evidence: Evidence) -> None:
        self._image, self._evidence = image, evidence
        self._cells = [(down, across) for down in _cuts(image.shape[0]) for across in _cuts(image.shape[1])]
        self._outputs: dict[int, Tensors] = {}

    def __len__(self) -> int:
        return 1 + len(self._cells)

    def rows(self, start: int, stop: int) -> Tensors:
        """`image` uint8 [n,H,W,C]."""
        return {"image": np.stack([self._row(number) for number in range(start, stop)])}

    def take(self, start: int, outputs: Tensors) -> None:
        """Keep outputs until all are there."""
        rows = len(next(iter(outputs.values())))
        self._outputs.update(enumerate(split(outputs, [1] * rows), start))

    def outputs(self) -> Tensors:
        """Those of the whole picture."""
        return stack([self._outputs[0]])

    def heat(self) -> NDArray[np.uint8]:
        """How much of the answer goes with each cell, uint8 [rows of cells, cells in a row], the most at 255."""
        whole = self._outputs[0]
        left = [self._evidence(self._outputs[number], whole, cell) for number, cell in enumerate(self._cells, 1)]
        gone = np.clip(1 - np.nan_to_num(np.array(left, np.float64), nan=1.0), 0, None)
        heat = gone / gone.max() * 255 if gone.max() > 0 else gone
        return np.rint(heat).astype(np.uint8).reshape(len(_cuts(self._image.shape[0])), -1)

    def _row(self, number: int) -> NDArray[np.uint8]:
        if number == 0:
            return self._image
        hidden = self._image.copy()
        hidden[self._cells[number - 1]] = np.rint(self._image.mean((0, 1))).astype(np.uint8)
        return hidden


def _cuts(size: int) -> list[slice]:
    """A side in at most `GRID` parts of nearly equal length, none of them empty."""
    edges = sorted({round(place * size / GRID) for place in range(GRID + 1)})
    return [slice(begin, end) for begin, end in pairwise(edges)]
