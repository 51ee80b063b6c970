"""Has the jobs answered, in one process of the service: whichever holds the lock, which the kernel passes on.

Every picture goes through the same servable as that of a caller, behind all who wait for an answer (`PATIENT`). What
was answered is in the journal of its job: whoever takes over goes on from there.
"""

import asyncio
import fcntl
import logging
import sqlite3
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from typing import IO, Final, Protocol

from app.batch.answering import Answering
from app.batch.journal import Journal, JournalHeld
from app.batch.outputs import write_output
from app.batch.records import Record
from app.batch.run import Note, answer_all
from app.batch.sources import Zip
from app.errors import (
    InsufficientMemory,
    InternalError,
    InvalidBatch,
    JobTooLarge,
    NotReady,
    Overloaded,
    ServiceError,
)
from app.jobs.job import BackgroundJob
from app.jobs.store import JOURNAL, LOCK, PICTURES, RESULTS, JobStore
from app.manifest import Manifest
from app.repository.registry import Registry
from app.scheduling.policy import PATIENT
from app.servable import Prediction
from app.tasks import TASKS
from app.telemetry.logs import request_id
from app.telemetry.metrics import JobMetrics

logger = logging.getLogger("imago.jobs")

_LOOK_SECONDS: Final = 0.5
"""How often the lock is tried for, jobs are looked for that other processes took in, and progress is told."""
_CLEAN_SECONDS: Final = 60.0
_PAUSE_SECONDS: Final = 30.0
"""After a fault that is not the job's own, such as a full disk."""
_AT_ONCE: Final = 4
"""Jobs that run side by side, those of different keys first: one that waits for its model holds up few others."""
_LANES: Final = 16
"""Pictures of one job at a time. Small ones are decoded on the event loop, so it may take so many between two looks at
its callers: some 5 ms."""
_LARGE_BYTES: Final = 2**20
_LARGE_AT_ONCE: Final = 2
"""Of larger files, all jobs together: what they are decoded to takes from the memory that callers share."""
_PATIENCE_SECONDS: Final = 600.0
"""How long a picture waits for a model that cannot answer."""


class Charges(Protocol):
    """Who pays for what is done for a key: `app.security.charges`."""

    def owed(self, key: str) -> float:
        """Seconds until more may be done for a key; raises `Unauthenticated` where there is no such key any more."""

    def charge(self, key: str, pixels: int) -> None:
        """So many pixels were decoded for a key."""


class JobRunner:
    """Runs the jobs of a store with the models of a registry."""

    def __init__(
        self, store: JobStore, registry: Registry, most_bytes: int, metrics: JobMetrics, charges: Charges | None
    ) -> None:
        """With at most so many bytes in one picture; `charges` where keys are asked for."""
        self._store = store
        self._registry = registry
        self._most_bytes = most_bytes
        self._metrics = metrics
        self._charges = charges
        self._large = asyncio.Semaphore(_LARGE_AT_ONCE)
        self._running: dict[str, tuple[BackgroundJob, asyncio.Task[None]]] = {}
        self._news = asyncio.Event()

    def __repr__(self) -> str:
        return f"<JobRunner: {len(self._running)} running>"

    def wake(self) -> None:
        """There is a job more, or one less."""
        self._news.set()

    async def run(self) -> None:
        """Run jobs until cancelled; they go on where they stood when another process, or the next one, runs them."""
        with (self._store.folder / LOCK).open("ab") as lock:
            while not _is_ours(lock):  # noqa: ASYNC110 - another process holds it, and tells nobody of its end
                await asyncio.sleep(_LOOK_SECONDS)
            try:
                await self._serve()
            finally:
                tasks = [task for _, task in self._running.values()]
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                self._metrics.waiting.set(0)

    async def _serve(self) -> None:
        await self._registry.settled.wait()
        clean_at = 0.0
        while True:
            self._news.clear()
            try:
                if time.monotonic() >= clean_at:
                    clean_at = time.monotonic() + _CLEAN_SECONDS
                    await asyncio.to_thread(self._store.clean)
                self._start(await asyncio.to_thread(self._store.unended))
            except (OSError, sqlite3.Error) as error:
                logger.error("the jobs in %s cannot be looked for: %s", self._store.folder, error)
            await _wait(self._news, _LOOK_SECONDS)

    def _start(self, jobs: list[BackgroundJob]) -> None:
        """Start what there is room for; of several the one whose owner has fewest under way, then the oldest."""
        self._metrics.waiting.set(sum(job.pictures - job.answered - job.failed for job in jobs))
        waiting = [job for job in jobs if job.id not in self._running]
        while waiting and len(self._running) < _AT_ONCE:
            owners = [job.owner for job, _ in self._running.values()]
            job = min(waiting, key=lambda job: owners.count(job.owner))
            waiting.remove(job)
            task = asyncio.create_task(self._work(job))
            self._running[job.id] = job, task
            task.add_done_callback(partial(self._ended, job.id))

    def _ended(self, identity: str, _: "asyncio.Task[None]") -> None:
        del self._running[identity]
        self._news.set()

    async def _work(self, job: BackgroundJob) -> None:
        request_id.set(job.id)
        try:
            if await asyncio.to_thread(self._store.start, job):
                work = await asyncio.to_thread(_Work, self._store, job)
                try:
                    await self._answer(work)
                finally:
                    work.journal.close()
        except Exception as error:  # whatever one job trips over, the others go on, and this one later
            if _is_damage(error):
                logger.error("the files of job %s are damaged: %s", job.id, error)
                await asyncio.to_thread(self._store.spoil, job, InternalError())
                return
            known = isinstance(error, OSError | sqlite3.Error | JournalHeld)
            logger.error("job %s pauses: %s", job.id, error, exc_info=None if known else error)
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _answer(self, work: "_Work") -> None:
        """Have all pictures answered; until then tell how far it is, and hear whether it was removed."""
        answerer = _Answerer(work, self._registry, self._most_bytes, self._charges, self._large)
        names = [name for name in work.source.names if work.journal.waits(name)]
        answering = asyncio.create_task(answer_all(names, [answerer], self._noted(work)))
        try:
            while not answering.done():
                await asyncio.wait({answering}, timeout=_LOOK_SECONDS)
                if not await asyncio.to_thread(work.tell):
                    return
            error = answering.exception()
            if error is not None and not isinstance(error, ServiceError):
                raise error
            await asyncio.to_thread(work.finish, error)
            (self._metrics.done if error is None else self._metrics.failed).inc()
        finally:
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)

    def _noted(self, work: "_Work") -> Note:
        def note(records: Sequence[Record]) -> None:
            work.journal.append(records)
            for record in records:
                (self._metrics.unanswered if record.error else self._metrics.answered).inc()
            if work.journal.size > self._store.bounds.bytes:
                raise JobTooLarge(f"Its results are more than {self._store.bounds.bytes} bytes: send several jobs.")

        return note


