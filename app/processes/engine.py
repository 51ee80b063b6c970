"""The engine's side: opens the models, runs the jobs of all workers, tells the workers what is loaded."""

import asyncio
import logging
import socket
from collections.abc import Callable
from functools import partial

from app.errors import InternalError, NotReady, Overloaded, ServiceError
from app.processes.arena import ArenaFull
from app.processes.control import Control
from app.processes.link import Link, Message
from app.processes.shared import Channel, Shared
from app.processes.told import tell
from app.repository.registry import Registry
from app.scheduling.batcher import Batcher, Finished, Outcome, Ticket
from app.telemetry.logs import request_id

logger = logging.getLogger("imago.processes")


class Worker:
    """One worker as the engine sees it: a place that one process after the other takes."""

    def __init__(self, engine: "Engine", channel: Channel) -> None:
        self._engine = engine
        self._channel = channel
        self._link: Link | None = None
        self._newest: socket.socket | None = None
        self._tickets: dict[int, tuple[Batcher, Ticket]] = {}
        self._idle = asyncio.Event()

    async def connect(self, end: socket.socket) -> None:
        """Talk to the process at the other end, once no batch reads memory that its predecessor filled."""
        self._newest = end
        self._lose(self._link)
        await self._idle.wait()
        if self._newest is not end:  # it is gone, too
            end.close()
            return
        self._channel.answers.clear()
        link = self._link = Link(self._receive, lambda: self._lose(link))
        self.tell(self._engine.models())
        await link.open(end)

    def tell(self, message: Message) -> None:
        """Send a message, if there is somebody to read it."""
        if self._link is not None:
            self._link.send(message)

    def _lose(self, link: Link | None) -> None:
        """The process at the other end is gone, or replaced: nobody reads its answers."""
        if link is not self._link:
            return
        self._link = None
        for number in list(self._tickets):
            self._drop(number)
        self._idle.clear()
        self._note_idle()
        if link is not None:
            link.close()

    def _note_idle(self) -> None:
        if not self._tickets:
            self._idle.set()

    def _receive(self, message: Message) -> None:
        match message["op"]:
            case "run":
                self._run(message)
            case "cancel" if message["id"] in self._tickets:
                self._drop(message["id"])
            case "read":
                self._channel.answers.give_back(message["places"])

    def _run(self, message: Message) -> None:
        number, key = message["id"], message["key"]
        token = request_id.set(message["request"])
        try:
            batcher = self._engine.batcher(key)
            tensors = self._channel.jobs.read(message["in"])
            deliver = partial(self._answer, number)
            ticket = batcher.enqueue(tensors, message["rows"], message["deadline"], deliver)
        except Exception as error:  # whatever it is, a caller waits for an answer
            self._refuse(number, error)
            return
        finally:
            request_id.reset(token)
        self._tickets[number] = batcher, ticket

    def _drop(self, number: int) -> None:
        """Forget a job that waits. One that runs is left to end: a batch reads its tensors, and the worker may write
        others to their place once it has an answer."""
        batcher, ticket = self._tickets[number]
        if batcher.withdraw(ticket):
            del self._tickets[number]
            self._refuse(number, NotReady("The caller left."))

    def _answer(self, number: int, outcome: Outcome) -> None:
        batcher, _ = self._tickets.pop(number)
        self._engine.write_load(batcher)
        if self._link is None:
            self._note_idle()
        elif isinstance(outcome, Exception):
            self._refuse(number, outcome)
        else:
            self._send_rows(number, outcome)

    def _send_rows(self, number: int, finished: Finished) -> None:
        try:
            places = self._channel.answers.write(finished.tensors)
        except ArenaFull:
            self._refuse(number, Overloaded(retry_after=1.0))
            return
        except Exception as error:
            self._refuse(number, error)
            return
        queued, ran = finished.queue_seconds, finished.run_seconds
        self.tell({"op": "done", "id": number, "out": places, "queued": queued, "ran": ran})

    def _refuse(self, number: int, error: Exception) -> None:
        if not isinstance(error, ServiceError):
            logger.error("job %d of a worker could not be run", number, exc_info=error)
            error = InternalError()
        told = {"error": error.code, "detail": error.detail, "retry_after": getattr(error, "retry_after", 0.0)}
        self.tell({"op": "failed", "id": number, **told})


class Engine:
    """Owns the sessions of the larger models, and knows every worker."""

    def __init__(self, registry: Registry, shared: Shared, on_loaded: Callable[[Registry], None]) -> None:
        self._registry = registry
        self._on_loaded = on_loaded
        self._shared = shared
        self._workers: dict[int, Worker] = {}
        self._places: dict[str, int] = {}
        self._telling: asyncio.Handle | None = None
        self._connecting: set[asyncio.Task[None]] = set()
        shared.loads.begin()
        registry.on_change = self._changed

    async def run(self, control: socket.socket) -> None:
        """Serve the workers until the supervisor closes its end.

        Raises:
            InvalidSettings: the models cannot be looked for.
        """
        for listener in self._shared.listeners:
            listener.close()  # it accepts nothing, and a port is free once nobody holds it
        stop = asyncio.Event()
        Control(control, self._introduce, stop.set)
        loading, stopping = asyncio.create_task(self._load()), asyncio.create_task(stop.wait())
        await asyncio.wait((loading, stopping), return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            loading.result()
        await stopping
        loading.cancel()
        await self._registry.close()

    async def _load(self) -> None:
        await self._registry.load_all()
        self._on_loaded(self._registry)

    def batcher(self, key: str) -> Batcher:
        """The batcher of `name/version`. Raises `NotReady` where it is not loaded (any more)."""
        entry = self._registry.find(key)
        jobs = entry.servable.jobs if entry is not None and entry.servable is not None else None
        if not isinstance(jobs, Batcher):
            raise NotReady(f"Model {key} is not loaded: retry.")
        return jobs

    def write_load(self, batcher: Batcher) -> None:
        """Write down what the rows of a model take now."""
        pace = batcher.lane.pace
        self._shared.loads.learn(self._place(batcher.name), pace.row_seconds, pace.batch_seconds)

    def _introduce(self, number: int, end: socket.socket) -> None:
        if number not in self._workers:
            self._workers[number] = Worker(self, self._shared.channels[number])
        task = asyncio.create_task(self._workers[number].connect(end))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    def _changed(self) -> None:
        """Tell every worker, once for all changes of one turn of the loop."""
        if self._telling is None:
            self._telling = asyncio.get_running_loop().call_soon(self._tell)

    def _tell(self) -> None:
        self._telling = None
        message = self.models()
        for worker in self._workers.values():
            worker.tell(message)

    def models(self) -> Message:
        """What workers are told: every version, and whether all were tried."""
        entries = [tell(entry, self._place(str(entry))) for entry in self._registry.entries()]
        return {"op": "models", "entries": entries, "settled": self._registry.settled.is_set()}

    def _place(self, key: str) -> int:
        """The row of a version in the table of loads."""
        return self._places.setdefault(key, len(self._places) % self._shared.loads.models)
