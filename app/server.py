"""The HTTP server: uvicorn on sockets of our own. The one home of uvicorn."""

import asyncio
import errno
import gc
import logging
import socket
from collections.abc import Callable, Sized
from functools import partial
from typing import Any, cast

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.api.fast_path import Exchange, FastPath
from app.errors import InvalidSettings
from app.processes.connections import Acceptor
from app.processes.shared import Shared
from app.settings import Settings

logger = logging.getLogger("imago.processes")

_ALLOCATIONS = 20_000
"""Container objects made before the collector looks through the young ones. With the default, 700, it does so every few
requests, and finds nothing: a request leaves no circles (tests/api/test_fast_path.py)."""
_LONGEST_HEAD = 2**16
"""Bytes of headers: as many as uvicorn takes with its other parser; with this one it takes any number."""
_ABSENT = frozenset((errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT))
"""Of an address that this machine does not have: `localhost` is one of IPv6 even where there is none."""
_BACKLOG = 2048
"""Connections that the kernel keeps until one is accepted."""


def listen(host: str, port: int) -> tuple[socket.socket, ...]:
    """Sockets that listen on every address of a host that this machine has; with port 0 on the same free one.

    Raises:
        InvalidSettings: the name has no address here, or the port is taken.
    """
    listeners: list[socket.socket] = []
    try:
        found = dict.fromkeys(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE))
        for place, (family, _, _, _, (address, _, *_)) in enumerate(found, 1):
            chosen = listeners[0].getsockname()[1] if listeners else port
            try:
                listeners.append(socket.create_server((str(address), chosen), family=family, backlog=_BACKLOG))
            except OSError as error:
                if error.errno not in _ABSENT or (place == len(found) and not listeners):
                    raise
    except (OSError, UnicodeError) as error:
        for listener in listeners:
            listener.close()
        told = error.strerror if isinstance(error, OSError) else "No host can have this name"
        reason = str(told).partition(" (")[0]  # what stands behind says the address again
        raise InvalidSettings(f"host {host!r}, port {port}: {reason}.") from None
    return tuple(listeners)


