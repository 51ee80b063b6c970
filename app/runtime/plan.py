"""Decides how one model version runs on this machine, and opens its sessions so. Remembered: `app.runtime.plan_cache`.

Two sessions where two thread counts are each best at something: several threads answer a lone row sooner, one thread a
batch gives more rows a second under load, since threads that share a batch wait for one another. A session of two
threads with two callers gave 0.82 to 0.95 times the rows of one thread with two callers (six models on two cores).
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from app.errors import InvalidModel, SessionFault
from app.runtime.base import Device, Session
from app.runtime.measure import Split, Times, measure, time_batch
from app.runtime.probe import FREE_SIDE, at_once, check, noise
from app.tensors import Tensors

_LARGEST: Mapping[Device, int] = {"cpu": 16, "cuda": 64}
"""The largest batch that is tried where the operator names none."""
_AROUND_SECONDS = 0.0007
"""What a batch costs outside its session: a hop to a thread and back, caches that other work left cold."""
_EQUAL = 0.99
"""Batches whose rows cost within a hundredth of one another are equal."""
_SLOW_SECONDS = 0.05
_SAVED_IF_SLOW = 0.8
"""Batches as slow as this must save a fifth: with a ResNet-50 in twos some of eight callers waited twice as long as
in ones, and all of them got no more answers."""
_ONE_SESSION = 0.98
"""One session for both is worth so little of the rows a second: the second copy of the weights costs memory alone."""
_SOONER = 0.85
"""A second copy of the weights must bring a lone row's answer in this part of the time."""
_ONE_AT_A_TIME = threading.Lock()
"""Models that are loaded at once must not measure one another."""


@dataclass(frozen=True)
class Plan:
    """How one model version runs on this machine: what was measured at warm-up, or read from the cache."""

    lone_threads: int
    """Intra-op threads of the session that runs a job while nothing else runs or waits."""
    threads: int
    """Intra-op threads of the session that runs under load."""
    concurrency: int
    """Batches in flight under load: callers of `run` at once."""
    max_batch_size: int
    lone_seconds: float
    """One row, alone."""
    batch_seconds: Mapping[int, float]
    """One batch under load, all callers busy, by rows up to `max_batch_size`."""


@dataclass(frozen=True)
class Choices:
    """What the operator fixed; None or 0 stands for what is measured."""

    threads: int | None = None
    concurrency: int | None = None
    max_batch_size: int | None = None


@dataclass(frozen=True)
class Ready:
    """Sessions, open and warm, and the plan that they were opened for."""

    plan: Plan
    lone: Session
    """The same object as `crowd` where one session serves both."""
    crowd: Session
    finite: bool = True
    """Whether they answered noise with finite numbers, as they always should."""

    @property
    def sessions(self) -> tuple[Session, ...]:
        """Each of them once."""
        return (self.crowd,) if self.lone is self.crowd else (self.crowd, self.lone)


def make_ready(
    open_with: Callable[[int], Session],
    choices: Choices,
    cores: int,
    known: Plan | None = None,
    finite: bool = True,
    side: int = FREE_SIDE,
) -> Ready:
    """Measure what runs best on so many cores, and open it; a known plan is opened without measuring.

    Args:
        open_with: opens the graph with so many intra-op threads.
        choices: what the operator fixed.
        cores: the cores that this process may use.
        known: the plan of an earlier start.
        finite: whether answers have to be finite numbers.
        side: how long the graph's free axes are where it has any.

    Raises:
        InvalidModel: the graph fails on noise, or an answer has not as many rows as were sent, or is not finite.
        ImagoError: as `open_with` does.
    """
    try:
        return _made_ready(open_with, choices, cores, known, finite, side)
    except SessionFault as fault:
        raise InvalidModel(f"The graph fails on noise: {str(fault)[:300]}") from fault


def _made_ready(
    open_with: Callable[[int], Session], choices: Choices, cores: int, known: Plan | None, finite: bool, side: int
) -> Ready:
    plan = known or _measured(open_with, choices, cores, side)
    with ExitStack() as failing:
        crowd = _opened(open_with, plan.threads, failing)
        lone = crowd if plan.lone_threads == plan.threads else _opened(open_with, plan.lone_threads, failing)
        _warm(lone, noise(lone.inputs, 1, side), 1, finite)
        for rows in _warm_sizes(crowd.device, plan.max_batch_size):
            _warm(crowd, noise(crowd.inputs, rows, side), plan.concurrency, finite)
        failing.pop_all()
    return Ready(plan, lone, crowd, finite)


