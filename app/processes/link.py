"""Short messages between two processes, in order, over a connected pair of Unix sockets."""

import asyncio
import socket
from collections.abc import Callable
from typing import Any, cast

import orjson

Message = dict[str, Any]
_LENGTH = 4


class Link(asyncio.Protocol):
    """One end. What is sent in one turn of the loop goes out together, and so arrives."""

    def __init__(self, on_message: Callable[[Message], None], on_closed: Callable[[], None]) -> None:
        self._on_message = on_message
        self._on_closed = on_closed
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._sending: list[bytes] = []

    def send(self, message: Message) -> None:
        """Send a message, or drop it where the other end is gone: `on_closed` tells."""
        if not self._sending:
            self._loop.call_soon(self._flush)
        body = orjson.dumps(message)
        self._sending += [len(body).to_bytes(_LENGTH, "little"), body]

    def close(self) -> None:
        """Send what waits, and close."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast(asyncio.Transport, transport)  # what uvloop passes is one in behaviour, not by class

    def data_received(self, data: bytes) -> None:
        """Called by the loop: hand over every message that is complete."""
        self._received += data
        start, received = 0, self._received
        while len(received) - start >= _LENGTH:
            end = start + _LENGTH + int.from_bytes(received[start : start + _LENGTH], "little")
            if len(received) < end:
                break
            message = orjson.loads(received[start + _LENGTH : end])
            start = end
            self._on_message(message)
        del received[:start]

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        self._transport = None
        self._on_closed()

    def _flush(self) -> None:
        waiting, self._sending = self._sending, []
        if self._transport is not None and waiting:
            self._transport.write(b"".join(waiting))


async def connect(
    end: socket.socket, on_message: Callable[[Message], None], on_closed: Callable[[], None] = lambda: None
) -> Link:
    """Make a link of one end of a socket pair."""
    loop = asyncio.get_running_loop()
    _, link = await loop.create_unix_connection(lambda: Link(on_message, on_closed), sock=end)
    return link
