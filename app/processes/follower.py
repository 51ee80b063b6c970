"""A worker's models: those that the engine told of, in the worker's own registry."""

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from app.errors import NotReady
from app.manifest import Manifest, ServingConfig
from app.processes.control import Control
from app.processes.link import Message
from app.processes.remote import Messenger, RemoteJobs
from app.processes.shared import Shared
from app.processes.told import Told, heard
from app.repository.registry import Registry
from app.servable import Resources, Servable, build, open_servable

logger = logging.getLogger("imago.processes")


class Follower:
    """Keeps a registry as the engine's: small models are opened here, the others get messengers."""

    def __init__(self, number: int, shared: Shared, resources: Resources) -> None:
        channel = shared.channels[number]
        self._loads = shared.loads
        self._resources = resources
        self._messenger = Messenger(channel.jobs, channel.answers, self._heard, self._engine_lost)
        self._told: dict[tuple[str, int], Told] = {}
        self._news: asyncio.Queue[Message] = asyncio.Queue()
        self._registry: Registry | None = None

    async def follow(self, registry: Registry, control: socket.socket, stop: Callable[[], None]) -> None:
        """Follow the engine until cancelled; calls `stop` when the supervisor is gone."""
        self._registry = registry
        connecting: set[asyncio.Task[None]] = set()

        def introduce(_: int, end: socket.socket) -> None:
            task = asyncio.create_task(self._messenger.connect(end))
            connecting.add(task)
            task.add_done_callback(connecting.discard)

        Control(control, introduce, stop)
        while True:
            await self._apply(registry, await self._news.get())

    async def open(self, folder: Path, manifest: Manifest, serving: ServingConfig) -> Servable:
        """Make the servable of a version that the engine told of.

        Raises:
            NotReady: the engine lost it meanwhile.
            InvalidModel, BackendMissing: as `open_servable`.
        """
        told = self._told[manifest.name, manifest.version]
        if told["running"] is None:
            raise NotReady("The engine lost this version.")
        running = heard(told)
        if running.inline:  # one thread each: the workers are as many as the cores
            plan = replace(running.plan, threads=1, lone_threads=1)
            return await open_servable(folder, manifest, serving, self._resources, plan)
        metrics = self._resources.metrics.of(manifest.task, manifest.name)
        key = f"{manifest.name}/{manifest.version}"
        limit = self._resources.max_queue_seconds
        jobs = RemoteJobs(self._messenger, key, told["place"], self._loads, limit, metrics, time.monotonic)
        return build(folder, manifest, running, jobs, self._resources)

    def _heard(self, message: Message) -> None:
        self._news.put_nowait(message)

    async def _apply(self, registry: Registry, message: Message) -> None:
        registry.look()
        for told in message["entries"]:
            key = told["name"], told["version"]
            self._told[key] = told
            if told["state"] == "ready":
                await registry.load(*key)
            else:
                registry.note(*key, told["state"], told["reason"])
        if message["settled"]:
            registry.settle()

    def _engine_lost(self) -> None:
        """Models that live there wait for its successor; those that live here answer on."""
        if self._registry is not None:
            for entry in self._registry.entries():
                if entry.servable is not None and isinstance(entry.servable.jobs, RemoteJobs):
                    self._registry.note(entry.name, entry.version, "loading", "")
