"""Named arrays, and the shapes that they may have. What an axis means is left to `app.tasks`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Tensor = NDArray[np.generic]
Tensors = Mapping[str, Tensor]
"""Arrays by name; the first axis of each is the row (one item of a batch)."""


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype and shape of one input or output; `None` stands for a dimension that may vary."""

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        dims = ",".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.name}: {self.dtype} [{dims}]"


def stack(parts: Sequence[Tensors]) -> Tensors:
    """Concatenate jobs of equal row shape along the rows; a single job is passed on uncopied."""
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def to_row(tensors: Tensors) -> Tensors:
    """Tensors that have no rows, as one row."""
    return {name: np.asarray(array)[np.newaxis] for name, array in tensors.items()}


def from_row(tensors: Tensors) -> Tensors:
    """The tensors that `to_row` made a row of."""
    return {name: array.reshape(array.shape[1:]) for name, array in tensors.items()}


class BatchBuffer:
    """Memory for the rows of one batch, kept from batch to batch: a fresh array of a few megabytes costs a page fault
    for every four kilobytes. Used by one thread at a time."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._arrays: dict[str, Tensor] = {}

    def fill(self, parts: Sequence[Tensors]) -> Tensors:
        """Concatenate jobs of equal row shape along the rows, as `stack` does; valid until the next call."""
        if len(parts) == 1:
            return parts[0]
        return {name: self._concatenated(name, [part[name] for part in parts]) for name in parts[0]}

    def holds(self, array: Tensor) -> bool:
        """Whether an array may lie in this memory, so that the next batch would write over it."""
        return any(np.may_share_memory(array, own) for own in self._arrays.values())

    def _concatenated(self, name: str, arrays: list[Tensor]) -> Tensor:
        rows, first, own = sum(map(len, arrays)), arrays[0], self._arrays.get(name)
        if own is None or own.dtype != first.dtype or own.shape[1:] != first.shape[1:] or len(own) < rows:
            own = self._arrays[name] = np.empty((max(rows, self._rows), *first.shape[1:]), first.dtype)
        return np.concatenate(arrays, out=own[:rows])


def split(tensors: Tensors, counts: Iterable[int]) -> list[Tensors]:
    """Cut the rows back into one part (a view) for each count."""
    parts: list[Tensors] = []
    start = 0
    for count in counts:
        parts.append({name: array[start : start + count] for name, array in tensors.items()})
        start += count
    return parts


def row_shape(tensors: Tensors) -> tuple[object, ...]:
    """What must be equal for two jobs to share a batch: names, dtypes and all dimensions but the first."""
    if len(tensors) == 1:  # nearly always
        ((name, array),) = tensors.items()
        return name, array.dtype, array.shape[1:]
    return tuple((name, array.dtype, array.shape[1:]) for name, array in sorted(tensors.items()))
