"""Times one row alone, and batches under load, for each way to share the cores. Which is best: `app.runtime.plan`."""

import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from app.errors import OutOfMemory
from app.runtime.base import Session
from app.runtime.probe import FREE_SIDE, check, noise, seconds_per_batch
from app.tensors import Tensors

_ROUNDS = 5
"""Everything is timed so often, and the quickest counts. Each round times all batch sizes and all ways to share the
cores: a shared machine is half as fast for tenths of a second now and then, and no one of them must bear that alone."""
_LEAST_ROUNDS = 3
_ENOUGH_SECONDS = 1.0
"""After so long only single rows are timed, and after three rounds of them nothing more."""
_HOPELESS = 1.5
"""A row that takes so many times what the best took says that larger batches only cost memory: caches are full."""
_SLOW_SECONDS = 0.01
_GAIN = 1.03
"""A batch that takes longer than this must not cost a row more time than this many times the best, or no larger one is
tried: what is timed on a shared machine is not more exact."""
_MOST_ROWS = 128
"""Slow batches do not grow beyond so many rows in flight: each holds memory of its own, a segmenter's row 54 MB."""
_HOPEFUL = 0.9
"""Ways to share the cores that give less than this part of the best's rows a second are not timed on."""
_ALONE = 0.85
"""What several threads on one batch are worth beside their rows a second on an idle machine: threads that wait for one
another stop together when decoding takes a core. Two threads on one batch gave 0.91 to 1.03 times the rows of two
batches with a thread each; beside a thread busy a third of the time, 0.77 to 0.86 times (four models, two cores)."""
_CROWDED = 0.85
"""What threads that outnumber the cores are worth beside their quickest batch: two callers of two threads on two cores
gave 343 rows a second where two of one thread gave 398, and had looked a tenth better in single batches."""


@dataclass(frozen=True)
class Split:
    """A way to share the cores out under load: so many callers at once, each of whose batches takes so many threads."""

    threads: int
    callers: int

    def rate(self, rows: int, seconds: float) -> float:
        """Rows a second where a batch takes so many seconds, less what waiting for one another costs."""
        worth = 1.0 if self.threads == 1 else _ALONE if self.callers == 1 else _CROWDED
        return self.callers * rows / seconds * worth


@dataclass(frozen=True)
class Times:
    """What was measured, in seconds."""

    lone: Mapping[int, float]
    """One row while nothing else runs, by threads."""
    load: Mapping[Split, Mapping[int, float]]
    """One batch while all callers run, by rows. Hopeless ways and sizes were not timed to the end."""


def measure(
    sessions: Mapping[int, Session], splits: Sequence[Split], sizes: Sequence[int], side: int = FREE_SIDE
) -> Times:
    """Time the sessions, given by their threads; the first of the sizes is 1, the others are tried while they pay. Free
    axes are `side` long.

    Raises:
        InvalidModel: a session fails, or its answers cannot be served; see `app.runtime.probe.check`.
        SessionFault: it has no memory for one row, or lost its device.
    """
    timer = _Timer(sessions, side)
    lone = {threads: Split(threads, 1) for threads in sessions}
    load = {split: timer.best[split] for split in splits}
    begun = time.perf_counter()

    def enough() -> bool:
        return time.perf_counter() - begun > _ENOUGH_SECONDS

    for done in range(_ROUNDS):
        if done >= _LEAST_ROUNDS and enough():
            break
        for split in {*splits, *lone.values()}:
            timer.time(split, 1)
        for smaller, rows in pairwise(sizes):
            alive = _hopeful(load, smaller)
            if enough() or not any(worth_more(split.callers, load[split], smaller) for split in alive):
                break
            try:
                for split in alive:
                    timer.time(split, rows)
            except OutOfMemory:
                break  # smaller ones run
    return Times({threads: timer.best[split][1] for threads, split in lone.items()}, load)


def time_batch(sessions: Mapping[int, Session], split: Split, rows: int, side: int = FREE_SIDE) -> float:
    """The seconds of one batch of so many rows; raises as `measure`."""
    timer = _Timer(sessions, side)
    for _ in range(_LEAST_ROUNDS):
        timer.time(split, rows)
    return timer.best[split][rows]


def worth_more(callers: int, seconds: Mapping[int, float], largest: int) -> bool:
    """Whether a batch larger than `largest` may give more rows a second, going by those up to it."""
    slow = seconds[largest] > _SLOW_SECONDS
    if slow and callers * largest >= _MOST_ROWS:
        return False
    best = min((spent / rows for rows, spent in seconds.items() if rows < largest), default=math.inf)
    return seconds[largest] / largest <= (_GAIN if slow else _HOPELESS) * best


def _hopeful(load: Mapping[Split, Mapping[int, float]], rows: int) -> list[Split]:
    """The ways to share the cores of which batches of so many rows were timed, and are worth larger ones."""
    rates = {split: split.rate(rows, seconds[rows]) for split, seconds in load.items() if rows in seconds}
    return [split for split, rate in rates.items() if rate >= _HOPEFUL * max(rates.values())]


class _Timer:
    """Times batches, and keeps the quickest time of each."""

    def __init__(self, sessions: Mapping[int, Session], side: int) -> None:
        self._sessions, self._side = sessions, side
        self._batches: dict[int, Tensors] = {}
        self.best: defaultdict[Split, dict[int, float]] = defaultdict(dict)

    def time(self, split: Split, rows: int) -> None:
        session, best = self._sessions[split.threads], self.best[split]
        batch = self._batches.get(rows)
        if batch is None:
            batch = self._batches[rows] = noise(session.inputs, rows, self._side)
        if rows not in best:
            check(session, batch, finite=False)  # whether answers have to be, the warm-up looks
        spent = seconds_per_batch(session, batch, split.threads, split.callers)
        best[rows] = min(spent, best.get(rows, spent))
