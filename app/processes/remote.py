"""The worker's side: jobs of the larger models go to the engine, and what the engine has loaded is told from there."""

import asyncio
import itertools
import logging
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from app.errors import (
    DeadlineExceeded,
    InferenceFailed,
    InsufficientMemory,
    InternalError,
    LoadRefused,
    ModelNotFound,
    NotReady,
    Overloaded,
    ServiceError,
    TensorsTooLarge,
)
from app.processes.arena import Arena, ArenaFull, Place
from app.processes.link import Link, Message
from app.processes.loads import Load
from app.scheduling.batcher import Deliver, Drop, Finished, Outcome, outcome_of
from app.scheduling.policy import CAUTION, PATIENT
from app.telemetry.logs import request_id
from app.telemetry.metrics import ModelMetrics
from app.tensors import Tensors

logger = logging.getLogger("imago.processes")

_AWAY = "The engine is being restarted: retry."

ERRORS: Mapping[str, Callable[[Message], ServiceError]] = {
    Overloaded.code: lambda told: Overloaded(told["retry_after"]),
    NotReady.code: lambda told: NotReady(told["detail"], told["retry_after"]),
    DeadlineExceeded.code: lambda told: DeadlineExceeded(),
    InferenceFailed.code: lambda told: InferenceFailed(),
    InsufficientMemory.code: lambda told: InsufficientMemory(),
    InternalError.code: lambda told: InternalError(),
    TensorsTooLarge.code: lambda told: TensorsTooLarge(told["detail"]),
    ModelNotFound.code: lambda told: ModelNotFound(told["name"]),
    LoadRefused.code: lambda told: LoadRefused(told["detail"]),
}
"""What the engine may refuse a job or a command with, made again from what is told of it."""


@dataclass
class _Sent:
    """A job on its way."""

    deliver: Deliver
    settled: Callable[[], None]
    places: list[Place]

    def end(self, outcome: Outcome) -> None:
        """Deliver; a caller that fails over it does not disturb the others."""
        self.settled()
        try:
            self.deliver(outcome)
        except Exception:
            logger.exception("an answer could not be delivered")


def _nobody(outcome: Outcome) -> None:
    """Hears what became of a job whose caller left."""


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
        self._commands: dict[int, asyncio.Future[None]] = {}
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

    def start(
        self, key: str, tensors: Tensors, rows: int, deadline: float, deliver: Deliver, settled: Callable[[], None]
    ) -> Drop:
        """Send one job of a model; `deliver` gets its rows, or NotReady, DeadlineExceeded, InferenceFailed,
        InternalError, TensorsTooLarge or Overloaded, as from `Batcher.start`. Returns what drops the job again;
        `settled` is called once when the engine is done with it, or is gone, also where the caller left.

        Raises:
            NotReady: there is no engine now.
            ArenaFull: there is no room for the tensors now.
            TensorsTooLarge: there never will be.
        """
        if self._link is None:
            raise NotReady(_AWAY)
        places = self._jobs.write(tensors)
        number = next(self._ids)
        sent = self._sent[number] = _Sent(deliver, settled, places)
        latest = min(deadline, PATIENT)
        job = {"id": number, "key": key, "rows": rows, "deadline": latest, "in": places, "request": request_id.get()}
        self._link.send({"op": "run", **job})
        return partial(self._drop, number, sent)

    async def command(self, name: str, **what: object) -> None:
        """Have the engine do something with the model of this name, and wait until it is done.

        Raises:
            NotReady: there is no engine now, or it went away meanwhile.
            ServiceError: what it refused with.
        """
        if self._link is None:
            raise NotReady(_AWAY)
        number = next(self._ids)
        done = self._commands[number] = asyncio.get_running_loop().create_future()
        self._link.send({"op": "command", "id": number, "name": name, **what})
        try:
            await done
        finally:
            self._commands.pop(number, None)

    def tell(self, message: Message) -> None:
        """Send the engine a message, if there is one."""
        if self._link is not None:
            self._link.send(message)

    def _drop(self, number: int, sent: _Sent) -> None:
        sent.deliver = _nobody
        if self._link is not None and self._sent.get(number) is sent:
            self._link.send({"op": "cancel", "id": number})

    def _receive(self, message: Message) -> None:
        if message["op"] == "models":
            self._on_models(message)
            return
        if message["op"] == "commanded":
            _settle(self._commands.pop(message["id"], None), message)
            return
        sent = self._sent.pop(message["id"])
        self._jobs.give_back(sent.places)
        if "error" in message:
            sent.end(ERRORS[message["error"]](message))
            return
        tensors = {name: array.copy() for name, array in self._answers.read(message["out"]).items()}
        self._free(message["out"])
        sent.end(Finished(tensors, message["queued"], message["ran"]))

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
            sent.end(NotReady(_AWAY))
        waiting, self._commands = self._commands, {}
        for done in waiting.values():
            if not done.done():
                done.set_exception(NotReady(_AWAY))
        self._on_lost()


