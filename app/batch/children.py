"""Answers in a process more: the same as `embedded`, at the other end of a socket."""

import asyncio
import multiprocessing
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from multiprocessing.process import BaseProcess
from typing import Self

from app.batch.embedded import Chosen, Embedded
from app.batch.records import Record
from app.batch.sources import Source
from app.errors import ImagoError, InvalidBatch, ProcessDied
from app.processes.link import Link, Message
from app.runtime.plan import Plan
from app.servable import Resources, open_servable
from app.settings import Settings
from app.tasks.base import TaskOptions

MakeResources = Callable[[Settings, bool], Resources]
"""What a process's servable is opened with, and whether a small model runs between the pictures: a function of a
module, so that it travels to another process."""


@dataclass(frozen=True)
class Orders:
    """What every process of one run does."""

    settings: Settings
    make_resources: MakeResources
    chosen: Chosen
    options: TaskOptions
    source: Source
    inline: bool = False
    """Whether a small model runs on the event loop's thread."""

    async def answerer(self, plan: Plan | None = None) -> Embedded:
        """An answerer of this process; with a `plan` nothing is measured.

        Raises:
            InvalidModel, BackendMissing: as `open_servable`.
        """
        resources = self.make_resources(self.settings, self.inline)
        manifest, serving = self.chosen.manifest, self.chosen.folder.serving
        folder = self.chosen.folder.version_path(manifest.version)
        servable = await open_servable(folder, manifest, serving, resources, plan)
        return Embedded(servable, self.options, self.source, self.settings.max_body_bytes, resources.pool)


class Child:
    """An answerer in another process."""

    lanes = 2
    """While one chunk runs, the next one has arrived."""

    def __init__(self, process: BaseProcess, chunk: int) -> None:
        self.chunk = chunk
        self._process = process
        self._link = Link(self._receive, self._lost)
        self._numbers = count()
        self._waiting: dict[int, asyncio.Future[list[Record]]] = {}
        self._closed = False

    @classmethod
    async def start(cls, orders: Orders, plan: Plan) -> Self:
        """Start a process; it takes chunks at once and answers when its model is open."""
        ours, theirs = socket.socketpair()
        context = multiprocessing.get_context("spawn")  # threads run here by now: a fork would copy their locks
        process = context.Process(target=_be_child, args=(theirs, orders, plan), daemon=True)
        with theirs:
            await asyncio.to_thread(process.start)
        child = cls(process, 2 * plan.max_batch_size * plan.concurrency)
        await child._link.open(ours)
        return child

    async def answer(self, names: Sequence[str]) -> Sequence[Record]:
        """As `Answerer.answer`.

        Raises:
            ProcessDied: the process ended.
            InvalidBatch: it said why nobody can answer.
        """
        if self._closed:
            raise ProcessDied
        number = next(self._numbers)
        answer: asyncio.Future[list[Record]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        self._link.send({"id": number, "names": list(names)})
        return await answer

    async def close(self) -> None:
        """End the process, whatever it does."""
        self._link.close()
        self._process.terminate()
        await asyncio.to_thread(self._process.join)

    def _receive(self, message: Message) -> None:
        waiting = self._waiting.pop(message["id"])
        if waiting.done():
            return  # nobody waits any more
        if "error" in message:
            waiting.set_exception(InvalidBatch(message["error"]))
        else:
            waiting.set_result([Record(name, error, line.encode()) for name, error, line in message["records"]])

    def _lost(self) -> None:
        self._closed = True
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(ProcessDied())


def _be_child(end: socket.socket, orders: Orders, plan: Plan) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends this process
    asyncio.run(_serve(end, orders, plan))


async def _serve(end: socket.socket, orders: Orders, plan: Plan) -> None:
    """In a child: answer chunks until the parent closes its end, or is gone."""
    over = asyncio.Event()
    answerer = asyncio.ensure_future(orders.answerer(plan))
    running: set[asyncio.Task[None]] = set()

    def receive(message: Message) -> None:
        task = asyncio.create_task(_answer(link, answerer, message))
        running.add(task)
        task.add_done_callback(running.discard)

    link = Link(receive, over.set)
    await link.open(end)
    await over.wait()


async def _answer(link: Link, answerer: "asyncio.Future[Embedded]", message: Message) -> None:
    try:
        embedded = await asyncio.shield(answerer)
        chunks = await asyncio.gather(*(embedded.answer([name]) for name in message["names"]))
    except ImagoError as error:
        link.send({"id": message["id"], "error": error.detail})
        return
    records = [(record.name, record.error, record.line.decode()) for chunk in chunks for record in chunk]
    link.send({"id": message["id"], "records": records})
