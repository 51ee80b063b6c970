"""Carries out what the lane decides: callers await their rows, sessions run batches, each one at a time.

A session that is free takes what waits; while it runs, the next batch gathers. There is no timer unless the operator
sets one.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from app.errors import DeadlineExceeded, NotReady, Overloaded
from app.scheduling.attempts import BROKEN, LOST, Attempts, Ran, Runs
from app.scheduling.policy import PATIENT, Lane, Picked
from app.scheduling.runners import InThreads, OnLoop, Run, Runner, Tell
from app.scheduling.tickets import Deliver, Drop, Finished, Outcome, Ticket
from app.scheduling.watch import Watch
from app.telemetry.metrics import ModelMetrics
from app.tensors import BatchBuffer, Tensors

__all__ = ["Batcher", "Deliver", "Drop", "Finished", "Outcome", "Runs", "Sessions", "Ticket", "outcome_of"]

_BROKEN = 3
"""So many jobs in a row that failed, each alone, may be the fault of their session."""


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
        self._attempts = Attempts(name, clock, self._watch, self._shrink)
        self.changed = threading.Condition()
        """Guards the lane and the number of idle sessions."""
        self._idle = 1 if sessions.inline else sessions.concurrency
        self._closing = False
        self._suspended = False
        self._told = asyncio.Event()
        """Batches ended while no new ones are begun."""
        self._noted = 0
        """Waiting rows in the metric of the model, which may have other versions and their lanes."""
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
            NotReady: the batcher is closing, or its sessions run nothing any more.
            DeadlineExceeded: it has passed already.
            Overloaded: the queue is too long; nothing of the job was kept.
        """
        if self._closing:
            raise NotReady(f"Model {self.name} is being unloaded: retry.")
        if self._attempts.gone:
            raise NotReady(self._attempts.gone, retry_after=5)
        try:
            self.lane.admit(rows, deadline, self._clock(), ahead)
        except DeadlineExceeded:
            self._metrics.expired.inc()
            raise
        except Overloaded:
            self._metrics.rejected.inc()
            raise

    async def submit(self, tensors: Tensors, rows: int, deadline: float) -> Finished:
        """Wait for one job's turn and return its rows. Cancelling the caller drops the job; its neighbours run.

        Raises:
            NotReady, Overloaded: as `admit`.
            DeadlineExceeded: the deadline passed before the job's turn, or earlier.
            InferenceFailed, InsufficientMemory: the session failed on this job, run alone.
        """
        return await outcome_of(partial(self.start, tensors, rows, deadline))

    def start(self, tensors: Tensors, rows: int, deadline: float, deliver: Deliver) -> Drop:
        """`submit` without a coroutine: `deliver` gets what it returns or raises. Returns what drops the job again.

        Raises:
            NotReady, DeadlineExceeded, Overloaded: as `admit`.
        """
        return partial(self.drop, self.enqueue(tensors, rows, deadline, deliver))

    def enqueue(self, tensors: Tensors, rows: int, deadline: float, deliver: Deliver) -> Ticket:
        """`start`, for a caller that wants to see how far its job is.

        Raises:
            NotReady, DeadlineExceeded, Overloaded: as `admit`.
        """
        self.admit(rows, deadline)
        ticket = Ticket(tensors=tensors, rows=rows, deadline=deadline, arrived=self._clock(), deliver=deliver)
        with self.changed:
            self.lane.add(ticket)
            self._runner.wake()
        self._note_depth()
        return ticket

    def drop(self, ticket: Ticket) -> None:
        """Forget a job whose caller left; if it runs already its rows are thrown away."""
        if not self.withdraw(ticket):
            ticket.abandoned = True

    def withdraw(self, ticket: Ticket) -> bool:
        """The caller of a job left: forget it where it waits, so that nobody reads its tensors any more; False where it
        runs, or ran."""
        with self.changed:
            waited = self.lane.forget(ticket)
        self._metrics.cancelled.inc()
        if waited:
            self._note_depth()
        return waited

    def waiting(self) -> int:
        """Rows that wait for a session."""
        return self.lane.waiting

    def fault(self) -> str:
        """What is wrong with whoever runs the jobs that only a new process can mend; empty if nothing is."""
        if self.lost:
            return "A device was lost."
        if not self._runner.lives():
            return "A thread that runs batches has ended."
        return "A batch does not come back." if self._watch.overdue() else ""

    @property
    def lost(self) -> bool:
        """Whether the device of the sessions runs nothing any more."""
        return self._attempts.gone == LOST

    @property
    def failing(self) -> bool:
        """Whether the sessions may be broken: one job after the other failed."""
        return self._attempts.failures >= _BROKEN

    async def suspend(self) -> None:
        """Begin no batch until `renew`, jobs wait; come back when none runs any more."""
        with self.changed:  # a thread that is picking a batch has begun it
            self._suspended = True
        while self.lane.running:
            self._told.clear()
            await self._told.wait()

    def renew(self, sessions: Sessions | None = None) -> None:
        """Go on with these sessions, opened in the same way, or with the same ones: they are well."""
        self._sessions = sessions or self._sessions
        self._attempts.failures = 0
        self._resume()

    def give_up(self) -> None:
        """There are no sessions to go on with: refuse what waits, and what comes."""
        self._attempts.gone = BROKEN
        self._resume()

    def _resume(self) -> None:
        with self.changed:
            self._suspended = False
            self._runner.wake()
            self.changed.notify_all()

    async def close(self) -> None:
        """Take nothing more, run what waits, and stop."""
        self._closing = True
        self._resume()
        await self._runner.close()

    def pause(self) -> float | None:
        """As `app.scheduling.runners.Work.pause`."""
        if not self.lane.waiting or self._suspended:
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
        done = list(self._attempts.run(session, picked.batch, started, buffer)) if picked.batch else []
        rows = sum(ticket.rows for ticket in picked.batch)
        with self.changed:
            self._idle += 1
            if rows:
                now = self._clock()
                self.lane.finished(rows, now - started, now)
        return partial(self._tell, picked, started, done)

    def _note_depth(self) -> None:
        waiting = self.lane.waiting
        self._metrics.queue_depth.add(waiting - self._noted)
        self._noted = waiting

    def _shrink(self, rows: int) -> None:
        """There was no memory for so many rows."""
        with self.changed:
            self.lane.shrink(rows, self._clock())

    def _tell(self, picked: Picked[Ticket], started: float, done: Sequence[Ran]) -> None:
        """Deliver, and count, on the loop's thread."""
        metrics = self._metrics
        self._note_depth()
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
                if ticket.deadline < PATIENT:  # nobody waits for the others
                    metrics.queue.observe(started - ticket.arrived)
                ticket.end(outcome)
        if self._suspended:
            self._told.set()


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
