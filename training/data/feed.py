"""Feed: the batches of one run, each a pure function of (seed, epoch, position).

Nothing is drawn from a global generator, and the place in the run is part of the checkpoint, so that a resumed run
sees the very batches that the uninterrupted one would have seen. Several processes on one run share out each epoch.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, distributed
from torch.utils.data import DataLoader, Dataset

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Draw:
    """What a batch is made from: row numbers int64 [B], its own random generator, and the epoch."""

    rows: Tensor
    random: torch.Generator
    epoch: int


class Feed(Generic[Batch]):
    """Endless epochs of shuffled batches; the rest of an epoch that fills no batch is left out. With `poisson` every
    row is in every batch with the same chance, by itself, so that batches differ in size: privacy is reckoned for that.

    `make` turns a Draw into a batch, in `workers` processes where there are any; what it makes does not depend on them.
    `state_dict` and `load_state_dict` are the protocol that Lightning's checkpoints ask of a loader.
    """

    def __init__(
        self, count: int, batch_size: int, seed: int, make: Callable[[Draw], Batch], poisson: bool = False
    ) -> None:
        self._count, self._size, self._seed, self._make = count, min(batch_size, count), seed, make
        self._poisson = poisson
        self._epoch, self._position = 0, 0
        self.workers = 0

    def __repr__(self) -> str:
        return f"<Feed of {self._count} rows: epoch {self._epoch}, batch {self._position} of {len(self)}>"

    def __len__(self) -> int:
        return max(1, self._count // (self._rows() * _share()[1]))

    def _rows(self) -> int:
        """Of a batch of this process: fewer where there are not enough for all processes."""
        return max(1, min(self._size, self._count // _share()[1]))

    def __iter__(self) -> Iterator[Batch]:
        # Lightning stops asking after the last batch, so the epoch is turned when the next one begins.
        if self._position >= len(self):
            self._epoch, self._position = self._epoch + 1, 0
        for batch in self._made(range(self._position, len(self))):
            self._position += 1
            yield batch
        self._epoch, self._position = self._epoch + 1, 0

    def state_dict(self) -> dict[str, int]:
        """Where the run is."""
        return {"epoch": self._epoch, "position": self._position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from there."""
        self._epoch, self._position = state["epoch"], state["position"]

    def _made(self, positions: range) -> Iterable[Batch]:
        batches = _Batches(self._draw(), self._make)
        if not self.workers:
            return map(batches.__getitem__, positions)
        # Forked, because `make` closes over the data: nothing has to be pickled, and their memory is shared.
        return DataLoader(
            batches, batch_size=None, sampler=positions, num_workers=self.workers, multiprocessing_context="fork"
        )

    def _draw(self) -> Callable[[int], Draw]:
        """The draws of this epoch by position."""
        epoch, order = self._epoch, torch.randperm(self._count, generator=self._generator(self._epoch, 0))
        (rank, processes), size = _share(), self._rows()

        def draw(position: int) -> Draw:
            number = position * processes + rank
            random = self._generator(epoch, number + 1)
            rows = self._chosen(random) if self._poisson else order[number * size : (number + 1) * size]
            return Draw(rows, random, epoch)

        return draw

    def _chosen(self, random: torch.Generator) -> Tensor:
        """Rows by chance; drawn again where there is none, which of 32 expected ones happens once in 1e14 times."""
        rows = torch.empty(0)
        while not len(rows):
            (rows,) = (torch.rand(self._count, generator=random) < self._size / self._count).nonzero(as_tuple=True)
        return rows

    def _generator(self, epoch: int, stream: int) -> torch.Generator:
        mixed = (self._seed * 1_000_003 + epoch) * 1_000_003 + stream
        return torch.Generator().manual_seed(mixed % (1 << 63))


class _Batches(Dataset[Batch]):
    """The batches of one epoch by position."""

    def __init__(self, draw: Callable[[int], Draw], make: Callable[[Draw], Batch]) -> None:
        self._draw, self._make = draw, make

    def __getitem__(self, position: int) -> Batch:
        return self._make(self._draw(position))


def _share() -> tuple[int, int]:
    """Number of this process among those of the run, and how many there are."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


class Slices:
    """Tensors of equal length in consecutive batches, for validation: each item a tuple of slices."""

    def __init__(self, tensors: tuple[Tensor, ...], batch_size: int) -> None:
        self.tensors, self._size = tensors, batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.tensors[0]) / self._size)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for start in range(0, len(self.tensors[0]), self._size):
            yield tuple(tensor[start : start + self._size] for tensor in self.tensors)
