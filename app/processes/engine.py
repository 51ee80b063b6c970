"""The engine's side: opens the models, runs the jobs of all workers, tells the workers what is loaded."""

import asyncio
import logging
import socket
from collections.abc import Callable
from functools import partial

from app.errors import NotReady, Overloaded, ServiceError
from app.processes.arena import ArenaFull
from app.processes.control import Control
from app.processes.link import Link, Message, connect
from app.processes.shared import Channel, Shared
from app.processes.told import tell
from app.repository.registry import Registry
from app.scheduling.batcher import Batcher, Outcome, Ticket

logger = logging.getLogger("imago.processes")


class Worker:
    """One worker as the engine sees it."""

    def __init__(self, engine: "Engine", channel: Channel) -> None:
        self._engine = engine
        self._channel = channel
        self._link: Link | None = None
        self._tickets: dict[int, tuple[Batcher, Ticket]] = {}
        channel.answers.clear()

    async def connect(self, end: socket.socket) -> None:
        """Talk to the worker at the other end."""
        self._link = await connect(end, self._receive, self.lose)

    def tell(self, message: Message) -> None:
        """Send a message, if the worker is still there."""
        if self._link is not None:
            self._link.send(message)

    def lose(self) -> None:
        """The worker is gone, or replaced: nobody reads its answers."""
        link, self._link = self._link, None
        tickets, self._tickets = self._tickets, {}
        for batcher, ticket in tickets.values():
            batcher.drop(ticket)
        if link is not None:
            link.close()

    def _receive(self, message: Message) -> None:
        match message["op"]:
            case "run":
                self._run(message)
            case "cancel" if (known := self._tickets.pop(message["id"], None)) is not None:
                known[0].drop(known[1])
                self._refuse(message["id"], NotReady("The caller left."))
            case "read":
                self._channel.answers.give_back(message["places"])

    def _run(self, message: Message) -> None:
        number, key = message["id"], message["key"]
        try:
            batcher = self._engine.batcher(key)
            tensors = self._channel.jobs.read(message["in"])
            deliver = partial(self._answer, number, key)
            ticket = batcher.enqueue(tensors, message["rows"], message["deadline"], deliver)
        except ServiceError as error:
            self._refuse(number, error)
            return
        self._tickets[number] = batcher, ticket
        self._engine.write_load(key, batcher)

    def _answer(self, number: int, key: str, outcome: Outcome) -> None:
        batcher, _ = self._tickets.pop(number)
        self._engine.write_load(key, batcher)
        if isinstance(outcome, Exception):
            self._refuse(number, outcome)
            return
        try:
            places = self._channel.answers.write(outcome.tensors)
        except ArenaFull:
            self._refuse(number, Overloaded(retry_after=1.0))
            return
        queued, ran = outcome.queue_seconds, outcome.run_seconds
        self.tell({"op": "done", "id": number, "out": places, "queued": queued, "ran": ran})

    def _refuse(self, number: int, error: Exception) -> None:
        if not isinstance(error, ServiceError):
            raise error
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
        registry.on_change = self._changed

    async def run(self, control: socket.socket) -> None:
        """Serve the workers until the supervisor closes its end."""
        stop = asyncio.Event()
        Control(control, self._introduce, stop.set)
        loading = asyncio.create_task(self._load())
        await stop.wait()
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

    def write_load(self, key: str, batcher: Batcher) -> None:
        """Write down how long a queue is."""
        lane = batcher.lane
        self._shared.loads.write(self._places[key], lane.waiting, lane.expected(0), lane.row_seconds)

    def _introduce(self, number: int, end: socket.socket) -> None:
        if number in self._workers:
            self._workers[number].lose()
        worker = self._workers[number] = Worker(self, self._shared.channels[number])

        async def begin() -> None:
            await worker.connect(end)
            worker.tell(self._models())

        task = asyncio.create_task(begin())
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    def _changed(self) -> None:
        """Tell every worker, once for all changes of one turn of the loop."""
        if self._telling is None:
            self._telling = asyncio.get_running_loop().call_soon(self._tell)

    def _tell(self) -> None:
        self._telling = None
        message = self._models()
        for worker in self._workers.values():
            worker.tell(message)

    def _models(self) -> Message:
        entries = []
        for entry in self._registry.entries():
            place = self._places.setdefault(str(entry), len(self._places) % self._shared.loads.models)
            entries.append(tell(entry, place))
        return {"op": "models", "entries": entries, "settled": self._registry.settled.is_set()}
