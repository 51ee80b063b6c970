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
    return tuple((name, array.dtype.str, array.shape[1:]) for name, array in sorted(tensors.items()))
