"""Times one row alone, and batches under load, for each way to share the cores. Which is best: `app.runtime.plan`."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from app.runtime.base import Session
from app.runtime.probe import check, noise, seconds_per_batch

_ROUNDS = 5
_SIZE_SECONDS = 0.25
"""A batch size is timed five times, or until this much time has gone into it; the quickest counts. Each round times
all ways to share the cores in turn, so that what else runs on the machine meets all of them."""
_FIRST_ROUNDS = 3
"""A single row is timed so often at least: by it most ways to share the cores are given up."""
_ENOUGH_SECONDS = 1.0
"""After so long no larger batch is tried."""
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


def measure(sessions: Mapping[int, Session], splits: Sequence[Split], sizes: Sequence[int]) -> Times:
    """Time the sessions, given by their threads; the first of the sizes is 1, the others are tried while they pay.

    Raises:
        InvalidModel: a session fails, or its answers cannot be served; see `app.runtime.probe.check`.
    """
    begun = time.perf_counter()
    lone = {threads: Split(threads, 1) for threads in sessions}
    single = time_batches(sessions, {*splits, *lone.values()}, 1)
    load = {split: {1: single[split]} for split in splits}
    alive = _hopeful(load, 1)
    for rows in sizes[1:]:
        if time.perf_counter() - begun > _ENOUGH_SECONDS or not any(
            worth_more(split.callers, load[split]) for split in alive
        ):
            break
        for split, seconds in time_batches(sessions, alive, rows).items():
            load[split][rows] = seconds
        alive = _hopeful({split: load[split] for split in alive}, rows)
    return Times({threads: single[split] for threads, split in lone.items()}, load)


def time_batches(sessions: Mapping[int, Session], splits: Iterable[Split], rows: int) -> dict[Split, float]:
    """The seconds of one batch of so many rows, for each way to share the cores."""
    spent: dict[Split, list[float]] = {split: [] for split in splits}
    batch = noise(next(iter(sessions.values())).inputs, rows)
    for threads in {split.threads for split in spent}:
        check(sessions[threads], batch)
    begun = time.perf_counter()
    for done in range(1, _ROUNDS + 1):
        for split, seconds in spent.items():
            seconds.append(seconds_per_batch(sessions[split.threads], batch, split.callers))
        if time.perf_counter() - begun > _SIZE_SECONDS and (rows > 1 or done >= _FIRST_ROUNDS):
            break
    return {split: min(seconds) for split, seconds in spent.items()}


def worth_more(callers: int, seconds: Mapping[int, float]) -> bool:
    """Whether a batch larger than those timed so far may give more rows a second."""
    largest = max(seconds)
    slow = seconds[largest] > _SLOW_SECONDS
    if slow and callers * largest >= _MOST_ROWS:
        return False
    if len(seconds) == 1:
        return True
    best = min(spent / rows for rows, spent in seconds.items() if rows != largest)
    return seconds[largest] / largest <= (_GAIN if slow else _HOPELESS) * best


def _hopeful(load: Mapping[Split, Mapping[int, float]], rows: int) -> list[Split]:
    rates = {split: split.rate(rows, seconds[rows]) for split, seconds in load.items()}
    return [split for split, rate in rates.items() if rate >= _HOPEFUL * max(rates.values())]
