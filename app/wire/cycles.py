"""One request and its response on a connection: uvicorn's cycle with an application, or a short one without."""

import asyncio
from collections.abc import Sized
from typing import Any, Final, Protocol, cast

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from app.api.fast_path import Exchange
from app.api.uploads import RECEIVED
from app.errors import RequestTimeout

_PART: Final = 2**20


class Flow(FlowControl):
    """Reads no more while requests wait behind one that runs: uvicorn's reads on with every answer, and keeps without
    end what is sent by a caller that does not wait for them."""

    def __init__(self, transport: asyncio.Transport, pipeline: Sized) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        """Called whenever a request may have more to read."""
        if not self._pipeline:
            super().resume_reading()


class Wire(Protocol):
    """What a short cycle needs of its connection."""

    transport: asyncio.Transport

    def own_headers(self) -> bytes:
        """What the server adds to every answer."""

    def on_response_complete(self) -> None:
        """Called at the end of the answer."""


class LongCycle(RequestResponseCycle):
    """uvicorn's cycle of request and response, for a body that may be late and an answer that may be early."""

    early = False
    """Whether the answer began before the end of the request: it is the last one on its connection."""
    _late = False
    _received = 0

    def moves(self) -> bool:
        """Whether another MiB came since this was asked last, of a body whose length is counted because it may be long:
        each has the time that others have for all of it."""
        received = cast(int, self.scope.get(RECEIVED, 0))
        moved, self._received = received - self._received >= _PART, received
        return moved

    def be_late(self) -> None:
        """Called when the body is overdue: whoever reads it is to answer so."""
        self._late = True
        self.message_event.set()

    async def receive(self) -> Any:
        """What ASGI calls; raises `RequestTimeout` where the body is late."""
        message = await super().receive()
        if self._late and message["type"] == "http.request":
            raise RequestTimeout
        return message

    async def send(self, message: Any) -> None:
        """What ASGI calls; an answer that begins before the body ended says that it is the last one here."""
        if message["type"] == "http.response.start" and self.more_body:
            self.early = True
            self.keep_alive = False
        elif self.early and not message.get("more_body", False):
            self.keep_alive = True  # else uvicorn would close at once: the connection does, when it has read the rest
        await super().send(message)


class ShortCycle:
    """What stands for uvicorn's cycle of request and response while a request takes the fast path: the protocol fills
    `body` and calls `message_event.set`, and looks whether the response is complete."""

    def __init__(self, connection: Wire, exchange: Exchange) -> None:
        self.early = False
        self.body = bytearray()
        self.more_body = True
        self.response_complete = False
        self.disconnected = False
        self.keep_alive = True
        self._connection = connection
        self._exchange = exchange

    @property
    def message_event(self) -> "ShortCycle":
        """Itself: an attribute would leave every request to the garbage collector."""
        return self

    def set(self) -> None:
        """Begin once the body is whole; give up when the caller is gone."""
        if self.disconnected:
            self._exchange.leave()
        elif not (self.more_body or self.response_complete):
            body = bytes(self.body)
            self.body.clear()  # this object stays until the next request of its connection
            self._exchange.begin(body, self._respond)

    def moves(self) -> bool:
        """As `LongCycle.moves`: its body is short."""
        return False

    def be_late(self) -> None:
        """Called when the body is overdue."""
        self.early = True
        self.keep_alive = False
        self._exchange.refuse(RequestTimeout(), self._respond)

    def _respond(self, status: bytes, answer: bytes) -> None:
        connection = self._connection
        if self.disconnected or connection.transport.is_closing():
            return
        closing = b"" if self.keep_alive else b"connection: close\r\n"
        connection.transport.write(b"".join([status, connection.own_headers(), closing, answer]))
        self.response_complete = True
        if not (self.keep_alive or self.early):
            connection.transport.close()
        connection.on_response_complete()


Cycle = LongCycle | ShortCycle
