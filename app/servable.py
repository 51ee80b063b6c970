"""One loaded model version: the whole path of a call on one screen.

predict: open the picture -> Task.prepare -> Batcher.submit -> Session.run -> Task.interpret or draw
infer: Task.check -> Batcher.submit -> Session.run, for callers who speak tensors
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from app.errors import InvalidModel, InvalidRequest
from app.imaging.codec import Decoder, Picture
from app.manifest import GRAPH, PLAIN, Manifest, manifest_of, read_labels, read_verified
from app.mending import OwnSessions
from app.runtime import Device, Session, open_session, outside_files
from app.runtime.plan import Choices, Plan, Ready, make_ready
from app.runtime.plan_cache import PlanCache, plan_key
from app.runtime.probe import FREE_SIDE, noise
from app.runtime.trial import Trial
from app.runtime.whole import by_rows
from app.scheduling.batcher import Batcher, Deliver, Drop, Finished, Outcome, Sessions, Ticket
from app.scheduling.policy import Lane, Limits
from app.serving import ServingConfig
from app.signature import check_signature
from app.tasks import Graph, Prepared, Task, build_task
from app.tasks.base import JsonObject, Parts, TaskOptions
from app.telemetry.metrics import Metrics
from app.tensors import Tensors, TensorSpec, from_row, row_shape, split, stack, to_row

INLINE_SIZE = 128 * 128
"""Up to so many pixels, and bytes of a file, work on a picture stays on the event loop: preparing one of this size
costs two hops to a thread and back (83 us against 40 us, `benchmarks/decode_hop.py` on two shared cores), and a thread
would add one. Bytes count because a file of few pixels may have a header that takes seconds to read."""

INLINE_ROW_SECONDS = 0.0025
"""A model that takes no longer for a row runs on the event loop's thread: the way to another process and back would
cost a good part of that, and batches form while it runs."""
INLINE_BATCH_SECONDS = 0.008
"""Longest batch there: for so long probes, metrics and other models wait."""

Clock = Callable[[], float]
Result = TypeVar("Result")


class Timings(NamedTuple):
    """Seconds that one call spent in each stage."""

    decode: float
    queue: float
    inference: float
    encode: float

    def longest(self, other: "Timings | None") -> "Timings":
        """Of each stage the longer time, where several pictures were answered side by side."""
        return self if other is None else Timings(*map(max, self, other))


class Prediction(NamedTuple):
    """What one call came to: its results, or its drawing as PNG."""

    answer: list[JsonObject] | bytes
    timings: Timings
    picture: Picture | None
    """What it is about."""


@dataclass(frozen=True)
class Resources:
    """What all servables of one process share, and how their sessions are opened."""

    decoder: Decoder
    pool: Executor
    metrics: Metrics
    device: Device = "cpu"
    cores: int = 1
    threads: int | None = None
    concurrency: int | None = None
    max_queue_seconds: float = 5.0
    inline: bool = True
    """Whether small models may run on the event loop's thread. Where nobody waits for that, threads use more cores."""
    plans: PlanCache = field(default_factory=lambda: PlanCache(None))
    clock: Clock = time.monotonic
    signed_by: Path | None = None
    """The public key with which versions must be signed."""
    trial: Trial | None = None
    """How a graph is opened that was never opened before; None to open it here at once."""


@dataclass(frozen=True)
class Running:
    """How a version runs: where, on which tensors, by which plan."""

    device: Device
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    plan: Plan
    inline: bool
    """Whether batches run on the event loop's thread, in every process that answers."""

    @property
    def max_batch_size(self) -> int:
        """The largest batch: the plan's, or inline the largest that ends soon."""
        sizes = [
            rows
            for rows, seconds in self.plan.batch_seconds.items()
            if rows <= self.plan.max_batch_size and seconds <= INLINE_BATCH_SECONDS
        ]
        return max(sizes, default=1) if self.inline else self.plan.max_batch_size


