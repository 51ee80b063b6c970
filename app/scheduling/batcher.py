"""Carries out what the lane decides: callers await their rows, sessions run batches, each one at a time.

A session that is free takes what waits; while it runs, the next batch gathers. There is no timer unless the operator
sets one.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, Protocol

from app.errors import DeadlineExceeded, InferenceFailed, NotReady, Overloaded
from app.scheduling.policy import Job, Lane, Picked
from app.scheduling.runners import InThreads, OnLoop, Run, Runner, Tell
from app.scheduling.watch import Watch
from app.telemetry.logs import request_id
from app.telemetry.metrics import ModelMetrics
from app.tensors import BatchBuffer, Tensors, split

logger = logging.getLogger("imago.scheduling")


class Runs(Protocol):
    """What a worker needs of a session."""

    def run(self, tensors: Tensors) -> Tensors:
        """Run one batch, in any thread, several at once."""


@dataclass(frozen=True)
class Sessions:
    """Who runs the batches of one lane, and how."""

    crowd: Runs
    lone: Runs | None = None
    """Runs a batch while nothing else runs or waits; quicker for one, not for many."""
    concurrency: int = 1
    brief: bool = False
    """Whether a row alone takes so little that the event loop's thread may run it."""
    inline: bool = False
    """Run on the event loop's thread, one batch at a time: a hop to another thread and back costs more than it saves
    while a batch takes less than a few milliseconds, and requests that come meanwhile form the next batch."""


@dataclass(frozen=True)
class Finished:
    """The rows that came back for one job, and where its time went."""

    tensors: Tensors
    queue_seconds: float
    run_seconds: float


Outcome = Finished | Exception
"""What becomes of a job: its rows, or the error that its caller is to get."""
Deliver = Callable[[Outcome], None]
Drop = Callable[[], None]
"""Called when the caller of a job has left: nothing is delivered any more."""


@dataclass(eq=False, kw_only=True)
class Ticket(Job):
    """A job, and who wants to know what became of it."""

    deliver: Deliver
    """Called once on the loop's thread, unless the caller left."""
    request: str = field(default_factory=request_id.get)
    """Under whose id a failure is logged."""

    def end(self, outcome: Outcome) -> None:
        """Deliver, unless the caller left; a caller that fails over it does not disturb its neighbours."""
        if self.abandoned:
            return
        try:
            self.deliver(outcome)
        except Exception:
            logger.exception("an answer could not be delivered")


class RowsMismatch(Exception):
    """A session gave back another number of rows than it took."""


class _Ran(NamedTuple):
    """Jobs that ran together, and what became of them."""

    tickets: Sequence[Ticket]
    outcomes: Sequence[Outcome]
    seconds: float | None
    """Of their batch; None where it failed."""


