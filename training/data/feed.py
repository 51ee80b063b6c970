"""Feed: the batches of one run, each a pure function of (seed, epoch, position).

Nothing is drawn from a global generator, and the place in the run is part of the checkpoint, so that a resumed run
sees the very batches that the uninterrupted one would have seen.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Draw:
    """What a batch is made from: row numbers int64 [B], its own random generator, and the epoch."""

    rows: Tensor
    random: torch.Generator
    epoch: int


class Feed(Generic[Batch]):
    """Endless epochs of shuffled batches; the rest of an epoch that fills no batch is left out.

    `make` turns a Draw into a batch. `state_dict` and `load_state_dict` are the protocol that Lightning's checkpoints
    ask of a loader.
    """

    def __init__(self, count: int, batch_size: int, seed: int, make: Callable[[Draw], Batch]) -> None:
        self._count, self._size, self._seed, self._make = count, min(batch_size, count), seed, make
        self._epoch, self._position = 0, 0

    def __repr__(self) -> str:
        return f"<Feed of {self._count} rows: epoch {self._epoch}, batch {self._position} of {len(self)}>"

    def __len__(self) -> int:
        return self._count // self._size

    def __iter__(self) -> Iterator[Batch]:
        # Lightning stops asking after the last batch, so the epoch is turned when the next one begins.
        if self._position >= len(self):
            self._epoch, self._position = self._epoch + 1, 0
        order = torch.randperm(self._count, generator=self._generator(0))
        while self._position < len(self):
            start = self._position * self._size
            self._position += 1
            yield self._make(Draw(order[start : start + self._size], self._generator(self._position), self._epoch))
        self._epoch, self._position = self._epoch + 1, 0

    def state_dict(self) -> dict[str, int]:
        """Where the run is."""
        return {"epoch": self._epoch, "position": self._position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from there."""
        self._epoch, self._position = state["epoch"], state["position"]

    def _generator(self, stream: int) -> torch.Generator:
        mixed = (self._seed * 1_000_003 + self._epoch) * 1_000_003 + stream
        return torch.Generator().manual_seed(mixed % (1 << 63))


class Slices:
    """Tensors of equal length in consecutive batches, for validation: each item a tuple of slices."""

    def __init__(self, tensors: tuple[Tensor, ...], batch_size: int) -> None:
        self._tensors, self._size = tensors, batch_size

    def __len__(self) -> int:
        return math.ceil(len(self._tensors[0]) / self._size)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for start in range(0, len(self._tensors[0]), self._size):
            yield tuple(tensor[start : start + self._size] for tensor in self._tensors)
