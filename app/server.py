"""The HTTP server: uvicorn on sockets of our own. The one home of uvicorn."""

import asyncio
import errno
import faulthandler
import gc
import logging
import os
import signal
import socket
import ssl
from collections.abc import Callable, Sequence
from functools import partial
from ipaddress import ip_address
from types import FrameType
from typing import Any, Protocol, cast

import uvicorn
from fastapi import FastAPI

from app.drain import Drain
from app.errors import InvalidSettings
from app.processes.connections import Acceptor, Connections
from app.processes.shared import Shared
from app.settings import Settings
from app.wire.connection import LAST_SECONDS, Connection, Timeouts
from app.wire.tls import server_context

logger = logging.getLogger("imago.processes")

_ALLOCATIONS = 20_000
"""Container objects made before the collector looks through the young ones. With the default, 700, it does so every few
requests, and finds nothing: a request leaves no circles (tests/api/test_fast_path.py)."""
_ABSENT = frozenset((errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT))
"""Of an address that this machine does not have: `localhost` is one of IPv6 even where there is none."""
_NO_KEYS = (
    "others can reach it: ask them for --keys, which `imago keys create` makes, or let them in by --insecure-no-auth"
)
_ALWAYS_TLS = ("strict-transport-security", "max-age=31536000")
"""Told over TLS alone: browsers use nothing else here from then on (RFC 6797)."""
_BACKLOG = 2048
"""Connections that the kernel keeps until one is accepted."""
_SWEEP_SECONDS = 0.1
"""How often connections are looked through for what is overdue: one timer for all of them, and no clock is read for a
request that comes in one piece. A thousand take some 30 us of a core each time."""
_GRACE = 5.0
"""Seconds after its drain in which a process that is alone must have ended: a session that never returns would keep it
for ever. Among several it is the supervisor that counts."""
_STDERR = 2


def listen(host: str, port: int, public: bool = False) -> tuple[socket.socket, ...]:
    """Sockets that listen on every address of a host that this machine has; with port 0 on the same free one.

    Raises:
        InvalidSettings: the name has no address here, the port is taken, or others can reach it and the service is not
            meant to be `public`.
    """
    listeners: list[socket.socket] = []
    try:
        found = dict.fromkeys(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE))
        for place, (family, _, _, _, (address, _, *_)) in enumerate(found, 1):
            if not (public or ip_address(str(address).partition("%")[0]).is_loopback):
                raise OSError(errno.EACCES, _NO_KEYS)
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


