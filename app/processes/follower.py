"""A worker's models: those that the engine told of, in the worker's own registry."""

import asyncio
import logging
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from app.errors import InvalidSettings
from app.manifest import Manifest
from app.processes.control import Control
from app.processes.link import Message
from app.processes.loads import Load
from app.processes.remote import Messenger, RemoteJobs
from app.processes.shared import Shared
from app.processes.told import Told, heard, opened
from app.repository.registry import Entry, Registry
from app.servable import Resources, Servable, build, open_servable
from app.serving import ServingConfig, Traffic

logger = logging.getLogger("imago.processes")

_RETRY = 1.0
"""Seconds until a folder of models that could not be read is read again."""


class Follower:
    """Keeps a registry as the engine's: small models are opened here, the others get messengers."""

    def __init__(self, number: int, shared: Shared, resources: Resources) -> None:
        channel = shared.channels[number]
        self._number = number
        self._connections = shared.connections
        self._loads = shared.loads
        self._loads.begin_worker(number)
        self._resources = resources
        self.messenger = Messenger(channel.jobs, channel.answers, self._heard, self._engine_lost)
        self._told: dict[tuple[str, int], Told] = {}
        """What `open` is called for now."""
        self._latest: Message | None = None
        """What the engine told last: each message tells of everything."""
        self._copied = 0
        """The revision that this registry is a copy of."""
        self._ending: dict[Entry, asyncio.Task[None]] = {}
        self._news = asyncio.Event()
        self._registry: Registry | None = None

    async def follow(self, registry: Registry, control: socket.socket, stop: Callable[[], None]) -> None:
        """Follow the engine until cancelled; calls `stop` when the supervisor is gone, or this fails."""
        self._registry = registry
        connecting: set[asyncio.Task[None]] = set()

        def introduce(_: int, end: socket.socket) -> None:
            task = asyncio.create_task(self.messenger.connect(end))
            connecting.add(task)
            task.add_done_callback(connecting.discard)

        Control(control, introduce, stop)
        try:
            while await self._news.wait():
                self._news.clear()
                if self._latest is not None:
                    await self._apply(registry, self._latest)
        except Exception:
            logger.exception("the engine cannot be followed any more")
            stop()  # whoever takes this place begins anew

    async def open(self, folder: Path, manifest: Manifest, serving: ServingConfig) -> Servable:
        """Make the servable of a version that the engine told of.

        Raises:
            InvalidModel, BackendMissing: as `open_servable`.
        """
        told = self._told[manifest.name, manifest.version]
        running = heard(told)
        if running.inline:  # one thread each: the workers are as many as the cores
            plan = replace(running.plan, threads=1, lone_threads=1)
            return await open_servable(folder, manifest, serving, self._resources, plan)
        metrics = self._resources.metrics.of(manifest.task, manifest.name, manifest.version)
        limit = self._resources.max_queue_seconds
        load = Load(self._loads, self._number, told["place"])
        jobs = RemoteJobs(self.messenger, told["key"], load, limit, metrics, time.monotonic)
        return build(folder, manifest, running, jobs, self._resources)

    def _heard(self, message: Message | None) -> None:
        self._latest = message
        self._news.set()

    async def _apply(self, registry: Registry, message: Message) -> None:
        """Do as the engine did, one model after the other, unless it tells of something newer meanwhile, or is gone."""
        try:
            registry.look()
        except (InvalidSettings, OSError) as error:
            logger.error("no models can be looked for now: %s", error)
            asyncio.get_running_loop().call_later(_RETRY, self._news.set)
            return
        models: defaultdict[str, list[Told]] = defaultdict(list)
        for told in message["entries"]:
            models[told["name"]].append(told)
        if message["settled"]:
            models |= {name: [] for name in registry.names() if name not in models}
        for name, versions in models.items():
            if self._latest is not message:
                return
            traffic = Traffic.model_validate(message["traffic"].get(name, {}))
            await self._copy(registry, name, versions, traffic, message["settled"])
        if self._latest is message:
            self._finish(registry, message)

    def _finish(self, registry: Registry, message: Message) -> None:
        if message["settled"] and not registry.settled.is_set():
            registry.settle()
            self._connections.ready(self._number)
        self._copied = message["revision"]
        self._tell_copied()

    async def _copy(
        self, registry: Registry, name: str, versions: Sequence[Told], traffic: Traffic, settled: bool
    ) -> None:
        """Bring one model to the state that it has in the engine: what is to answer is opened first, then all of it
        answers at once. What runs here answers on while an engine begins anew."""
        for told in versions:
            if told["running"] is None:
                self._note(registry, told)
            elif told["state"] in ("loading", "ready") and registry.find(told["key"]) is None:
                self._told[told["name"], told["version"]] = told
                await registry.stage(opened(told, registry.root))
        mine = registry.openings(name)
        ready = {told["key"]: told["reason"] for told in versions if told["state"] == "ready"}
        over = {told["version"] for told in versions if told["running"] is not None or told["state"] == "unloaded"}
        begins = {told["version"] for told in versions} - over
        kept = [
            entry for entry in mine
            if _runs_here(entry) and (entry.version in begins or not (settled or entry.version in over))
        ]  # fmt: skip
        for entry in registry.switch(name, [*(entry for entry in mine if entry.key in ready), *kept], traffic):
            self._end(registry, entry)
        for entry in registry.ready(name):
            entry.reason = ready.get(entry.key, "")
        await self._forget(registry, name, versions, settled)

    def _note(self, registry: Registry, told: Told) -> None:
        """Note a version that is not open in the engine."""
        known = [entry for entry in registry.openings(told["name"]) if entry.version == told["version"]]
        state = told["state"], told["reason"]
        if not any(entry.state == "ready" or (entry.state, entry.reason) == state for entry in known):
            registry.note(told["name"], told["version"], *state)

    async def _forget(self, registry: Registry, name: str, versions: Sequence[Told], settled: bool) -> None:
        """Close what was staged in vain, and forget what the engine has forgotten."""
        staged = {told["key"] for told in versions if told["running"] is not None}
        known = {told["version"] for told in versions}
        for entry in registry.openings(name):
            if entry.servable is None and settled and entry.version not in known:
                registry.forget(entry)
            elif entry.servable is not None and entry.state == "loading" and entry.key not in staged:
                await registry.release(entry)

    def _end(self, registry: Registry, entry: Entry) -> None:
        """Let a version that was replaced answer what it has begun; the engine waits for that."""

        def ended(_: "asyncio.Task[None]") -> None:
            del self._ending[entry]
            self._tell_copied()
            self._news.set()  # what the engine has forgotten can be forgotten now

        self._ending[entry] = asyncio.create_task(registry.release(entry))
        self._ending[entry].add_done_callback(ended)

    def _tell_copied(self) -> None:
        """Tell the engine how far this copy is, and what still runs here that should not for long."""
        openings = self._registry.openings() if self._registry is not None else []
        failed = {entry.key: entry.reason for entry in openings if entry.state == "failed" and entry.opening}
        using = [entry.key for entry in self._ending]
        self.messenger.tell({"op": "copied", "revision": self._copied, "failed": failed, "using": using})

    def _engine_lost(self) -> None:
        """Models that live there wait for its successor; those that live here answer on."""
        self._latest = None
        self._copied = 0
        if (registry := self._registry) is None:
            return
        for name in registry.names():
            mine = registry.openings(name)
            for entry in registry.switch(name, [entry for entry in mine if _runs_here(entry)], registry.traffic(name)):
                self._end(registry, entry)
                registry.note(name, entry.version, "loading", "")


def _runs_here(entry: Entry) -> bool:
    return entry.state == "ready" and entry.servable is not None and not isinstance(entry.servable.jobs, RemoteJobs)
