"""Carries out what the lane decides: callers await their rows, workers run batches, each one at a time.

A worker that is free takes what waits; while it runs, the next batch gathers. There is no timer unless the operator
sets one.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from app.errors import DeadlineExceeded, InferenceFailed, NotReady, Overloaded
from app.scheduling.policy import Job, Lane
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


class Batcher:
    """One lane, and the workers that serve it. Used from one event loop."""

    def __init__(
        self,
        name: str,
        sessions: Sessions,
        lane: Lane[Ticket],
        metrics: ModelMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.lane = lane
        self._sessions = sessions
        self._metrics = metrics
        self._clock = clock
        self._idle = workers = 1 if sessions.inline else sessions.concurrency
        self._closing = False
        self._arrived = asyncio.Event()
        self._threads = None if sessions.inline else ThreadPoolExecutor(workers, thread_name_prefix=f"imago-{name}")
        self._workers = [asyncio.create_task(self._work()) for _ in range(workers)]

    def __repr__(self) -> str:
        return f"<Batcher {self.name}: {self.lane.waiting} waiting, {self.lane.running} running>"

    def admit(self, rows: int, deadline: float) -> None:
        """Refuse early what could not be answered by `deadline` (of this batcher's clock).

        Raises:
            NotReady: the batcher is closing.
            Overloaded: the queue is too long; nothing of the job was kept.
        """
        if self._closing:
            raise NotReady(f"Model {self.name} is being unloaded: retry.")
        try:
            self.lane.admit(rows, deadline, self._clock())
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
        self.lane.add(ticket)
        self._metrics.queue_depth.set(self.lane.waiting)
        self._arrived.set()
        return ticket

    def drop(self, ticket: Ticket) -> None:
        """Forget a job whose caller left."""
        self._metrics.cancelled.inc()
        if self.lane.forget(ticket):
            self._metrics.queue_depth.set(self.lane.waiting)

    async def close(self) -> None:
        """Take nothing more, run what waits, and stop."""
        self._closing = True
        self._arrived.set()
        await asyncio.gather(*self._workers)
        if self._threads is not None:
            self._threads.shutdown()

    async def _work(self) -> None:
        buffer = BatchBuffer(self.lane.limits.max_batch_size)
        while True:
            await self._arrived.wait()
            if self._threads is None:
                await asyncio.sleep(0)  # the loop answers the last batch and reads what came while it ran
            if hold := 0.0 if self._closing else self.lane.hold(self._clock()):
                await self._gather(hold)
                continue
            picked = self.lane.take(self._clock(), self._idle)
            self._metrics.queue_depth.set(self.lane.waiting)
            for job in picked.expired:
                self._metrics.expired.inc()
                job.end(DeadlineExceeded())
            if picked.batch:
                await self._run_batch(picked.batch, buffer)
            elif self._closing:
                return
            elif not self.lane.waiting:
                self._arrived.clear()

    async def _gather(self, seconds: float) -> None:
        """Wait for another job, but not longer than an operator's delay allows."""
        self._arrived.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._arrived.wait(), seconds)
        self._arrived.set()

    async def _run_batch(self, batch: list[Ticket], buffer: BatchBuffer) -> None:
        self._idle -= 1
        started = self._clock()
        rows = sum(ticket.rows for ticket in batch)
        for ticket in batch:
            self._metrics.queue.observe(started - ticket.arrived)
        alone = self.lane.running == rows and not self.lane.waiting
        session = (self._sessions.lone if alone else None) or self._sessions.crowd
        try:
            await self._run(session, batch, started, buffer)
        finally:
            self._idle += 1
            self.lane.finished(rows, self._clock() - started)

    async def _run(self, session: Runs, batch: list[Ticket], started: float, buffer: BatchBuffer) -> None:
        """Run jobs together; where that fails, run each half, so that a poisoned job fails alone."""
        begun = self._clock()
        counts = [ticket.rows for ticket in batch]
        try:
            outputs = await self._near(lambda: _run_rows(session, batch, sum(counts), buffer))
        except Exception as error:  # whatever a backend raises must reach its caller, not end the worker
            await self._after_failure(session, batch, started, buffer, error)
            return
        seconds = self._clock() - begun
        self._metrics.inference.observe(seconds)
        self._metrics.batch_size.observe(sum(counts))
        for ticket, part in zip(batch, split(outputs, counts), strict=True):
            ticket.end(Finished(part, started - ticket.arrived, seconds))

    async def _near(self, work: Callable[[], Tensors]) -> Tensors:
        """Run a batch where this lane's batches run."""
        if self._threads is None:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _after_failure(
        self, session: Runs, batch: list[Ticket], started: float, buffer: BatchBuffer, error: Exception
    ) -> None:
        if len(batch) == 1:
            token = request_id.set(batch[0].request)
            logger.error("%s failed on one job", self.name, exc_info=error)
            request_id.reset(token)
            batch[0].end(InferenceFailed())
            return
        logger.warning("%s failed on a batch of %d jobs, running its halves: %s", self.name, len(batch), error)
        half = len(batch) // 2
        await self._run(session, batch[:half], started, buffer)
        await self._run(session, batch[half:], started, buffer)


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


def _run_rows(session: Runs, batch: Sequence[Ticket], rows: int, buffer: BatchBuffer) -> Tensors:
    """Copy the jobs into one batch, run it, and check that as many rows came back."""
    outputs = session.run(buffer.fill([ticket.tensors for ticket in batch]))
    for name, array in outputs.items():
        if array.ndim == 0 or array.shape[0] != rows:
            raise RowsMismatch(f"{rows} rows went in, output {name!r} has shape {array.shape}")
    return {name: array.copy() if buffer.holds(array) else array for name, array in outputs.items()}
