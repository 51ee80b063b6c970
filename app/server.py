"""The HTTP server: uvicorn on sockets of our own. The one home of uvicorn."""

import asyncio
import gc
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.errors import InvalidSettings
from app.processes.connections import Acceptor
from app.processes.shared import Shared
from app.settings import Settings

_ALLOCATIONS = 20_000
"""Container objects made before the collector looks through the young ones: some hundred requests. The default of 700
is met by every third one."""
_BACKLOG = 2048
"""Connections that the kernel keeps until one is accepted."""


def listen(host: str, port: int) -> tuple[socket.socket, ...]:
    """Sockets that listen on every address of a host; with port 0 on the same free one.

    Raises:
        InvalidSettings: the name has no address here, or the port is taken.
    """
    listeners: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, (address, _, *_) in dict.fromkeys(found):
            chosen = listeners[0].getsockname()[1] if listeners else port
            listeners.append(socket.create_server((str(address), chosen), family=family, backlog=_BACKLOG))
    except OSError as error:
        for listener in listeners:
            listener.close()
        raise InvalidSettings(f"host {host!r}, port {port}: {error.strerror}.") from None
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
    return uvicorn.Config("").get_loop_factory()


class Server(uvicorn.Server):
    """Serves an application on sockets that listen already: alone, or as one of the workers that share them."""

    def __init__(self, app: FastAPI, settings: Settings, shared: Shared | None = None, worker: int = 0) -> None:
        config = uvicorn.Config(
            app,
            http=HttpToolsProtocol,
            log_config=None,
            access_log=False,
            server_header=False,
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
        gc.freeze()  # what was imported stays: looking through it again costs a pause of tens of milliseconds
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
        await super().shutdown(sockets)

    def _serve_connection(self, connection: socket.socket) -> None:
        assert self._shared is not None
        closed = partial(self._shared.connections.closed, self._worker)

        def protocol() -> _Counted:
            return _Counted(closed, self.config, self.server_state, self.lifespan.state)

        serving = asyncio.ensure_future(asyncio.get_running_loop().connect_accepted_socket(protocol, connection))
        self._connecting.add(serving)
        serving.add_done_callback(self._connecting.discard)


class _Counted(HttpToolsProtocol):
    """A connection that tells its end."""

    def __init__(self, closed: Callable[[], None], *arguments: Any) -> None:
        super().__init__(*arguments)
        self._closed = closed

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        super().connection_lost(exc)
        self._closed()
