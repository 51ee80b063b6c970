"""Named arrays, and the shapes that they may have. What an axis means is left to `app.tasks`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.errors import InvalidTensors

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

    def admits(self, array: Tensor) -> bool:
        """Whether an array has this dtype, rank and every fixed dimension but the first (the rows)."""
        return (
            array.dtype == self.dtype
            and array.ndim == len(self.shape)
            and all(want in (None, have) for want, have in zip(self.shape[1:], array.shape[1:], strict=True))
        )


def rows(tensors: Tensors) -> int:
    """How many rows the tensors have; all must agree.

    Raises:
        InvalidTensors: no tensor, a scalar among them, or different numbers of rows.
    """
    counts = {array.shape[0] if array.ndim else -1 for array in tensors.values()}
    if len(counts) != 1 or -1 in counts:
        raise InvalidTensors("Every input needs the same first dimension (the number of items).")
    return counts.pop()


def check(tensors: Tensors, specs: Sequence[TensorSpec]) -> int:
    """Check names, dtypes and shapes against what a session takes; return the number of rows.

    Raises:
        InvalidTensors: a name is missing or unknown, or an array does not fit its spec.
    """
    if tensors.keys() != {spec.name for spec in specs}:
        raise InvalidTensors(f"The inputs are {', '.join(spec.name for spec in specs)}: send exactly these.")
    for spec in specs:
        if not spec.admits(tensors[spec.name]):
            raise InvalidTensors(f"Input {spec} does not admit {tensors[spec.name].dtype} {tensors[spec.name].shape}.")
    count = rows(tensors)
    if count == 0:
        raise InvalidTensors("The inputs have no rows.")
    return count


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