class Jobs(Protocol):
    """Who runs the jobs of one version: a `Batcher` here, or a messenger to the one in another process."""

    def admit(self, rows: int, deadline: float, ahead: int = 0) -> None:
        """Refuse early what could not be answered by `deadline`, after `ahead` rows that are still being decoded;
        raises as `submit`."""

    async def submit(self, tensors: Tensors, rows: int, deadline: float) -> Finished:
        """Wait for one job's turn and return its rows; raises as `Batcher.submit`."""

    def start(self, tensors: Tensors, rows: int, deadline: float, deliver: Deliver) -> Drop:
        """`submit` without a coroutine; raises as `Batcher.start`."""

    def waiting(self) -> int:
        """Rows that wait for their turn."""

    def fault(self) -> str:
        """What is wrong with whoever runs them that only a new process can mend, in a sentence; empty if nothing is."""

    @property
    def lost(self) -> bool:
        """Whether that is their device."""

    @property
    def failing(self) -> bool:
        """Whether the sessions may be broken: one job after the other failed."""

    async def close(self) -> None:
        """Answer what was accepted and take nothing more."""


Mirror = Callable[[Prepared, TaskOptions | None, Tensors], None]
"""Called on the loop's thread after a call was answered, with its rows, its options (None where the caller made the
rows) and what came out; costs nobody time, and raises nothing."""


