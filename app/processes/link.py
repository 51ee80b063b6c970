"""Short messages between two processes, in order, over a connected pair of Unix sockets."""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any, cast

import orjson

logger = logging.getLogger("imago.processes")

Message = dict[str, Any]
_LENGTH = 4


class Link(asyncio.Protocol):
    """One end. What is sent in one turn of the loop goes out together, and so arrives."""

    def __init__(self, on_message: Callable[[Message], None], on_closed: Callable[[], None]) -> None:
        self._on_message = on_message
        self._on_closed = on_closed
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._over = False
        self._received = bytearray()
        self._sending: list[bytes] = []

    async def open(self, end: socket.socket) -> None:
        """Use one end of a socket pair; what was sent before goes out now."""
        await self._loop.create_unix_connection(lambda: self, sock=end)

    def send(self, message: Message) -> None:
        """Send a message, or drop it where the other end is gone: `on_closed` tells."""
        if self._over:
            return
        body = orjson.dumps(message)
        if not self._sending:
            self._loop.call_soon(self._flush)
        self._sending += [len(body).to_bytes(_LENGTH, "little"), body]

    def close(self) -> None:
        """Send what waits, and close; nothing is received any more."""
        self._flush()
        self._over = True
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast(asyncio.Transport, transport)  # what uvloop passes is one in behaviour, not by class
        if self._over:
            transport.close()
        else:
            self._flush()

    def data_received(self, data: bytes) -> None:
        """Called by the loop: hand over every message that is complete."""
        if self._over:
            return
        self._received += data
        start, received = 0, self._received
        while len(received) - start >= _LENGTH:
            end = start + _LENGTH + int.from_bytes(received[start : start + _LENGTH], "little")
            if len(received) < end:
                break
            self._hand_over(received[start + _LENGTH : end])
            start = end
        del received[:start]

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        self._over, self._transport = True, None
        self._sending.clear()
        self._on_closed()

    def _hand_over(self, body: bytearray) -> None:
        try:
            self._on_message(orjson.loads(body))
        except Exception:  # a message that cannot be handled must not end the link that all others take
            logger.exception("a message of %d bytes could not be handled", len(body))

    def _flush(self) -> None:
        if self._transport is not None and self._sending:
            waiting, self._sending = self._sending, []
            self._transport.write(b"".join(waiting))
