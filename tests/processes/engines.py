"""A real engine in the test's own loop, whose session runs when a gate opens, and workers that talk to it."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import numpy as np

from app.imaging.codec import Decoder
from app.manifest import Manifest
from app.processes.arena import Arena
from app.processes.connections import Connections
from app.processes.control import send_socket
from app.processes.engine import Engine
from app.processes.link import Message
from app.processes.loads import Load, Loads
from app.processes.remote import Messenger
from app.processes.shared import Channel, Shared
from app.repository.registry import Registry
from app.runtime.function import FunctionSession
from app.runtime.plan import Plan
from app.scheduling.batcher import Batcher, Deliver, Drop, Finished, Sessions, Ticket, outcome_of
from app.scheduling.policy import Lane, Limits
from app.security.limits import Accounts
from app.servable import Resources, Running, Servable, build
from app.serving import ServingConfig
from app.telemetry.board import Board
from app.telemetry.metrics import Metrics
from app.tensors import Tensors, TensorSpec
from tests.make_models import make_classifier
from tests.processes.scenario import pair, until

POISON = 66
FOREVER = 1e12
SIZE = 8
ROW_BYTES = SIZE * SIZE * 3
INPUTS = (TensorSpec("image", np.dtype("uint8"), (None, SIZE, SIZE, 3)),)
OUTPUTS = (TensorSpec("probabilities", np.dtype("float32"), (None, 3)),)
RUNNING = Running("cpu", INPUTS, OUTPUTS, Plan(1, 1, 1, 4, 0.001, {1: 0.001, 4: 0.002}), inline=False)
LIMITS = Limits(max_batch_size=4)


class Gate:
    """The function of a session: the first pixel is the answer; waits for its gate, notes batches, fails on poison."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.opened.set()
        self.entered = threading.Event()
        self.batches: list[list[int]] = []

    def __call__(self, tensors: Tensors) -> Tensors:
        self.entered.set()
        assert self.opened.wait(10)
        values = tensors["image"][:, 0, 0, 0].tolist()
        self.batches.append(values)
        if POISON in values:
            raise RuntimeError("poison")
        return {"probabilities": tensors["image"][:, 0, 0].astype(np.float32)}

    async def was_entered(self) -> None:
        assert await asyncio.to_thread(self.entered.wait, 10)


class Caller:
    """One worker: its messenger, what it was told, and the wire between it and the engine."""

    def __init__(self, shared: Shared, worker: int) -> None:
        channel = shared.channels[worker]
        self.worker = worker
        self.told: list[Message] = []
        self.lost = 0
        self.load = Load(shared.loads, worker, 0)
        self.messenger = Messenger(channel.jobs, channel.answers, self.told.append, self._lose)
        self._wire: socket.socket | None = None

    @property
    def key(self) -> str:
        """What the engine calls its model."""
        key: str = self.told[-1]["entries"][0]["key"]
        return key

    def run(
        self, value: int, rows: int = 1, deadline: float = FOREVER, key: str | None = None
    ) -> "asyncio.Task[Finished]":
        """Send a job whose pixels have this value."""
        key = key or self.key
        tensors = {"image": np.full((rows, SIZE, SIZE, 3), value, np.uint8)}

        def start(deliver: Deliver) -> Drop:
            drop = self.messenger.start(key, tensors, rows, deadline, deliver, partial(self.load.add, -rows))
            self.load.add(rows)
            return drop

        return asyncio.create_task(outcome_of(start))

    async def connect(self, control: socket.socket) -> None:
        """Be introduced to the engine at the other end of its control socket, as by the supervisor."""
        here, there = pair()
        self._wire = here.dup()
        with there:
            send_socket(control, self.worker, there)
        await self.messenger.connect(here)

    def cut(self) -> None:
        """End the wire, as the death of either process does: both ends hear it."""
        if self._wire is not None:
            self._wire.shutdown(socket.SHUT_RDWR)
            self._wire.close()
        self._wire = None

    def _lose(self) -> None:
        self.lost += 1


class House:
    """An engine with one model, all that is around it, and the time of its lane."""

    def __init__(
        self, folder: Path, pool: ThreadPoolExecutor, workers: int, limits: Limits, arenas: tuple[int, int]
    ) -> None:
        channels = tuple(Channel(*map(Arena, arenas)) for _ in range(workers))
        self.shared = Shared(
            workers, (), Board(workers + 2), Loads(workers), channels, Connections(workers), (), Accounts(workers)
        )
        self.metrics = Metrics(self.shared.board, self.shared.engine_slot)
        self.gate = Gate()
        self.now = 0.0
        self.control, self.its_control = pair()
        self._resources = Resources(Decoder(), pool, self.metrics)
        self._limits = limits
        self.registry = Registry(folder, self._open, {}, self.metrics.models_loaded.set)
        self.engine = Engine(self.registry, self.shared, 0, lambda registry: None)

    @property
    def batcher(self) -> Batcher:
        """Whatever lane the model has."""
        (entry,) = self.registry.openings()
        return self.engine.batcher(entry.key)

    def hold(self) -> None:
        """Let the next batch wait until the gate is opened again."""
        self.gate.opened.clear()
        self.gate.entered.clear()

    def taken(self, worker: int = 0) -> list[str]:
        """The arenas of a worker from which something was not given back."""
        channel = self.shared.channels[worker]
        return [str(arena) for arena in (channel.jobs, channel.answers) if not str(arena).startswith("<Arena: 0 ")]

    async def _open(self, path: Path, manifest: Manifest, serving: ServingConfig) -> Servable:
        lane: Lane[Ticket] = Lane(self._limits)
        session = Sessions(FunctionSession(self.gate, INPUTS, OUTPUTS))
        model = self.metrics.of(manifest.task, manifest.name, manifest.version)
        batcher = Batcher(f"{manifest.name}/{manifest.version}", session, lane, model, clock=lambda: self.now)
        return build(path, manifest, RUNNING, batcher, self._resources)


@asynccontextmanager
async def engine(
    folder: Path, workers: int = 1, limits: Limits = LIMITS, arena_bytes: int = 2**20, answer_bytes: int = 2**20
) -> AsyncIterator[tuple[House, Sequence[Caller]]]:
    """An engine that has loaded `tiny-classifier`, and workers that were told so."""
    make_classifier(folder)
    with ThreadPoolExecutor(1) as pool:
        house = House(folder, pool, workers, limits, (arena_bytes, answer_bytes))
        running = asyncio.create_task(house.engine.run(house.its_control))
        callers = [Caller(house.shared, worker) for worker in range(workers)]
        try:
            for one in callers:
                await one.connect(house.control)
            await until(lambda: all(one.told and one.told[-1]["settled"] for one in callers))
            yield house, callers
        finally:
            house.gate.opened.set()
            for one in callers:
                one.cut()
            house.control.close()
            await running
            house.its_control.close()