def _settle(done: "asyncio.Future[None] | None", message: Message) -> None:
    """Tell whoever waits for a command what became of it."""
    if done is None or done.done():
        return
    if "error" in message:
        done.set_exception(ERRORS[message["error"]](message))
    else:
        done.set_result(None)


class RemoteJobs:
    """The jobs of one version that the engine runs; what a `Servable` has here in place of a `Batcher`."""

    def __init__(
        self, messenger: Messenger, key: str, load: Load, max_queue_seconds: float, metrics: ModelMetrics,
        clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self._send = partial(messenger.start, key)
        self._key = key
        self._load = load
        self._max_queue_seconds = max_queue_seconds
        self._metrics = metrics
        self._clock = clock
        self._running = 0
        self._all_settled: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<RemoteJobs {self._key.partition('@')[0]}: {self._load.waiting()} waiting>"

    def admit(self, rows: int, deadline: float, ahead: int = 0) -> None:
        """Refuse early what the engine would refuse, after `ahead` rows that are still being decoded here.

        Raises:
            DeadlineExceeded: it has passed already.
            Overloaded: the queue is too long.
        """
        now = self._clock()
        if deadline >= PATIENT or (now < deadline and not (ahead or self._load.waiting())):
            return
        if now >= deadline:
            self._metrics.expired.inc()
            raise DeadlineExceeded
        wait = self._load.expected(ahead + rows)
        if wait > self._max_queue_seconds or now + CAUTION * wait > deadline:
            self._metrics.rejected.inc()
            raise Overloaded(retry_after=wait)

    async def submit(self, tensors: Tensors, rows: int, deadline: float) -> Finished:
        """Run one job in the engine; raises as `start`, and what it delivers."""
        return await outcome_of(partial(self.start, tensors, rows, deadline))

    def start(self, tensors: Tensors, rows: int, deadline: float, deliver: Deliver) -> Drop:
        """Let one job run in the engine; delivers and returns as `Messenger.start`.

        Raises:
            NotReady: there is no engine now.
            Overloaded: there is no room for the tensors now.
            TensorsTooLarge: there never will be.
        """
        counted = rows if deadline < PATIENT else 0  # those that have time keep nobody from being admitted
        try:
            drop = self._send(tensors, rows, deadline, deliver, partial(self._settled, counted))
        except ArenaFull:
            self._metrics.rejected.inc()
            raise Overloaded(retry_after=1.0) from None
        self._load.add(counted)
        self._running += 1
        return drop

    lost = failing = False
    """Sessions are looked after in the engine."""

    def waiting(self) -> int:
        """Rows that were sent by all workers and not answered."""
        return self._load.waiting()

    def fault(self) -> str:
        """Nothing: the engine tells its own."""
        return ""

    async def close(self) -> None:
        """Wait until the engine has answered what it accepted. Nothing else is kept here."""
        if self._running:
            self._all_settled = asyncio.get_running_loop().create_future()
            await self._all_settled

    def _settled(self, rows: int) -> None:
        self._load.add(-rows)
        self._running -= 1
        if self._all_settled is not None and not self._running:
            self._all_settled.set_result(None)
