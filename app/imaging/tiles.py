"""A large picture in overlapping parts of one size, and the result put together again without a seam.

Whoever runs them is up to others; what `tiling` says about the graph decides where to cut.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.imaging.codec import ImageArray
from app.manifest import Tiling


@dataclass(frozen=True)
class Cut:
    """How one side of a picture is cut: where parts of `length` pixels begin."""

    length: int
    starts: tuple[int, ...]

    def kept(self, number: int, size: int) -> tuple[int, int]:
        """Which pixels of the picture come from a part: up to the middle of what it shares with its neighbours."""
        begin = 0 if number == 0 else (self.starts[number - 1] + self.length + self.starts[number]) // 2
        last = number + 1 == len(self.starts)
        return begin, size if last else (self.starts[number] + self.length + self.starts[number + 1]) // 2


def cut(size: int, tiling: Tiling) -> Cut:
    """Parts of equal length, as few as overlap enough, all beginning at a multiple; a side that fits is one part."""
    unit = tiling.multiple
    whole = size + -size % unit
    if whole <= tiling.side:
        return Cut(whole, (0,))
    inner = whole - 2 * tiling.overlap
    count = -(-inner // (tiling.side - 2 * tiling.overlap))
    needed = -(-inner // count) + 2 * tiling.overlap
    length = needed + -needed % unit
    units = (whole - length) // unit
    return Cut(length, tuple(number * units // (count - 1) * unit for number in range(count)))


class Tiles:
    """The parts of one picture uint8 [H,W,3], row by row from the top left, and the result [H*scale,W*scale,3]."""

    def __init__(self, image: ImageArray, tiling: Tiling) -> None:
        self._image, self._scale = image, tiling.scale
        height, width = image.shape[:2]
        self._down, self._across = cut(height, tiling), cut(width, tiling)
        self.enhanced: ImageArray = np.empty((height * tiling.scale, width * tiling.scale, 3), np.uint8)
        """Complete when the results of all parts were taken; the system gives the memory as it is written."""

    def __len__(self) -> int:
        return len(self._down.starts) * len(self._across.starts)

    def rows(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Parts `start` to `stop`, uint8 [n,h,w,3], continued by their last pixels where the picture ends before."""
        return np.stack([self._part(number) for number in range(start, stop)])

    def take(self, start: int, results: NDArray[np.uint8]) -> None:
        """Keep of the results of the parts from `start` on, uint8 [n,h*scale,w*scale,3], what is theirs."""
        for number, result in enumerate(results, start):
            self._put(number, result)

    def _part(self, number: int) -> NDArray[np.uint8]:
        top, left = self._corner(number)
        part = self._image[top : top + self._down.length, left : left + self._across.length]
        missing = [(0, self._down.length - part.shape[0]), (0, self._across.length - part.shape[1]), (0, 0)]
        return np.pad(part, missing, mode="edge") if any(after for _, after in missing) else part

    def _put(self, number: int, result: NDArray[np.uint8]) -> None:
        row, column = divmod(number, len(self._across.starts))
        top, left = self._corner(number)
        scale, (height, width) = self._scale, self._image.shape[:2]
        upper, lower = self._down.kept(row, height)
        first, last = self._across.kept(column, width)
        self.enhanced[upper * scale : lower * scale, first * scale : last * scale] = result[
            (upper - top) * scale : (lower - top) * scale, (first - left) * scale : (last - left) * scale
        ]

    def _corner(self, number: int) -> tuple[int, int]:
        row, column = divmod(number, len(self._across.starts))
        return self._down.starts[row], self._across.starts[column]
