"""Warm-up: run a session on noise before anybody waits for it, and measure which batch sizes pay."""

import time
from collections.abc import Mapping

from app.runtime.base import Session
from app.runtime.probe import check, noise
from app.tensors import Tensors

_REPEATS = 3
_REPEAT_SECONDS = 0.1
"""A size is timed three times, or until this much time has gone into it; its quickest run counts."""
_HOPELESS = 1.5
"""A row that takes so many times what the best took says that larger batches only cost memory: caches are full."""
_AS_GOOD = 1.25
"""Within a quarter of the best time per row the larger batch is preferred: shared machines are not timed more exactly,
and fewer runs save the hops to a thread and back that are not in it."""


def warm_up(session: Session, max_rows: int, thrifty: bool = False) -> dict[int, float]:
    """Run batches of 1, 2, 4, ... `max_rows` rows of noise; return the seconds that each size took.

    A `thrifty` warm-up ends at the first size that clearly does not pay.

    Raises:
        InvalidModel: the session fails, or an answer is not finite or has not as many rows as were sent.
    """
    check(session, noise(session.inputs, 1))
    seconds: dict[int, float] = {}
    for rows in sorted({1 << power for power in range(max_rows.bit_length())} | {max_rows}):
        batch = noise(session.inputs, rows)
        seconds[rows] = _quickest(session, batch)
        best = min(spent / count for count, spent in seconds.items())
        if thrifty and seconds[rows] / rows > _HOPELESS * best:
            break
    return seconds


def best_batch(seconds: Mapping[int, float]) -> int:
    """The largest batch size whose rows take about as little time as those of any."""
    best = min(spent / rows for rows, spent in seconds.items())
    return max(rows for rows, spent in seconds.items() if spent / rows <= _AS_GOOD * best)


def _quickest(session: Session, batch: Tensors) -> float:
    spent: list[float] = []
    while not spent or (len(spent) < _REPEATS and sum(spent) < _REPEAT_SECONDS):
        begun = time.perf_counter()
        check(session, batch)
        spent.append(time.perf_counter() - begun)
    return min(spent)
