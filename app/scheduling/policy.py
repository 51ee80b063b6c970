"""Who runs next, and who is refused: plain decisions over the jobs waiting for one model.

No asyncio, no clock, no thread: every method is told the time, in seconds of a monotonic clock.
"""

import heapq
import itertools
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from app.errors import DeadlineExceeded, Overloaded
from app.scheduling.pace import Pace
from app.tensors import Tensors, row_shape

CAUTION = 1.25
"""An expected wait may last so many times as long: what no estimate knows (a busy event loop, the decoding of others,
batches slower than the last ones) grows with the load that makes the wait."""
PATIENT = sys.float_info.max
"""The deadline of a job that has time: it runs when nothing else waits, nobody is refused for it, and it is not refused
itself; whoever submits such jobs bounds them. (JSON, in which deadlines travel, knows no infinity.)"""
_URGENT = math.nextafter(PATIENT, 0)
_SHRUNK_SECONDS = 60.0
"""For so long batches are smaller than one for which there was no memory: others may need it for longer."""


@dataclass(eq=False, kw_only=True)
class Job:
    """One caller's tensors, waiting to run."""

    tensors: Tensors
    rows: int
    deadline: float
    arrived: float
    queued: bool = False
    abandoned: bool = False
    shape: tuple[object, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.shape = row_shape(self.tensors)


JobT = TypeVar("JobT", bound=Job)


@dataclass
class Picked(Generic[JobT]):
    """What `Lane.take` decided: these run now, these have waited too long."""

    batch: list[JobT]
    expired: list[JobT]


@dataclass(frozen=True)
class Limits:
    """What bounds a lane: rows in a batch, seconds that a batch may wait to fill, seconds that a queue may last, and
    how many batches run at once."""

    max_batch_size: int = 16
    max_queue_delay: float = 0.0
    max_queue_seconds: float = 5.0
    concurrency: int = 1


class Lane(Generic[JobT]):
    """The jobs that wait for the sessions of one model; earliest deadline first, equal row shapes together. Those that
    have time (`PATIENT`) come last, in batches of their own: no caller's batch is larger for them."""

    def __init__(self, limits: Limits = Limits(), measured: Mapping[int, float] | None = None) -> None:
        self.limits = limits
        self.pace = Pace(limits.max_batch_size, limits.concurrency, measured)
        self.waiting = 0
        self.patient = 0
        """Those of the waiting rows that have time."""
        self.running = 0
        self._heaps: dict[tuple[object, ...], list[tuple[float, int, JobT]]] = {}
        self._order = itertools.count()
        self._left = 0
        """Jobs that still lie in a heap though their callers left."""
        self._busy_since: float | None = None
        """When the last batch ended, if rows have waited ever since."""
        self._shrunk = limits.max_batch_size
        self._shrunk_until = -math.inf

    def __repr__(self) -> str:
        return f"<Lane: {self.waiting} waiting, {self.running} running>"

    def expected(self, rows: int) -> float:
        """Seconds until `rows` more rows would be answered, from what the last batches took; 0 before the first. Rows
        that have time let them pass."""
        return (self.waiting - self.patient + self.running + rows) * self.pace.row_seconds + self.pace.batch_seconds

    def admit(self, rows: int, deadline: float, now: float, ahead: int = 0) -> None:
        """Refuse at once what could not be answered in time, so that those already waiting are; `ahead` rows more were
        admitted and are still being decoded.

        Raises:
            DeadlineExceeded: it has passed: what was admitted before took too long to come, or to be decoded.
            Overloaded: the queue would last too long, or beyond the deadline.
        """
        if not ahead and self.waiting == self.patient and now < deadline:
            return
        if deadline >= PATIENT:
            return
        if now >= deadline:
            raise DeadlineExceeded
        wait = self.expected(ahead + rows)
        if wait > self.limits.max_queue_seconds or now + CAUTION * wait > deadline:
            raise Overloaded(retry_after=wait)

    def add(self, job: JobT) -> None:
        """Let a job wait."""
        heapq.heappush(self._heaps.setdefault(job.shape, []), (job.deadline, next(self._order), job))
        job.queued = True
        self.waiting += job.rows
        if job.deadline >= PATIENT:
            self.patient += job.rows

    def forget(self, job: JobT) -> bool:
        """Drop a job whose caller left, where it lies; False where it does not wait (any more)."""
        if not job.queued or job.abandoned:
            return False
        self.waiting -= job.rows
        if job.deadline >= PATIENT:
            self.patient -= job.rows
        job.abandoned = True
        self._left += 1
        if 2 * self._left > sum(map(len, self._heaps.values())):
            self._clear()
        return True

    def _clear(self) -> None:
        """Let go of what callers who left have sent, before its turn comes: so there is never more of it than of what
        waits, and it costs each of them a few steps."""
        self._heaps = {shape: [one for one in heap if not one[2].abandoned] for shape, heap in self._heaps.items()}
        for heap in self._heaps.values():
            heapq.heapify(heap)
        self._left = 0

    def hold(self, now: float) -> float:
        """Seconds that a free session should still leave the jobs gathering; 0 where it should take them now."""
        if not self.limits.max_queue_delay or self.waiting >= self.limits.max_batch_size:
            return 0.0
        here = (job for heap in self._heaps.values() for _, _, job in heap if not job.abandoned)
        oldest = min((job.arrived for job in here), default=now)
        return max(0.0, oldest + self.limits.max_queue_delay - now)

    def take(self, now: float, idle: int = 1) -> Picked[JobT]:
        """Take the next batch for one of `idle` free sessions, leaving the others their share.

        The batch has the shape of the job with the earliest deadline, and at most `max_batch_size` rows (fewer for a
        while after `shrink`) unless its first job alone has more.
        """
        picked: Picked[JobT] = Picked([], [])
        most = self._shrunk if now < self._shrunk_until else self.limits.max_batch_size
        room = min(most, max(1, math.ceil(self.waiting / max(1, idle))))
        while not picked.batch and (heap := self._earliest()):
            latest = math.inf
            while heap and room > 0 and heap[0][0] <= latest and (not picked.batch or heap[0][2].rows <= room):
                job = heapq.heappop(heap)[2]
                job.queued = False
                if job.abandoned:
                    self._left -= 1
                    continue
                self.waiting -= job.rows
                if job.deadline >= PATIENT:
                    self.patient -= job.rows
                else:
                    latest = _URGENT
                    if job.deadline <= now:
                        picked.expired.append(job)
                        continue
                picked.batch.append(job)
                room -= job.rows
        self.running += sum(job.rows for job in picked.batch)
        return picked

    def shrink(self, rows: int, now: float) -> None:
        """Take less than so many rows at once for a while: there was no memory for them."""
        most = max(1, rows // 2)
        self._shrunk = min(self._shrunk, most) if now < self._shrunk_until else most
        self._shrunk_until = now + _SHRUNK_SECONDS

    def finished(self, rows: int, seconds: float, now: float) -> None:
        """Learn from a batch that ended, whether well or not."""
        self.running -= rows
        self.pace.learn(rows, seconds, None if self._busy_since is None else now - self._busy_since)
        # Rows that are held for others to join them wait, and nobody is busy.
        self._busy_since = now if self.waiting and not self.limits.max_queue_delay else None

    def _earliest(self) -> list[tuple[float, int, JobT]] | None:
        """The heap, of one row shape, whose first job has the earliest deadline."""
        self._heaps = {shape: heap for shape, heap in self._heaps.items() if heap}
        return min(self._heaps.values(), key=lambda heap: heap[0][:2], default=None)
