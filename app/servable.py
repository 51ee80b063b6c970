"""One loaded model version: the whole path of a call on one screen.

predict: open the picture -> Task.prepare -> Batcher.submit -> Session.run -> Task.interpret or draw
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from app.imaging.codec import Decoder
from app.manifest import GRAPH, Manifest, ServingConfig, read_labels, read_verified
from app.runtime import Device, Session, open_session
from app.runtime.warm_up import best_batch, warm_up
from app.scheduling.batcher import Batcher, Ticket
from app.scheduling.policy import Lane, Limits
from app.tasks import Graph, Prepared, Task, build_task
from app.tasks.base import JsonObject, TaskOptions
from app.telemetry.metrics import Metrics
from app.tensors import Tensors, split, stack

INLINE_SIZE = 128 * 128
"""Up to so many pixels, and bytes of a file, work on a picture stays on the event loop: preparing one of this size
costs two hops to a thread and back (83 us against 40 us, `benchmarks/decode_hop.py` on two shared cores), and a thread
would add one. Bytes count because a file of few pixels may have a header that takes seconds to read."""

MAX_ROWS = 16
"""Rows of the largest batch tried where the operator names none."""

Clock = Callable[[], float]
Result = TypeVar("Result")


class Timings(NamedTuple):
    """Seconds that one call spent in each stage."""

    decode: float
    queue: float
    inference: float
    encode: float

    def stages(self) -> dict[str, float]:
        """The stages by name."""
        return self._asdict()


class Prediction(NamedTuple):
    """What one call came to: its results, or its drawing as PNG."""

    answer: list[JsonObject] | bytes
    timings: Timings


@dataclass(frozen=True)
class Resources:
    """What all servables of one process share, and how their sessions are opened."""

    decoder: Decoder
    pool: Executor
    metrics: Metrics
    device: Device = "cpu"
    threads: int = 0
    replicas: int = 1
    max_queue_seconds: float = 5.0
    clock: Clock = time.monotonic


@dataclass(frozen=True)
class Opened:
    """A version whose files were read, whose sessions are open and warm."""

    manifest: Manifest
    task: Task[Any]
    sessions: tuple[Session, ...]
    batch_seconds: Mapping[int, float]
    """What a batch of each size took at warm-up."""
    max_batch_size: int
    max_queue_delay: float


class Servable:
    """One loaded version: task, batcher and sessions."""

    def __init__(self, opened: Opened, resources: Resources) -> None:
        self.manifest = opened.manifest
        self.task = opened.task
        self.sessions = opened.sessions
        self.batch_seconds = opened.batch_seconds
        self.max_batch_size = opened.max_batch_size
        self.inline = False
        self._decoder = resources.decoder
        self._pool = resources.pool
        self._clock = resources.clock
        self._metrics = resources.metrics.of(opened.task.kind, opened.manifest.name)
        lane: Lane[Ticket] = Lane(Limits(opened.max_batch_size, opened.max_queue_delay, resources.max_queue_seconds))
        lane.learn(opened.max_batch_size, opened.batch_seconds[opened.max_batch_size])
        name = f"{self.manifest.name}/{self.manifest.version}"
        self._batcher = Batcher(name, opened.sessions, lane, self._metrics, resources.clock)

    def __repr__(self) -> str:
        return f"<Servable {self.task.kind} {self._batcher!r}>"

    async def predict(
        self, data: bytes | None, options: TaskOptions, deadline: float, as_picture: bool = False
    ) -> Prediction:
        """Answer one call: the bytes of a picture, or options alone where the task takes none.

        Raises:
            ServiceError: the picture, the options, the queue or the model refuse; see `app.errors`.
        """
        self._batcher.admit(1, deadline)
        options = self.task.settle(options)
        begun = self._clock()
        prepared = await self._prepare(data, options)
        decoded = self._clock()
        outputs, queued, ran = await self._infer(prepared.tensors, deadline)
        inferred = self._clock()
        finish = self.task.draw if as_picture else self.task.interpret
        size = max(array.size for array in outputs.values())
        if as_picture and prepared.picture is not None:
            size = max(size, prepared.picture.pixels, len(data or b""))
        answer = await self._near(size, lambda: finish(outputs, prepared, options))
        timings = Timings(decoded - begun, queued, ran, self._clock() - inferred)
        self._metrics.decode.observe(timings.decode)
        self._metrics.encode.observe(timings.encode)
        return Prediction(answer, timings)

    async def close(self) -> None:
        """Answer what was accepted, take nothing more, and give the sessions back."""
        await self._batcher.close()
        for session in self.sessions:
            session.close()

    async def _prepare(self, data: bytes | None, options: TaskOptions) -> Prepared:
        """Open, decode and fit a picture; one that looks large from outside goes to the pool as a whole."""
        if data is None:
            return self.task.prepare(None, options)
        if len(data) > INLINE_SIZE:
            return await self._near(len(data), lambda: self.task.prepare(self._decoder.open(data), options))
        picture = self._decoder.open(data)
        return await self._near(picture.pixels, lambda: self.task.prepare(picture, options))

    async def _near(self, size: int, work: Callable[[], Result]) -> Result:
        """Work on so many pixels or bytes: here while they are few, in the pool when they are not."""
        if size <= INLINE_SIZE:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def _infer(self, tensors: Tensors, deadline: float) -> tuple[Tensors, float, float]:
        """Run the rows of one call, in several jobs where they are more than a batch; the longest times count."""
        rows = len(next(iter(tensors.values())))
        if rows > self.max_batch_size:
            self._batcher.admit(rows, deadline)  # all or nothing: no part runs for an answer that cannot be whole
        counts = [min(self.max_batch_size, rows - start) for start in range(0, rows, self.max_batch_size)]
        jobs = [
            self._batcher.submit(part, count, deadline)
            for part, count in zip(split(tensors, counts), counts, strict=True)
        ]
        done = [await jobs[0]] if len(jobs) == 1 else await asyncio.gather(*jobs)
        outputs = stack([finished.tensors for finished in done])
        return outputs, max(job.queue_seconds for job in done), max(job.run_seconds for job in done)


async def open_servable(folder: Path, manifest: Manifest, serving: ServingConfig, resources: Resources) -> Servable:
    """Open, check and warm up the version in `folder`, in a thread; only then is it able to answer.

    Raises:
        InvalidModel: a file, a digest, the graph or its answers break the contract.
        BackendMissing: the inference library for this device is not installed.
    """
    loop = asyncio.get_running_loop()
    return Servable(await loop.run_in_executor(None, open_version, folder, manifest, serving, resources), resources)


def open_version(folder: Path, manifest: Manifest, serving: ServingConfig, resources: Resources) -> Opened:
    """The blocking part of `open_servable`."""
    graph = read_verified(folder, manifest, GRAPH)
    replicas = serving.replicas or resources.replicas
    sessions = tuple(open_session(graph, resources.device, resources.threads, serving.backend) for _ in range(replicas))
    task = build_task(manifest, read_labels(folder, manifest), Graph(sessions[0].inputs, sessions[0].outputs))
    for session in sessions[1:]:
        warm_up(session, 1)
    limit = serving.max_batch_size
    seconds = warm_up(sessions[0], limit or MAX_ROWS, thrifty=limit is None)
    return Opened(manifest, task, sessions, seconds, limit or best_batch(seconds), serving.max_queue_delay_ms / 1000)