class Batcher:
    """One lane, and who runs its batches. Used from one event loop, on which alone callers and metrics are told."""

    def __init__(
        self,
        name: str,
        sessions: Sessions,
        lane: Lane[Ticket],
        metrics: ModelMetrics,
        clock: Callable[[], float] = time.monotonic,
        seconds_per_byte: float = 0.0,
    ) -> None:
        self.name = name
        self.lane = lane
        self._sessions = sessions
        self._metrics = metrics
        self._clock = clock
        self._watch = Watch(clock, seconds_per_byte)
        self.changed = threading.Condition()
        """Guards the lane and the number of idle sessions."""
        self._idle = 1 if sessions.inline else sessions.concurrency
        self._closing = False
        rows = lane.limits.max_batch_size
        self._runner: Runner = (
            OnLoop(self, rows) if sessions.inline else InThreads(self, rows, sessions.concurrency, sessions.brief, name)
        )

    def __repr__(self) -> str:
        return f"<Batcher {self.name}: {self.lane.waiting} waiting, {self.lane.running} running>"

    def admit(self, rows: int, deadline: float, ahead: int = 0) -> None:
        """Refuse early what could not be answered by `deadline` (of this batcher's clock), after `ahead` rows that were
        admitted and are still being decoded.

        Raises:
            NotReady: the batcher is closing.
            Overloaded: the queue is too long; nothing of the job was kept.
        """
        if self._closing:
            raise NotReady(f"Model {self.name} is being unloaded: retry.")
        try:
            self.lane.admit(rows, deadline, self._clock(), ahead)
        except Overloaded:
            self._metrics.rejected.inc()
            raise

    async def submit(self, tensors: Tensors, rows: int, deadline: float) -> Finished:
        """Wait for one job's turn and return its rows. Cancelling the caller drops the job; its neighbours run.

        Raises:
            NotReady, Overloaded: as `admit`.
            DeadlineExceeded: the deadline passed before the job's turn.
            InferenceFailed: the session failed on this job, run alone.
        """
        return await outcome_of(partial(self.start, tensors, rows, deadline))

    def start(self, tensors: Tensors, rows: int, deadline: float, deliver: Deliver) -> Drop:
        """`submit` without a coroutine: `deliver` gets what it returns or raises. Returns what drops the job again.

        Raises:
            NotReady, Overloaded: as `admit`.
        """
        return partial(self.drop, self.enqueue(tensors, rows, deadline, deliver))

    def enqueue(self, tensors: Tensors, rows: int, deadline: float, deliver: Deliver) -> Ticket:
        """`start`, for a caller that wants to see how far its job is.

        Raises:
            NotReady, Overloaded: as `admit`.
        """
        self.admit(rows, deadline)
        ticket = Ticket(tensors=tensors, rows=rows, deadline=deadline, arrived=self._clock(), deliver=deliver)
        with self.changed:
            self.lane.add(ticket)
            self._runner.wake()
        self._metrics.queue_depth.set(self.lane.waiting)
        return ticket

    def drop(self, ticket: Ticket) -> None:
        """Forget a job whose caller left; if it runs already its rows are thrown away."""
        if not self.withdraw(ticket):
            self._metrics.cancelled.inc()
            ticket.abandoned = True

    def withdraw(self, ticket: Ticket) -> bool:
        """Forget a job that waits, so that nobody reads its tensors any more; False where it runs, or ran."""
        with self.changed:
            waited = self.lane.forget(ticket)
        if waited:
            self._metrics.cancelled.inc()
            self._metrics.queue_depth.set(self.lane.waiting)
        return waited

    def fault(self) -> str:
        """What is wrong with whoever runs the jobs that only a new process can mend; empty if nothing is."""
        if not self._runner.lives():
            return "A thread that runs batches has ended."
        return "A batch does not come back." if self._watch.overdue() else ""

    async def close(self) -> None:
        """Take nothing more, run what waits, and stop."""
        self._closing = True
        await self._runner.close()

    def pause(self) -> float | None:
        """As `app.scheduling.runners.Work.pause`."""
        if not self.lane.waiting:
            return None
        return 0.0 if self._closing else self.lane.hold(self._clock())

    def lone(self) -> bool:
        """As `app.scheduling.runners.Work.lone`."""
        return self.lane.waiting == 1 and not self.lane.running

    def pick(self) -> Run:
        """As `app.scheduling.runners.Work.pick`."""
        started = self._clock()
        picked = self.lane.take(started, self._idle)
        self._idle -= 1
        alone = not self.lane.waiting and self.lane.running == sum(ticket.rows for ticket in picked.batch)
        session = (self._sessions.lone if alone else None) or self._sessions.crowd
        return partial(self._run, picked, session, started)

    def _run(self, picked: Picked[Ticket], session: Runs, started: float, buffer: BatchBuffer) -> Tell:
        """Run what was picked, in any thread; returns what tells its callers."""
        done = list(self._run_together(session, picked.batch, started, buffer)) if picked.batch else []
        rows = sum(ticket.rows for ticket in picked.batch)
        with self.changed:
            self._idle += 1
            if rows:
                now = self._clock()
                self.lane.finished(rows, now - started, now)
        return partial(self._tell, picked, started, done)

    def _tell(self, picked: Picked[Ticket], started: float, done: Sequence[_Ran]) -> None:
        """Deliver, and count, on the loop's thread."""
        metrics = self._metrics
        metrics.queue_depth.set(self.lane.waiting)
        for ticket in picked.expired:
            metrics.expired.inc()
            ticket.end(DeadlineExceeded())
        for ran in done:
            if ran.seconds is not None:
                metrics.inference.observe(ran.seconds)
                rows = sum(ticket.rows for ticket in ran.tickets)
                metrics.batch_size.observe(rows)
                metrics.batches.observe(rows, ran.seconds)
            for ticket, outcome in zip(ran.tickets, ran.outcomes, strict=True):
                metrics.queue.observe(started - ticket.arrived)
                ticket.end(outcome)

    def _run_together(
        self, session: Runs, batch: Sequence[Ticket], started: float, buffer: BatchBuffer
    ) -> Iterator[_Ran]:
        """Run jobs together; where that fails, run each half, so that a poisoned job fails alone."""
        counts = [ticket.rows for ticket in batch]
        try:
            tensors = buffer.fill([ticket.tensors for ticket in batch])
            self._watch.begin(tensors)
            try:
                outputs = _run_rows(session, tensors, sum(counts), buffer)
            finally:
                seconds = self._watch.end()
            parts = split(outputs, counts)
        except Exception as error:  # whatever a backend raises must reach its caller, not end the runner
            yield from self._after_failure(session, batch, started, buffer, error)
            return
        finished = [
            Finished(part, started - ticket.arrived, seconds) for ticket, part in zip(batch, parts, strict=True)
        ]
        yield _Ran(batch, finished, seconds)

    def _after_failure(
        self, session: Runs, batch: Sequence[Ticket], started: float, buffer: BatchBuffer, error: Exception
    ) -> Iterator[_Ran]:
        if len(batch) > 1:
            logger.warning("%s failed on a batch of %d jobs, running its halves: %s", self.name, len(batch), error)
            half = len(batch) // 2
            yield from self._run_together(session, batch[:half], started, buffer)
            yield from self._run_together(session, batch[half:], started, buffer)
            return
        token = request_id.set(batch[0].request)
        logger.error("%s failed on one job", self.name, exc_info=error)
        request_id.reset(token)
        yield _Ran(batch, [InferenceFailed()], None)


async def outcome_of(start: Callable[[Deliver], Drop]) -> Finished:
    """Await what a job that is started so comes to; cancelled, drop it."""
    future: asyncio.Future[Finished] = asyncio.get_running_loop().create_future()

    def deliver(outcome: Outcome) -> None:
        if future.done():
            return
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    drop = start(deliver)
    try:
        return await future
    except asyncio.CancelledError:
        drop()
        raise


def _run_rows(session: Runs, tensors: Tensors, rows: int, buffer: BatchBuffer) -> Tensors:
    """Run a batch, and check that as many rows came back."""
    outputs = session.run(tensors)
    for name, array in outputs.items():
        if array.ndim == 0 or array.shape[0] != rows:
            raise RowsMismatch(f"{rows} rows went in, output {name!r} has shape {array.shape}")
    return {name: array.copy() if buffer.holds(array) else array for name, array in outputs.items()}