class _Work:
    """A job that runs: its pictures, and what was answered. Blocks for as long as a disk does."""

    def __init__(self, store: JobStore, job: BackgroundJob) -> None:
        self.job = job
        self._store = store
        self.source = Zip(store.path(job, PICTURES), job.every)
        self.journal = Journal(store.path(job, JOURNAL), {"job": job.id})
        self._told = (-1, -1)

    def tell(self) -> bool:
        """Write down how far it is, where that is news; False where it was removed."""
        told, self._told = self._told, (self.journal.answered, len(self.journal.errors))
        return self._store.has(self.job) if told == self._told else self._store.progress(self.job, *self._told)

    def finish(self, error: ServiceError | None) -> None:
        """Write the results: a line for each picture, in the order of their names."""
        names = self.source.names
        write_output(
            self._store.path(self.job, RESULTS), lambda: self.journal.lines(names), TASKS[self.job.task].Answer
        )
        self._store.end(self.job, self.journal.answered, len(self.journal.errors), error)


class _Answerer(Answering):
    """Answers the pictures of one job by whoever serves its model then."""

    lanes = _LANES

    def __init__(
        self, work: _Work, registry: Registry, most_bytes: int, charges: Charges | None, large: asyncio.Semaphore
    ) -> None:
        super().__init__(work.source, most_bytes, None)
        self._job = work.job
        self._options = TASKS[work.job.task].Options.model_validate_json(work.job.options)
        self._registry = registry
        self._charges = charges if work.job.owner is not None else None
        self._large = large

    async def _predict(self, data: bytes) -> tuple[Manifest, Prediction]:
        await self._be_paid()
        room: AbstractAsyncContextManager[object] = self._large if len(data) > _LARGE_BYTES else nullcontext()
        async with room:
            manifest, prediction = await self._persist(data)
        if self._charges is not None and self._job.owner is not None and prediction.picture is not None:
            self._charges.charge(self._job.owner, prediction.picture.pixels)
        return manifest, prediction

    async def _be_paid(self) -> None:
        """Wait until what was done for the owner before is paid: its key may be limited."""
        while self._charges is not None and self._job.owner is not None:
            seconds = self._charges.owed(self._job.owner)
            if not seconds:
                return
            await asyncio.sleep(seconds)

    async def _persist(self, data: bytes) -> tuple[Manifest, Prediction]:
        """Ask again while the model is loaded or swapped, or there is no room: what was accepted is not refused."""
        begun = time.monotonic()
        while True:
            try:
                return await self._try(data)
            except (NotReady, Overloaded, InsufficientMemory) as error:
                if time.monotonic() - begun > _PATIENCE_SECONDS:
                    raise
                await asyncio.sleep(min(1.0, error.retry_after))

    async def _try(self, data: bytes) -> tuple[Manifest, Prediction]:
        servable = self._registry.get(self._job.task, self._job.model, self._job.version)
        servable.hold()
        try:
            return servable.manifest, await servable.predict(data, self._options, PATIENT)
        finally:
            servable.free()


def _is_damage(error: Exception) -> bool:
    """Whether a job failed over its files: not over a disk that is full, or too many open files, which will pass."""
    return isinstance(error, InvalidBatch | FileNotFoundError) and not isinstance(error, JournalHeld)


def _is_ours(lock: IO[bytes]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
