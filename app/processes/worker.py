"""One worker as the engine sees it: the jobs that it sends, the answers that go back, and what it has heard."""

import asyncio
import logging
import socket
from functools import partial
from typing import TYPE_CHECKING

from app.errors import InternalError, NotReady, Overloaded, ServiceError
from app.processes.arena import ArenaFull
from app.processes.link import Link, Message
from app.processes.shared import Channel
from app.scheduling.batcher import Batcher, Finished, Outcome, Ticket
from app.telemetry.logs import request_id

if TYPE_CHECKING:
    from app.processes.engine import Engine

logger = logging.getLogger("imago.processes")

_NOT_YET: Message = {"revision": 0, "failed": {}, "using": []}


class Worker:
    """One worker as the engine sees it: a place that one process after the other takes."""

    def __init__(self, engine: "Engine", channel: Channel) -> None:
        self._engine = engine
        self._channel = channel
        self._link: Link | None = None
        self._newest: socket.socket | None = None
        self._tickets: dict[int, tuple[Batcher, Ticket]] = {}
        self._idle = asyncio.Event()
        self._copied = _NOT_YET
        """What it has of what it was told."""

    @property
    def failed(self) -> dict[str, str]:
        """What it could not open, by key, and why."""
        failed: dict[str, str] = self._copied["failed"]
        return failed if self._link is not None else {}

    def has(self, revision: int) -> bool:
        """Whether it is as this revision told, or newer; a place that nobody has needs nothing."""
        return self._link is None or self._copied["revision"] >= revision

    def uses(self, key: str) -> bool:
        """Whether requests may still run there on what has this key, as far as it was heard."""
        return self._link is not None and key in self._copied["using"]

    async def connect(self, end: socket.socket) -> None:
        """Talk to the process at the other end, once no batch reads memory that its predecessor filled."""
        self._newest = end
        self._lose(self._link)
        await self._idle.wait()
        if self._newest is not end:  # it is gone, too
            end.close()
            return
        self._channel.answers.clear()
        self._copied = _NOT_YET
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
        self._engine.hear()

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
            case "copied":
                self._copied = message
                self._engine.hear()
            case "command":
                self._engine.obey(self, message)

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
        self.tell({"op": "failed", "id": number, **refusal(error, f"job {number} of a worker could not be run")})


def refusal(error: Exception, what: str) -> Message:
    """An error as it goes into a message; the text of one that is no refusal goes to the log."""
    if not isinstance(error, ServiceError):
        logger.error("%s", what, exc_info=error)
        error = InternalError()
    return {"error": error.code, "detail": error.detail, "retry_after": getattr(error, "retry_after", 0.0)}