def _measured(open_with: Callable[[int], Session], choices: Choices, cores: int, side: int) -> Plan:
    """The plan for sessions that are opened for measuring only: theirs is the memory of every batch size tried."""
    with _ONE_AT_A_TIME, ExitStack() as measuring:
        first = _opened(open_with, choices.threads or 1, measuring)
        sessions = {choices.threads or 1: first}
        if not choices.threads and first.device == "cpu" and cores > 1:
            sessions[cores] = _opened(open_with, cores, measuring)
        limit = min(choices.max_batch_size or _LARGEST[first.device], _rows_taken(first))
        splits = [
            Split(threads, callers)
            for threads in sessions
            for callers in _callers(threads, choices.concurrency, first.device, cores)
        ]
        times = measure(sessions, splits, [1 << power for power in range(limit.bit_length())], side)
        lone_threads, split = share_cores(times)
        seconds = dict(times.load[split])
        rows = limit if choices.max_batch_size else best_rows(seconds)
        if rows not in seconds:
            seconds |= {rows: time_batch(sessions, split, rows, side)}
    timed = {count: spent for count, spent in seconds.items() if count <= rows}
    return Plan(lone_threads, split.threads, split.callers, rows, times.lone[lone_threads], timed)


def share_cores(times: Times) -> tuple[int, Split]:
    """Threads for a lone row, and the way to share the cores that gives most rows under load; one session if equal."""
    rates = {
        split: split.rate(best_rows(seconds), seconds[best_rows(seconds)]) for split, seconds in times.load.items()
    }
    soonest = min(times.lone, key=lambda threads: times.lone[threads])

    def alone_too(split: Split) -> bool:
        return times.lone[split.threads] * _SOONER <= times.lone[soonest]

    equal = [split for split, rate in rates.items() if rate >= _ONE_SESSION * max(rates.values())]
    best = max(equal, key=lambda split: (alone_too(split), rates[split]))
    return best.threads if alone_too(best) else soonest, best


def best_rows(seconds: Mapping[int, float]) -> int:
    """The batch size that pays: the smallest of those that give most rows a second, all their costs counted."""
    costs = {rows: (spent + _AROUND_SECONDS) / rows for rows, spent in seconds.items()}
    slow = {rows for rows, spent in seconds.items() if spent > _SLOW_SECONDS and rows > 1}
    best = min(cost for rows, cost in costs.items() if rows not in slow)
    chosen = min(rows for rows, cost in costs.items() if rows not in slow and cost * _EQUAL <= best)
    for rows in sorted(slow):
        if costs[rows] <= _SAVED_IF_SLOW * costs[chosen]:
            chosen = rows
    return chosen


def _callers(threads: int, chosen: int | None, device: Device, cores: int) -> Sequence[int]:
    if chosen:
        return (chosen,)
    if device == "cuda":
        return 1, 2  # the second batch is copied while the first is computed
    return (cores,) if threads == 1 or cores == 1 else (1, cores)


def _rows_taken(session: Session) -> int:
    """The most rows that the graph takes: some are exported for exactly one."""
    fixed = [spec.shape[0] for spec in session.inputs if spec.shape and spec.shape[0] is not None]
    for rows in fixed:
        if rows != 1:
            raise InvalidModel(f"The graph takes batches of {rows} rows only: export it with a free first dimension.")
    return 1 if fixed else 1 << 20


def _warm_sizes(device: Device, limit: int) -> list[int]:
    """Sizes to run before anybody waits: on CUDA every one that will ever run, elsewhere those that take the memory."""
    powers = [1 << power for power in range(limit.bit_length())] if device == "cuda" else [1]
    return sorted({*powers, limit})


def _warm(session: Session, batch: Tensors, callers: int, finite: bool) -> None:
    at_once(callers, lambda: check(session, batch, finite))


def _opened(open_with: Callable[[int], Session], threads: int, stack: ExitStack) -> Session:
    session = open_with(threads)
    stack.callback(session.close)
    return session