def addresses(listeners: tuple[socket.socket, ...]) -> list[str]:
    """Where a browser finds each of these sockets."""
    urls = []
    for listener in listeners:
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        urls.append(f"http://{'localhost' if shown in ('0.0.0.0', '[::]') else shown}:{port}")  # noqa: S104 - only shown
    return urls


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The fastest event loop there is here: uvloop's, or asyncio's own."""
    return uvicorn.Config("", log_config=None).get_loop_factory()


class Server(uvicorn.Server):
    """Serves an application on sockets that listen already: alone, or as one of the workers that share them."""

    def __init__(self, app: FastAPI, settings: Settings, shared: Shared | None = None, worker: int = 0) -> None:
        self._closed: Callable[[], None] = lambda: None
        if shared is not None:
            self._closed = partial(shared.connections.closed, worker)
        config = uvicorn.Config(
            app,
            http=cast(Any, partial(_Connection, app.state.fast_path, self._closed)),
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            proxy_headers=False,  # nothing here asks who the caller is
            timeout_graceful_shutdown=settings.drain_seconds,
        )
        super().__init__(config)
        self._shared = shared
        self._worker = worker
        self._acceptor: Acceptor | None = None
        self._connecting: set[asyncio.Task[Any]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start as uvicorn does; a worker shares connections out with the others."""
        await super().startup(sockets)
        gc.freeze()  # what was imported stays: a full collection need not look through it again and again
        gc.set_threshold(_ALLOCATIONS)
        if (shared := self._shared) is not None:
            self._acceptor = Acceptor(
                self._worker, shared.listeners, shared.connections, shared.inboxes, self._serve_connection
            )
            self._acceptor.start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more, then stop as uvicorn does."""
        if self._acceptor is not None:
            self._acceptor.stop()
        if self._connecting:  # one that uvicorn does not know yet would not be told, and keep it waiting
            await asyncio.wait(self._connecting)
        await super().shutdown(sockets)

    def _serve_connection(self, connection: socket.socket) -> None:
        def protocol() -> asyncio.Protocol:
            return self.config.http_protocol_class(
                config=self.config, server_state=self.server_state, app_state=self.lifespan.state
            )  # type: ignore[call-arg]

        loop = asyncio.get_running_loop()
        connecting = loop.create_task(loop.connect_accepted_socket(protocol, connection))
        self._connecting.add(connecting)
        connecting.add_done_callback(self._connected)

    def _connected(self, connecting: "asyncio.Task[Any]") -> None:
        self._connecting.discard(connecting)
        if not connecting.cancelled() and (error := connecting.exception()) is not None:
            logger.warning("a connection could not be served: %s", error)
            self._closed()


class _Connection(HttpToolsProtocol):
    """A connection that offers its requests the fast path, and tells its end."""

    def __init__(self, fast_path: FastPath, closed: Callable[[], None], **rest: Any) -> None:
        super().__init__(**rest)
        self._fast_path = fast_path
        self._closed = closed
        self._head = 0
        """Bytes that came since the last that are kept nowhere: of headers, or between the chunks of a body."""
        self._begins = False
        """Whether a request has begun whose headers are not complete."""
        self._running: RequestResponseCycle | None = None
        self._idle_since: float | None = None
        self._idle_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called by the loop."""
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)

    def data_received(self, data: bytes) -> None:
        """Called by the loop: parse what came; headers without end are refused, which the parser would keep."""
        self._head += len(data)
        super().data_received(data)
        if self._head > _LONGEST_HEAD and not self.transport.is_closing():
            self.send_400_response("The headers are too long.")

    def on_message_begin(self) -> None:
        """Called by the parser."""
        super().on_message_begin()
        self._head = 0
        self._begins = True
        self._idle_since = None

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        self._head = 0
        super().on_body(body)

    def on_short_response_complete(self) -> None:
        """What `on_response_complete` does, but that one timer watches the connection for as long as it lives: one for
        every answer, cancelled by the next request, costs as much as parsing that."""
        if self.pipeline or self.transport.is_closing():
            self.on_response_complete()
            return
        self.server_state.total_requests += 1
        if self._begins:
            return  # the next request has begun to arrive: the end of its answer sets the timer
        self._idle_since = self.loop.time()
        if self._idle_timer is None:
            self._idle_timer = self.loop.call_later(self.timeout_keep_alive, self._close_if_idle)

    def on_response_complete(self) -> None:
        """Called at the end of an answer that came the long way, or that requests wait behind."""
        if self.pipeline:
            self._running = self.pipeline[-1][0]
        super().on_response_complete()
        if self._begins:
            self._unset_keepalive_if_required()

    def _close_if_idle(self) -> None:
        self._idle_timer = None
        if self._idle_since is None:
            return  # a request is on its way; the end of its answer sets the timer
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left <= 0:
            self.transport.close()
        else:
            self._idle_timer = self.loop.call_later(left, self._close_if_idle)

    def on_headers_complete(self) -> None:
        """Called by the parser: begin the request's cycle, the short one if it may take it and nothing waits before."""
        self._begins = False
        self._head = 0
        parser = self.parser
        free = self.cycle is None or self.cycle.response_complete
        if (
            free
            and parser.get_method() == b"POST"
            and parser.should_keep_alive()
            and not (self.expect_100_continue or self.flow.write_paused or parser.should_upgrade())
            and parser.get_http_version() == "1.1"
            and (exchange := self._fast_path.offer(self.url, self.headers)) is not None
        ):
            self.cycle = cast(RequestResponseCycle, _ShortCycle(self, exchange))
        else:
            super().on_headers_complete()
        if free:
            self._running = self.cycle

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop; uvicorn tells the newest request alone, which may wait behind the one that runs."""
        super().connection_lost(exc)
        running = self._running
        if running is not None and running is not self.cycle and not running.response_complete:
            running.disconnected = True
            running.message_event.set()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        self._closed()


class _Flow(FlowControl):
    """Reads no more while requests wait behind one that runs: uvicorn's reads on with every answer, and keeps without
    end what is sent by a caller that does not wait for them."""

    def __init__(self, transport: asyncio.Transport, pipeline: Sized) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        """Called whenever a request may have more to read."""
        if not self._pipeline:
            super().resume_reading()


class _ShortCycle:
    """What stands for uvicorn's cycle of request and response while a request takes the fast path: the protocol fills
    `body` and calls `message_event.set`, and looks whether the response is complete."""

    def __init__(self, connection: _Connection, exchange: Exchange) -> None:
        self.body = bytearray()
        self.more_body = True
        self.response_complete = False
        self.disconnected = False
        self.keep_alive = True
        self._connection = connection
        self._exchange = exchange

    @property
    def message_event(self) -> "_ShortCycle":
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

    def _respond(self, status: bytes, answer: bytes) -> None:
        connection = self._connection
        if connection.transport.is_closing():
            return
        own = [b"%b: %b\r\n" % header for header in connection.server_state.default_headers]
        closing = b"" if self.keep_alive else b"connection: close\r\n"
        connection.transport.write(b"".join([status, *own, closing, answer]))
        self.response_complete = True
        if not self.keep_alive:
            connection.transport.close()
        connection.on_short_response_complete()
