"""The engine's side: opens the models, decides what is loaded, tells the workers and waits for them."""

import asyncio
import logging
import socket
from collections.abc import Callable, Collection, Coroutine, Mapping
from pathlib import Path
from typing import Any, Final

from app.errors import NotReady
from app.manifest import Manifest
from app.processes.control import Control
from app.processes.link import Message
from app.processes.shared import Shared
from app.processes.told import tell
from app.processes.worker import Worker, refusal
from app.repository.manager import Manager
from app.repository.poller import load_and_poll
from app.repository.registry import Registry
from app.scheduling.batcher import Batcher
from app.servable import Resources, Servable, open_servable
from app.serving import ServingConfig

logger = logging.getLogger("imago.processes")

_PATIENCE: Final = 60.0
"""Seconds that a worker may take to open a model or to answer the last requests of an old one."""


async def open_in_engine(folder: Path, manifest: Manifest, serving: ServingConfig, resources: Resources) -> Servable:
    """As `open_servable`; a small model is measured here and closed again: workers open it on their own."""
    servable = await open_servable(folder, manifest, serving, resources)
    if servable.inline:
        await servable.close()
    return servable


class Engine:
    """Owns the sessions of the larger models, and knows every worker."""

    def __init__(
        self, registry: Registry, shared: Shared, poll_seconds: float, on_loaded: Callable[[Registry], None]
    ) -> None:
        self._registry = registry
        self._manager = Manager(registry, self)
        self._poll_seconds = poll_seconds
        self._on_loaded = on_loaded
        self._shared = shared
        self._workers: dict[int, Worker] = {}
        self._places: dict[str, int] = {}
        self._telling: asyncio.Handle | None = None
        self._revision = 0
        self._news = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
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
        work = load_and_poll(self._registry, self._manager, self._poll_seconds, self._on_loaded)
        loading, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
        await asyncio.wait((loading, stopping), return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            loading.result()
        await stopping
        loading.cancel()
        await self._registry.close()

    def batcher(self, key: str) -> Batcher:
        """The batcher of an opening. Raises `NotReady` where it is not open (any more)."""
        entry = self._registry.find(key)
        jobs = entry.servable.jobs if entry is not None and entry.servable is not None else None
        if not isinstance(jobs, Batcher):
            raise NotReady(f"Model {key.partition('@')[0]} is not loaded: retry.")
        return jobs

    def write_load(self, batcher: Batcher) -> None:
        """Write down what the rows of a model take now."""
        if (place := self._places.get(batcher.name)) is not None:
            pace = batcher.lane.pace
            self._shared.loads.learn(place, pace.row_seconds, pace.batch_seconds)

    def obey(self, worker: Worker, message: Message) -> None:
        """Do what a caller of this worker wants done with a model, and tell it."""
        self._start(self._obey(worker, message))

    def hear(self) -> None:
        """A worker told how far it is, or is gone."""
        self._news.set()

    async def copied(self) -> Mapping[str, str]:
        """As `app.repository.manager.Followers.copied`: what a worker has not opened in time could not be opened."""
        self._tell()
        revision = self._revision
        late = await self._late(lambda worker: worker.has(revision))
        reasons = {key: reason for worker in self._workers.values() for key, reason in worker.failed.items()}
        if late:
            logger.error("%d workers do not follow", late)
            staged = [entry.key for entry in self._registry.openings() if entry.state == "loading"]
            reasons |= dict.fromkeys(staged, f"{late} workers had not opened it after {_PATIENCE:.0f} s.")
        return reasons

    async def left(self, keys: Collection[str]) -> None:
        """As `app.repository.manager.Followers.left`; who uses them for too long is left without."""
        late = await self._late(lambda worker: not any(map(worker.uses, keys)))
        if late:
            logger.error("%d workers still use %s, which is closed", late, ", ".join(keys))

    async def _late(self, condition: Callable[[Worker], bool]) -> int:
        """Wait until a condition holds for every worker: how many it does not hold for after `_PATIENCE`."""
        try:
            async with asyncio.timeout(_PATIENCE):
                while not all(map(condition, self._workers.values())):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return sum(not condition(worker) for worker in self._workers.values())
        return 0

    async def _obey(self, worker: Worker, message: Message) -> None:
        name, versions = message["name"], message.get("versions")
        told: Message = {"op": "commanded", "id": message["id"], "name": name}
        try:
            if message["what"] == "load":
                await self._manager.load(name, tuple(versions) if isinstance(versions, list) else versions)
            else:
                await self._manager.unload(name)
        except Exception as error:  # whatever it is, a caller waits for an answer
            told |= refusal(error, f"{message['what']} of {name} failed")
        worker.tell(told)

    def _introduce(self, number: int, end: socket.socket) -> None:
        if number not in self._workers:
            self._workers[number] = Worker(self, self._shared.channels[number])
        self._start(self._workers[number].connect(end))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _changed(self) -> None:
        """Tell every worker, once for all changes of one turn of the loop."""
        if self._telling is None:
            self._telling = asyncio.get_running_loop().call_soon(self._tell)

    def _tell(self) -> None:
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None
        self._revision += 1
        message = self.models()
        for worker in self._workers.values():
            worker.tell(message)

    def models(self) -> Message:
        """What workers are told: every version, and whether all were tried."""
        openings = self._registry.openings()
        self._assign({str(entry) for entry in openings})
        entries = [tell(entry, self._places[str(entry)]) for entry in openings]
        traffic = {name: self._registry.traffic(name).model_dump(mode="json") for name in self._registry.names()}
        settled = self._registry.settled.is_set()
        return {
            "op": "models", "revision": self._revision, "entries": entries, "traffic": traffic, "settled": settled,
        }  # fmt: skip

    def _assign(self, versions: set[str]) -> None:
        """Give each version a row in the table of loads, and take back those of versions that are gone."""
        self._places = {version: place for version, place in self._places.items() if version in versions}
        free = iter(sorted(set(range(self._shared.loads.models)) - set(self._places.values())))
        for version in sorted(versions - self._places.keys()):
            place = self._places[version] = next(free, 0)
            self._shared.loads.learn(place, 0.0, 0.0)
