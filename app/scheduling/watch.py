"""Since when batches run, and whether one has run for so long that it will not come back."""

import threading
from collections.abc import Callable

from app.tensors import Tensors

_PATIENCE = 30.0
"""Seconds that every batch may take: other work on the machine, or a device that is asleep, may hold up a quick one."""
_TIMES = 5
"""A batch of slow rows may take so many times longer than its size lets expect."""
_FADES = 0.8
"""What is expected follows a slower batch at once, and a quicker one slowly."""


class Watch:
    """Of one lane: which thread runs a batch, since when, and how long it may take.

    What a batch takes is expected from its bytes: rows of graphs that take any height and width differ by thousands.
    """

    def __init__(self, clock: Callable[[], float], seconds_per_byte: float = 0.0) -> None:
        self._clock = clock
        self._seconds_per_byte = seconds_per_byte
        self._running: dict[int, tuple[float, int]] = {}

    def begin(self, tensors: Tensors) -> None:
        """This thread runs a batch from now on."""
        size = sum(array.nbytes for array in tensors.values())
        self._running[threading.get_ident()] = self._clock(), size

    def end(self) -> float:
        """The batch of this thread came back; returns the seconds that it took."""
        begun, size = self._running.pop(threading.get_ident())
        seconds = self._clock() - begun
        if size:
            self._seconds_per_byte = max(seconds / size, _FADES * self._seconds_per_byte)
        return seconds

    def overdue(self) -> bool:
        """Whether a batch should have come back long ago."""
        now = self._clock()
        running = list(self._running.values())  # at once: other threads begin and end theirs
        return any(now - begun > _PATIENCE + _TIMES * self._seconds_per_byte * size for begun, size in running)
