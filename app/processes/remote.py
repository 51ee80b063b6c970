"""The worker's side: jobs of the larger models go to the engine, and what the engine has loaded is told from there."""

import asyncio
import itertools
import logging
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from app.errors import DeadlineExceeded, InferenceFailed, InternalError, NotReady, Overloaded, ServiceError
from app.processes.arena import Arena, ArenaFull, Place
from app.processes.link import Link, Message
from app.processes.loads import Loads
from app.scheduling.batcher import Finished
from app.telemetry.metrics import ModelMetrics
from app.tensors import Tensors

logger = logging.getLogger("imago.processes")

_AWAY = "The engine is being restarted: retry."
_LATEST = sys.float_info.max
"""JSON knows no infinity: a deadline that never comes."""

ERRORS: Mapping[str, Callable[[Message], ServiceError]] = {
    Overloaded.code: lambda told: Overloaded(told["retry_after"]),
    NotReady.code: lambda told: NotReady(told["detail"], told["retry_after"]),
    DeadlineExceeded.code: lambda told: DeadlineExceeded(),
    InferenceFailed.code: lambda told: InferenceFailed(),
    InternalError.code: lambda told: InternalError(),
}
"""What a job may be refused with in the engine, made again from what is told of it."""


@dataclass
class _Sent:
    """A job on its way."""

    future: "asyncio.Future[Finished]"
    places: list[Place]


class Messenger:
    """Carries jobs to the engine and their rows back. Used from one event loop."""

    def __init__(
        self, jobs: Arena, answers: Arena, on_models: Callable[[Message], None], on_lost: Callable[[], None]
    ) -> None:
        self._jobs = jobs
        self._answers = answers
        self._on_models = on_models
        self._on_lost = on_lost
        self._link: Link | None = None
        self._ids = itertools.count()
        self._sent: dict[int, _Sent] = {}
        self._read: list[Place] = []

    def __repr__(self) -> str:
        return f"<Messenger: {'connected' if self._link else 'waiting for an engine'}, {len(self._sent)} jobs sent>"

    async def connect(self, end: socket.socket) -> None:
        """Talk to the engine at the other end of this socket from now on."""
        if self._link is not None:
            self._link.close()
            self._lose(self._link)
        link = self._link = Link(self._receive, lambda: self._lose(link))
        await link.open(end)

    async def run(self, key: str, tensors: Tensors, rows: int, deadline: float) -> Finished:
        """Send one job of a model and return its rows. Cancelling the caller drops the job.

        Raises:
            NotReady: there is no engine now, or it went away.
            ArenaFull: there is no room for the tensors.
            DeadlineExceeded, InferenceFailed, InternalError, Overloaded: from the engine, as `Batcher.submit`.
        """
        if self._link is None:
            raise NotReady(_AWAY)
        places = self._jobs.write(tensors)
        number = next(self._ids)
        sent = self._sent[number] = _Sent(asyncio.get_running_loop().create_future(), places)
        latest = min(deadline, _LATEST)
        self._link.send({"op": "run", "id": number, "key": key, "rows": rows, "deadline": latest, "in": places})
        try:
            return await sent.future
        except asyncio.CancelledError:
            if self._link is not None:
                self._link.send({"op": "cancel", "id": number})
            raise

    def _receive(self, message: Message) -> None:
        if message["op"] == "models":
            self._on_models(message)
            return
        sent = self._sent.pop(message["id"])
        self._jobs.give_back(sent.places)
        if "error" in message:
            if not sent.future.done():
                sent.future.set_exception(ERRORS[message["error"]](message))
            return
        tensors = {name: array.copy() for name, array in self._answers.read(message["out"]).items()}
        self._free(message["out"])
        if not sent.future.done():
            sent.future.set_result(Finished(tensors, message["queued"], message["ran"]))

    def _free(self, places: list[Place]) -> None:
        """Tell the engine which answers were read, once for all of one turn of the loop."""
        if not self._read:
            asyncio.get_running_loop().call_soon(self._tell_read)
        self._read += places

    def _tell_read(self) -> None:
        read, self._read = self._read, []
        if self._link is not None:
            self._link.send({"op": "read", "places": read})

    def _lose(self, link: Link) -> None:
        """The engine at the other end of a link is gone."""
        if link is not self._link:
            return  # its successor is known already
        self._link = None
        logger.error("the engine went away with %d jobs of this worker", len(self._sent))
        lost, self._sent, self._read = self._sent, {}, []
        for sent in lost.values():
            self._jobs.give_back(sent.places)
            if not sent.future.done():
                sent.future.set_exception(NotReady(_AWAY))
        self._on_lost()


class RemoteJobs:
    """The jobs of one version that the engine runs; what a `Servable` has here in place of a `Batcher`."""

    def __init__(
        self, messenger: Messenger, key: str, place: int, loads: Loads, max_queue_seconds: float,
        metrics: ModelMetrics, clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self._run = partial(messenger.run, key)
        self._key = key
        self._place = place
        self._loads = loads
        self._max_queue_seconds = max_queue_seconds
        self._metrics = metrics
        self._clock = clock

    def __repr__(self) -> str:
        return f"<RemoteJobs {self._key}: {self._loads.waiting(self._place)} waiting>"

    def admit(self, rows: int, deadline: float) -> None:
        """Refuse early what the engine would refuse, from the load that it writes down.

        Raises:
            Overloaded: the queue is too long.
        """
        now = self._clock()
        if not self._loads.waiting(self._place) and now < deadline:
            return
        wait = self._loads.expected(self._place, rows)
        if wait > self._max_queue_seconds or now + wait > deadline:
            self._metrics.rejected.inc()
            raise Overloaded(retry_after=wait)

    async def submit(self, tensors: Tensors, rows: int, deadline: float) -> Finished:
        """Run one job in the engine.

        Raises:
            Overloaded: there is no room for the tensors, or the engine refuses.
            ServiceError: as `Messenger.run`.
        """
        try:
            return await self._run(tensors, rows, deadline)
        except ArenaFull:
            self._metrics.rejected.inc()
            raise Overloaded(retry_after=1.0) from None

    async def close(self) -> None:
        """Nothing is kept here: the engine answers what it accepted."""