class Servable:
    """One loaded version: a task, and who runs its jobs."""

    def __init__(
        self,
        manifest: Manifest,
        task: Task[Any],
        running: Running,
        jobs: Jobs,
        resources: Resources,
        sessions: OwnSessions | None = None,
    ) -> None:
        self.manifest = manifest
        self.task = task
        self.running = running
        self.jobs = jobs
        self.inline = running.inline
        self.graph = Graph(_own(running.inputs, task.whole), _own(running.outputs, task.whole))
        """What callers of `infer` give and get."""
        self._sessions = sessions
        self._max_batch_size = running.max_batch_size
        self._decoding = 0
        self._decoder = resources.decoder
        self._pool = resources.pool
        self.clock = resources.clock
        self.metrics = resources.metrics
        self._metrics = resources.metrics.of(task.kind, manifest.name, manifest.version)
        self.mirror: Mirror | None = None
        """Is given what was answered, to be answered by another version as well."""
        self.retired = False
        """Whether it answers only what has begun: who held it while a body came asks the registry again."""
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()
        self._closing = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Servable {self.task.kind} {self.jobs!r}>"

    def admit(self, deadline: float) -> None:
        """Refuse a call before its body is read, where the answer could not be in time.

        Raises:
            NotReady, Overloaded: as `predict`.
        """
        self.jobs.admit(1, deadline, self._decoding)

    async def predict(
        self, data: bytes | None, options: TaskOptions, deadline: float, as_picture: bool = False
    ) -> Prediction:
        """Answer one call: the bytes of a picture, or options alone where the task takes none.

        Raises:
            ServiceError: the picture, the options, the queue or the model refuse; see `app.errors`.
        """
        self.admit(deadline)
        options = self.task.settle(options)
        begun = self.clock()
        prepared = await self._prepare(data, options)
        decoded = self.clock()
        outputs, queued, ran = await (
            self._infer(prepared.tensors, deadline) if prepared.parts is None else self._walk(prepared.parts, deadline)
        )
        inferred = self.clock()
        finish = self.task.draw if as_picture else self.task.interpret
        size = max(array.size for array in outputs.values())
        if (as_picture or self.task.full_size) and prepared.picture is not None:
            size = max(size, prepared.picture.pixels, len(data or b""))
        answer = await self.near(size, lambda: finish(outputs, prepared, options))
        timings = Timings(decoded - begun, queued, ran, self.clock() - inferred)
        self.observe(timings)
        if self.mirror is not None and prepared.parts is None:
            self.mirror(prepared, options, outputs)
        return Prediction(answer, timings, prepared.picture)

    def begin(
        self,
        data: bytes | None,
        options: TaskOptions,
        deadline: float,
        deliver: Callable[[Prediction | Exception], None],
        as_picture: bool = False,
    ) -> Drop | None:
        """`predict` without a coroutine, for a small picture or none: `deliver` gets what it returns or raises after.
        Returns what drops the call again; None, and nothing was begun, where the picture is too large for the loop's
        thread, or the rows are too many for a batch.

        Raises:
            ServiceError: the picture, the options or the queue refuse.
        """
        self.admit(deadline)
        begun = self.clock()
        picture = None if data is None else self._decoder.open(data)
        if picture is not None and picture.pixels > INLINE_SIZE:
            return None
        options = self.task.settle(options)
        prepared = self.task.prepare(picture, options)
        rows = 0 if prepared.parts else len(next(iter(prepared.tensors.values())))
        if not 0 < rows <= self._max_batch_size:
            return None
        decode = self.clock() - begun
        draw = self.task.draw if as_picture else self.task.interpret

        def finish(outcome: Outcome) -> None:
            if isinstance(outcome, Exception):
                deliver(outcome)
                return
            make = partial(draw, outcome.tensors, prepared, options)
            conclude = partial(self._conclude, make, outcome, decode, prepared.picture)
            if max((array.size for array in outcome.tensors.values()), default=0) <= INLINE_SIZE:
                self._tell(deliver, conclude(), prepared, options, outcome.tensors)
                return
            concluding = asyncio.get_running_loop().run_in_executor(self._pool, conclude)
            concluding.add_done_callback(
                lambda done: self._tell(deliver, done.result(), prepared, options, outcome.tensors)
            )

        return self.jobs.start(prepared.tensors, rows, deadline, finish)

    def _conclude(
        self,
        make: Callable[[], list[JsonObject] | bytes],
        finished: Finished,
        decode: float,
        picture: Picture | None,
    ) -> Prediction | Exception:
        begun = self.clock()
        try:
            answer = make()
        except Exception as error:  # for whoever waits: it may have been raised in a thread
            return error
        timings = Timings(decode, finished.queue_seconds, finished.run_seconds, self.clock() - begun)
        return Prediction(answer, timings, picture)

    def _tell(
        self, deliver: Callable[[Prediction | Exception], None], outcome: Prediction | Exception, prepared: Prepared,
        options: TaskOptions, outputs: Tensors,
    ) -> None:  # fmt: skip
        """Deliver on the loop's thread, which alone writes metrics."""
        if isinstance(outcome, Prediction):
            self.observe(outcome.timings)
        deliver(outcome)
        if self.mirror is not None:
            self.mirror(prepared, options, outputs)

    def observe(self, timings: Timings) -> None:
        """Count a call that was answered."""
        self._metrics.decode.observe(timings.decode)
        self._metrics.encode.observe(timings.encode)

    async def rows_of(self, pictures: Sequence[bytes]) -> tuple[Tensors, int]:
        """One row for each encoded picture, as the graph takes them, and the pixels of all.

        Raises:
            ServiceError: a picture refuses, or the task takes none.
        """
        options = self.task.Options()
        prepared = await _together([self._prepare(picture, options) for picture in pictures])
        if any(one.parts for one in prepared) or len({row_shape(one.tensors) for one in prepared}) > 1:
            raise InvalidRequest(
                f"Pictures for this graph are of one size, and small enough for it: send others to /{self.task.kind}."
            )
        pixels = sum(one.picture.pixels for one in prepared if one.picture is not None)
        return stack([one.tensors for one in prepared]), pixels

    async def infer(self, tensors: Tensors, deadline: float) -> tuple[Tensors, float, float]:
        """Run rows that the caller made: all outputs, seconds in the queue, seconds of the run.

        Raises:
            ServiceError: a value, the queue or the model refuse.
        """
        self.task.check(tensors)
        rows = to_row(tensors) if self.task.whole else tensors
        self.jobs.admit(len(next(iter(rows.values()))), deadline)
        outputs, queued, ran = await self._infer(rows, deadline)
        return from_row(outputs) if self.task.whole else outputs, queued, ran

    def waiting(self) -> int:
        """Rows that wait for their turn, or are being decoded."""
        return self.jobs.waiting() + self._decoding

    async def near(self, size: int, work: Callable[[], Result]) -> Result:
        """Work on so many pixels or bytes: here while they are few, in the pool when they are not."""
        if size <= INLINE_SIZE:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def mend(self) -> None:
        """Look whether the sessions are to blame for failures, and open them anew if they are; jobs wait meanwhile.

        Raises:
            ImagoError: they cannot be opened, or fail again.
        """
        async with self._closing:
            if self._sessions is not None:
                await self._sessions.mend()

    def hold(self) -> None:
        """Keep it open until `free`, for a call that has begun and has not given all its jobs to a queue yet."""
        self._users += 1
        self._unused.clear()

    def free(self) -> None:
        """Let go of it."""
        self._users -= 1
        if not self._users:
            self._unused.set()

    async def close(self) -> None:
        """Answer what was accepted, take nothing more, and give the sessions back. May be called again."""
        self.retired = True
        async with self._closing:
            await self._unused.wait()
            await self.jobs.close()
            if self._sessions is not None:
                self._sessions.close()
                self._sessions = None

    async def _prepare(self, data: bytes | None, options: TaskOptions) -> Prepared:
        """Open, decode and fit a picture; one that looks large from outside goes to the pool as a whole."""
        if data is None:
            return self.task.prepare(None, options)
        self._decoding += 1
        try:
            if len(data) > INLINE_SIZE:
                return await self.near(len(data), lambda: self.task.prepare(self._decoder.open(data), options))
            picture = self._decoder.open(data)
            return await self.near(picture.pixels, lambda: self.task.prepare(picture, options))
        finally:
            self._decoding -= 1

    async def _walk(self, parts: Parts, deadline: float) -> tuple[Tensors, float, float]:
        """Run rows that are too many to be made at once, a batch here and there; the times of all are added up."""
        self.jobs.admit(len(parts), deadline)
        ahead = asyncio.Semaphore(self.running.plan.concurrency + 1)
        pool, loop = self._pool, asyncio.get_running_loop()

        async def some(start: int) -> tuple[float, float]:
            async with ahead:
                stop = min(len(parts), start + self._max_batch_size)
                rows = await loop.run_in_executor(pool, parts.rows, start, stop)
                outputs, queued, ran = await self._infer(rows, deadline)
                await loop.run_in_executor(pool, parts.take, start, outputs)
                return queued, ran

        times = await _together([some(start) for start in range(0, len(parts), self._max_batch_size)])
        return parts.outputs(), sum(queued for queued, _ in times), sum(ran for _, ran in times)

    async def _infer(self, tensors: Tensors, deadline: float) -> tuple[Tensors, float, float]:
        """Run the rows of one call, in several jobs where they are more than a batch; the longest times count."""
        rows = len(next(iter(tensors.values())))
        if rows > self._max_batch_size:
            self.jobs.admit(rows, deadline)  # all or nothing: no part runs for an answer that cannot be whole
        counts = [min(self._max_batch_size, rows - start) for start in range(0, rows, self._max_batch_size)]
        jobs = [
            self.jobs.submit(part, count, deadline) for part, count in zip(split(tensors, counts), counts, strict=True)
        ]
        done = [await jobs[0]] if len(jobs) == 1 else await _together(jobs)
        outputs = stack([finished.tensors for finished in done])
        return outputs, max(job.queue_seconds for job in done), max(job.run_seconds for job in done)


