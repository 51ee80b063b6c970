"""A worker's models: those that the engine told of, in the worker's own registry."""

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from app.errors import InvalidSettings
from app.manifest import Manifest, ServingConfig
from app.processes.control import Control
from app.processes.link import Message
from app.processes.loads import Load
from app.processes.remote import Messenger, RemoteJobs
from app.processes.shared import Shared
from app.processes.told import Told, heard
from app.repository.registry import Entry, Registry
from app.servable import Resources, Servable, build, open_servable

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
        self._messenger = Messenger(channel.jobs, channel.answers, self._heard, self._engine_lost)
        self._told: dict[tuple[str, int], Told] = {}
        self._latest: Message | None = None
        """What the engine told last: each message tells of everything."""
        self._news = asyncio.Event()
        self._registry: Registry | None = None

    async def follow(self, registry: Registry, control: socket.socket, stop: Callable[[], None]) -> None:
        """Follow the engine until cancelled; calls `stop` when the supervisor is gone, or this fails."""
        self._registry = registry
        connecting: set[asyncio.Task[None]] = set()

        def introduce(_: int, end: socket.socket) -> None:
            task = asyncio.create_task(self._messenger.connect(end))
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
        key = f"{manifest.name}/{manifest.version}"
        limit = self._resources.max_queue_seconds
        load = Load(self._loads, self._number, told["place"])
        jobs = RemoteJobs(self._messenger, key, load, limit, metrics, time.monotonic)
        return build(folder, manifest, running, jobs, self._resources)

    def _heard(self, message: Message | None) -> None:
        self._latest = message
        self._news.set()

    async def _apply(self, registry: Registry, message: Message) -> None:
        """Do as the engine did, unless it tells of something newer meanwhile, or is gone."""
        try:
            registry.look()
        except (InvalidSettings, OSError) as error:
            logger.error("no models can be looked for now: %s", error)
            asyncio.get_running_loop().call_later(_RETRY, self._news.set)
            return
        for told in message["entries"]:
            if self._latest is not message:
                return
            await self._copy(registry, told)
        if message["settled"] and self._latest is message:
            registry.settle()
            self._connections.ready(self._number)

    async def _copy(self, registry: Registry, told: Told) -> None:
        """Bring one version to the state that it has in the engine. What runs here answers on while an engine begins
        anew."""
        key = told["name"], told["version"]
        self._told[key] = told
        if told["state"] == "ready":
            await registry.load(*key)
            return
        known = registry.find("{}/{}".format(*key))
        state = told["state"], told["reason"]
        if known is None or (not _runs_here(known) and (known.state, known.reason) != state):
            registry.note(*key, *state)

    def _engine_lost(self) -> None:
        """Models that live there wait for its successor; those that live here answer on."""
        self._latest = None
        if self._registry is not None:
            for entry in self._registry.entries():
                if entry.servable is not None and not _runs_here(entry):
                    self._registry.note(entry.name, entry.version, "loading", "")


def _runs_here(entry: Entry) -> bool:
    return entry.servable is not None and not isinstance(entry.servable.jobs, RemoteJobs)