def addresses(listeners: tuple[socket.socket, ...], scheme: str = "http") -> list[str]:
    """Where a browser finds each of these sockets."""
    urls = []
    for listener in listeners:
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        urls.append(f"{scheme}://{'localhost' if shown in ('0.0.0.0', '[::]') else shown}:{port}")  # noqa: S104 - only shown
    return urls


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """What connections are encrypted with; None where they are not. Raises `InvalidSettings` as `server_context`."""
    if settings.tls_certificate is None:
        return None
    return server_context(settings.tls_certificate, settings.tls_key)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The fastest event loop there is here: uvloop's, or asyncio's own."""
    return uvicorn.Config("", log_config=None).get_loop_factory()


class Rpc(Protocol):
    """What serves beside HTTP, from the same start to the same stop."""

    async def start(self, listeners: Sequence[socket.socket]) -> None:
        """Listen on the addresses of these sockets."""

    async def stop(self, seconds: float) -> None:
        """Take no more calls, and give those under way so many seconds."""


class Server(uvicorn.Server):
    """Serves an application on sockets that listen already: alone, or as one of the workers that share them."""

    def __init__(self, app: FastAPI, settings: Settings, shared: Shared | None = None, worker: int = 0) -> None:
        tls = tls_context(settings)
        self._counts = shared.connections if shared is not None else Connections(1) if tls is not None else None
        """Of connections that are accepted here; None where uvicorn does: alone, and without handshakes, for which it
        would wait for a minute."""
        self._closed: Callable[[], None] = lambda: None
        if self._counts is not None:
            self._closed = partial(self._counts.closed, worker)
        self._drain: Drain = app.state.drain
        self._rpc: Rpc | None = app.state.rpc
        self._drain_seconds = settings.drain_seconds
        self._delay = settings.drain_delay_seconds
        self._patience = settings.drain_seconds + _GRACE
        config = uvicorn.Config(
            app,
            http=cast(
                Any,
                partial(
                    Connection,
                    app.state.fast_path,
                    self._drain,
                    _timeouts(settings),
                    settings.max_connections,
                    self._closed,
                ),
            ),
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            proxy_headers=False,  # nothing here asks who the caller is
            timeout_graceful_shutdown=settings.drain_seconds,
            ssl_context_factory=None if tls is None else lambda *_: tls,
            headers=[] if tls is None else [_ALWAYS_TLS],
        )
        super().__init__(config)
        self._shared = shared
        self._worker = worker
        self._handshake_seconds = settings.head_timeout_seconds
        self._most_handshakes = settings.max_connections
        self._acceptor: Acceptor | None = None
        self._connecting: dict[asyncio.Task[Any], socket.socket | None] = {}
        """The oldest first; with its socket while nobody else will close that."""
        self._sweeping: asyncio.TimerHandle | None = None
        self._stopping: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start as uvicorn does; a worker shares connections out with the others."""
        shared, counts = self._shared, self._counts
        await super().startup(sockets if counts is None else [])
        gc.freeze()  # what was imported stays: a full collection need not look through it again and again
        gc.set_threshold(_ALLOCATIONS)
        self._sweep()
        listeners = shared.listeners if shared is not None else sockets or ()
        if self._rpc is not None:
            await self._rpc.start(listeners)
        if counts is not None:
            inboxes = () if shared is None else shared.inboxes
            self._acceptor = Acceptor(self._worker, listeners, counts, inboxes, self._serve_connection)
            self._acceptor.start()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called at SIGTERM and SIGINT: begin to stop. Whoever interrupts by hand waits for no balancer, and whoever
        asks twice for nothing: but of several processes the supervisor alone decides that, since some that ask send
        their signal to all of them."""
        if self._drain.begun:
            if self._shared is None:
                os._exit(1)
            return
        self._captured_signals.append(sig)
        delay = 0.0 if sig == signal.SIGINT else self._delay
        self._drain.begin(delay)
        if self._shared is None:
            faulthandler.dump_traceback_later(delay + self._patience, exit=True, file=_STDERR)

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second: whether to stop."""
        return await super().on_tick(counter) or self._drain.over

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more than has come, then stop as uvicorn does; the application waits for the calls of gRPC."""
        self._drain.begin(0)
        if self._rpc is not None:
            self._stopping = asyncio.create_task(self._rpc.stop(self._drain_seconds))
        if self._acceptor is not None:
            self._acceptor.stop()
        # One that uvicorn does not know yet would not be told, and keep it waiting. What came while these were waited
        # for is accepted, too; uvicorn closes the port before it waits for anything. Handshakes may never end.
        rest = sockets or () if self._acceptor is None else ()
        while self._serve_rest(rest) or self._connecting:
            _, late = await asyncio.wait(self._connecting, timeout=LAST_SECONDS if self.config.ssl else None)
            for connecting in late:
                connecting.cancel()
        await super().shutdown(sockets)
        if self._sweeping is not None:
            self._sweeping.cancel()
        if self._acceptor is not None:
            self._acceptor.close()

    def _serve_rest(self, listeners: Sequence[socket.socket]) -> bool:
        """Serve the connections that wait to be accepted, which closing their listener would reset; whether any did."""
        found = _accepted(listeners)
        for connection in found:
            self._serve_connection(connection)
        return bool(found)

    def _sweep(self) -> None:
        """Look for what is overdue once all that came so far has been read: timers run before that, and after a pause
        of this process a request that came in time would meet the end of its connection."""
        loop = asyncio.get_running_loop()
        self._sweeping = loop.call_later(_SWEEP_SECONDS, self._sweep)
        loop.call_soon(loop.call_soon, self._tell_overdue, loop.time())

    def _tell_overdue(self, now: float) -> None:
        """Tell the connections that wait for their callers in vain since before `now`."""
        for connection in tuple(cast(set[Connection], self.server_state.connections)):
            if connection.due <= now or connection.unread_due <= now:
                connection.overdue(now)

    def _serve_connection(self, connection: socket.socket) -> None:
        if self.config.ssl is not None and len(self._connecting) >= self._most_handshakes:
            next(iter(self._connecting)).cancel()  # a caller who is slow at it, or who never meant to
        protocol = self.config.http_protocol_class(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )  # type: ignore[call-arg]
        connecting = asyncio.get_running_loop().create_task(self._connect(protocol, connection))
        self._connecting[connecting] = connection
        connecting.add_done_callback(partial(self._connected, cast(Connection, protocol)))

    async def _connect(self, protocol: asyncio.Protocol, connection: socket.socket) -> None:
        if (connecting := asyncio.current_task()) is not None:
            self._connecting[connecting] = None
        tls = self.config.ssl
        patience = None if tls is None else self._handshake_seconds
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(lambda: protocol, connection, ssl=tls, ssl_handshake_timeout=patience)

    def _connected(self, protocol: Connection, connecting: "asyncio.Task[Any]") -> None:
        if (kept := self._connecting.pop(connecting)) is not None:  # given up before it was begun
            kept.close()
        if protocol.transport is None:  # it never began: nobody else tells its end
            self._closed()
        if not connecting.cancelled() and (error := connecting.exception()) is not None:
            # Whoever speaks no TLS to a service that does, or leaves, is no news to its operator.
            level = logging.DEBUG if isinstance(error, ssl.SSLError | ConnectionError) else logging.WARNING
            logger.log(level, "a connection could not be served: %s", error)


def _timeouts(settings: Settings) -> Timeouts:
    return Timeouts(
        settings.head_timeout_seconds,
        settings.body_timeout_seconds,
        settings.write_timeout_seconds,
        settings.keep_alive_seconds,
    )


def _accepted(listeners: Sequence[socket.socket]) -> list[socket.socket]:
    """The connections that wait to be accepted."""
    found: list[socket.socket] = []
    for listener in listeners:
        listener.setblocking(False)
        try:
            while True:
                found.append(listener.accept()[0])
        except OSError:  # there is none (any more), or no room for it
            continue
    for connection in found:
        connection.setblocking(False)
    return found
