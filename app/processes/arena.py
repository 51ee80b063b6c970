"""Memory that two processes share: tensors are written once, and their place is told in a message."""

import mmap
from bisect import bisect, insort
from collections.abc import Sequence
from typing import Any

import numpy as np

from app.errors import TensorsTooLarge
from app.tensors import Tensor, Tensors

_ALIGNMENT = 64
"""Bytes of a cache line."""

Place = list[Any]
"""Name, dtype, shape and offset of one tensor, as it goes into a message."""


class ArenaFull(Exception):
    """There is no room for these tensors now."""


class Arena:
    """A shared map of `size` bytes, made before the fork. One process gives its memory out, the other reads."""

    def __init__(self, size: int) -> None:
        self._map = mmap.mmap(-1, size)
        self._size = size
        self._taken: dict[int, int] = {}
        self._free: list[tuple[int, int]] = [(0, size)]

    def __repr__(self) -> str:
        return f"<Arena: {len(self._taken)} places of {self._size} bytes taken>"

    def clear(self) -> None:
        """Take everything back: the process that read it is gone."""
        self._taken, self._free = {}, [(0, self._size)]

    def write(self, tensors: Tensors) -> list[Place]:
        """Copy tensors in; returns their places.

        Raises:
            ArenaFull: they do not all fit; none was kept.
            TensorsTooLarge: they never will, together.
        """
        if sum(_room(array.nbytes) for array in tensors.values()) > self._size:
            raise TensorsTooLarge(
                f"Its tensors, or those of its answer, take more than the {self._size} bytes that pass between"
                " processes at once: send fewer rows, or smaller ones; with --workers 1 there is no such limit."
            )
        places: list[Place] = []
        for name, array in tensors.items():
            offset = self._take(array.nbytes)
            if offset is None:
                self.give_back(places)
                raise ArenaFull
            places.append([name, array.dtype.str, array.shape, offset])
            self._view(places[-1])[...] = array
        return places

    def read(self, places: Sequence[Place]) -> Tensors:
        """The tensors at some places, uncopied: valid until the other process takes the places back."""
        return {place[0]: self._view(place) for place in places}

    def give_back(self, places: Sequence[Place]) -> None:
        """Let these places be taken again."""
        for _, _, _, offset in places:
            self._join(offset, self._taken.pop(offset))

    def _view(self, place: Place) -> Tensor:
        _, dtype, shape, offset = place
        return np.ndarray(shape, dtype, self._map, offset)

    def _take(self, length: int) -> int | None:
        """First fit."""
        length = _room(length)
        for index, (offset, room) in enumerate(self._free):
            if room >= length:
                self._free[index : index + 1] = [(offset + length, room - length)] if room > length else []
                self._taken[offset] = length
                return offset
        return None

    def _join(self, offset: int, length: int) -> None:
        """Free one place, and join it with the free ones that touch it."""
        at = bisect(self._free, (offset,))
        if at < len(self._free) and offset + length == self._free[at][0]:
            length += self._free.pop(at)[1]
        if at and sum(self._free[at - 1]) == offset:
            offset, before = self._free.pop(at - 1)
            length += before
        insort(self._free, (offset, length))


def _room(length: int) -> int:
    """The bytes that a tensor of so many takes."""
    return max(_ALIGNMENT, -(-length // _ALIGNMENT) * _ALIGNMENT)