async def _together(work: Sequence[Coroutine[Any, Any, Result]]) -> list[Result]:
    """What all of it comes to; where some fails, or the caller leaves, the rest would be for nothing and is dropped."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def open_servable(
    folder: Path, manifest: Manifest, serving: ServingConfig, resources: Resources, plan: Plan | None = None
) -> Servable:
    """Open, check and warm up the version in `folder`, in a thread; only then is it able to answer. With a `plan` that
    was measured before nothing is timed again.

    Raises:
        InvalidModel: a file, a digest, the graph or its answers break the contract.
        BackendMissing: the inference library for this device is not installed.
    """
    choices = Choices(
        serving.threads or resources.threads, serving.concurrency or resources.concurrency, serving.max_batch_size
    )
    loop = asyncio.get_running_loop()
    try:
        task, ready = await loop.run_in_executor(None, _open, folder, manifest, serving, choices, resources, plan)
    except asyncio.CancelledError:  # the service stops, and would wait for the thread
        if resources.trial is not None:
            resources.trial.give_up()
        raise
    quick = resources.inline and resources.device == "cpu" and ready.plan.batch_seconds[1] <= INLINE_ROW_SECONDS
    # A shadow never runs on the loop's thread, where callers would wait for it.
    near = not choices.concurrency and manifest.version != serving.shadowing
    inline = quick and near
    running = Running(resources.device, ready.crowd.inputs, ready.crowd.outputs, ready.plan, inline)
    brief = near and ready.plan.lone_seconds <= INLINE_BATCH_SECONDS
    jobs = _batcher(manifest, serving, ready, running, resources, brief)

    def open_again() -> Ready:
        return _open(folder, manifest, serving, choices, resources, ready.plan)[1]

    own = OwnSessions(ready, jobs, lambda again: _shared_out(again, running, brief), open_again)
    return Servable(manifest, task, running, jobs, resources, own)


def build(folder: Path, manifest: Manifest, running: Running, jobs: Jobs, resources: Resources) -> Servable:
    """A servable whose jobs run elsewhere.

    Raises:
        InvalidModel: labels and manifest break the contract.
    """
    task = build_task(manifest, read_labels(folder, manifest), Graph(running.inputs, running.outputs))
    return Servable(manifest, task, running, jobs, resources)


def free_side(manifest: Manifest) -> int:
    """How long the free axes of a graph are in the largest row that it is given."""
    return FREE_SIDE if manifest.tiling is None else manifest.tiling.side


def read_graph(folder: Path, manifest: Manifest) -> tuple[bytes, dict[str, bytes]]:
    """The graph of a version, and the files beside it that hold its tensors, by name; all are those of the manifest.

    Raises:
        InvalidModel: one is missing or another, or the graph is nothing to open (`app.runtime.gate`).
    """
    graph = read_verified(folder, manifest, GRAPH)
    listed = {name: digest.bytes for name, digest in manifest.files.items()}
    return graph, {name: read_verified(folder, manifest, name, own=True) for name in outside_files(graph, listed)}


def _open(
    folder: Path,
    manifest: Manifest,
    serving: ServingConfig,
    choices: Choices,
    resources: Resources,
    plan: Plan | None,
) -> tuple[Task[Any], Ready]:
    """The blocking part of `open_servable`."""
    if resources.signed_by is not None:
        check_signature(folder, resources.signed_by)
        if manifest_of(folder) != manifest:
            raise InvalidModel("Its manifest changed while its signature was checked: load it again.")
    graph, files = read_graph(folder, manifest)
    key = plan_key(manifest.files[GRAPH].sha256, resources.device, resources.cores, choices)
    plan = plan or resources.plans.get(key)
    if plan is None and resources.trial is not None:
        resources.trial.run(graph, files, resources.device, serving.backend)

    plain = manifest.task == PLAIN

    def open_with(threads: int) -> Session:
        session = open_session(graph, resources.device, threads, serving.backend, files)
        return by_rows(session) if plain else session

    ready = make_ready(open_with, choices, resources.cores, plan, not plain, free_side(manifest))
    if plan is None:
        resources.plans.put(key, ready.plan)
    specs = Graph(ready.crowd.inputs, ready.crowd.outputs)
    return build_task(manifest, read_labels(folder, manifest), specs), ready


def _own(specs: tuple[TensorSpec, ...], whole: bool) -> tuple[TensorSpec, ...]:
    """Tensors as the graph has them: of a `whole` one without the axis that was put in front."""
    return tuple(TensorSpec(spec.name, spec.dtype, spec.shape[1:]) for spec in specs) if whole else specs


def _shared_out(ready: Ready, running: Running, brief: bool) -> Sessions:
    """Which session runs which batches."""
    if running.inline:
        return Sessions(ready.lone, inline=True)
    lone = None if ready.lone is ready.crowd else ready.lone
    return Sessions(ready.crowd, lone, ready.plan.concurrency, brief)


def _batcher(
    manifest: Manifest, serving: ServingConfig, ready: Ready, running: Running, resources: Resources, brief: bool
) -> Batcher:
    plan = ready.plan
    concurrency = 1 if running.inline else plan.concurrency
    limits = Limits(running.max_batch_size, serving.max_queue_delay_ms / 1000, resources.max_queue_seconds, concurrency)
    lane: Lane[Ticket] = Lane(limits, plan.batch_seconds)
    sessions = _shared_out(ready, running, brief)
    metrics = resources.metrics.of(manifest.task, manifest.name, manifest.version)
    measured = noise(running.inputs, 1, free_side(manifest))
    rate = plan.lone_seconds / sum(array.nbytes for array in measured.values())
    return Batcher(f"{manifest.name}/{manifest.version}", sessions, lane, metrics, resources.clock, rate)
