"""One connection: requests in, answers out in their order, and what a caller may not do to it.

uvicorn parses and runs applications; it waits for ever for the rest of a request, and for a caller that does not read.
Here everything that is awaited of a caller has a time by which it is due. Nothing else does: how long an answer takes
is up to whoever makes it.
"""

import asyncio
import fcntl
import heapq
import logging
import termios
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf
from typing import Any, Final, cast
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.api.fast_path import FastPath
from app.drain import Drain
from app.errors import (
    HeadersTooLong,
    InternalError,
    MalformedMessage,
    RequestTimeout,
    ServiceError,
    TargetTooLong,
    TooManyConnections,
)
from app.wire.cycles import Cycle, Flow, LongCycle, ShortCycle

logger = logging.getLogger("imago.api")

LONGEST_TARGET: Final = 8192
"""Bytes of path and query: RFC 9110, section 4.1, asks for no less than 8000."""
LONGEST_HEAD: Final = 2**16
"""Bytes of headers, or of what stands between the chunks of a body and behind them."""
MOST_HEADERS: Final = 100
"""Browsers and proxies send some thirty."""
LINGER_SECONDS: Final = 5.0
"""How long what still comes is read, and thrown away, once a request was refused before its end: to close while bytes
are unread resets the connection, and the caller loses the answer (RFC 9112, section 9.6)."""

LAST_SECONDS: Final = 0.5
"""How long a connection between two requests is kept at a stop: one may be on its way, from a caller that did not hear
yet that none is taken any more."""

_LOOKS = 8
"""Of those that could make room for a new connection, how many are looked at closely: each takes a system call."""

_NOTHING, _HEAD, _BODY = range(3)
"""What has begun to arrive and is not whole."""


@dataclass(frozen=True)
class Timeouts:
    """Seconds: for the head of a request from its first byte, for its body from the end of its head, for an answer to
    be taken once the kernel took no more of it, and for an idle connection to be used again."""

    head: float
    body: float
    write: float
    idle: float


class Connection(HttpToolsProtocol):
    """A connection that offers its requests the fast path, refuses what has no end, and tells its own end."""

    def __init__(
        self,
        fast_path: FastPath,
        drain: Drain,
        timeouts: Timeouts,
        max_connections: int,
        closed: Callable[[], None],
        **rest: Any,
    ) -> None:
        super().__init__(**rest)
        self._fast_path = fast_path
        self._drain = drain
        self._timeouts = timeouts
        self._max_connections = max_connections
        self._closed = closed
        self.due = inf
        """When what is awaited of the caller is late, in seconds of the loop's clock."""
        self.unread_due = inf
        """When the caller should have read what waits to be sent."""
        self._packet = 0
        self._head = 0
        """Bytes that came since the last that are kept nowhere: of headers, or between the chunks of a body."""
        self._expects = _NOTHING
        self._timed = _NOTHING
        """What of the present request `due` has been set for."""
        self._lingers = False
        self._plain_head = b""
        """Of a request that asks for another protocol, without that wish."""
        self._running: Cycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called by the loop."""
        super().connection_made(transport)
        self.flow = Flow(transport, self.pipeline)
        self.due = self.loop.time() + self._timeouts.head
        if self._drain.over:
            self.shutdown()
        if len(self.connections) > self._max_connections:
            self._make_room()

    def _make_room(self) -> None:
        """Close who has asked nothing for longest, or else refuse this one; those refused are not kept without end."""
        connections = cast(Iterable[Connection], self.connections)
        spare = (other for other in connections if other.is_spare and other is not self)
        longest = heapq.nsmallest(_LOOKS, spare, key=lambda other: other.due)
        if (idle := next((other for other in longest if not other.has_unread), None)) is not None:
            idle.close()
        elif len(self.connections) > self._max_connections * 5 // 4:
            self.transport.abort()
        else:
            self._refuse(TooManyConnections())

    @property
    def is_spare(self) -> bool:
        """Whether no request is under way here, or no more than a part of its head."""
        answered = self.cycle is None or self.cycle.response_complete
        return answered and not (self._expects == _BODY or self._lingers or self.transport.is_closing())

    @property
    def has_unread(self) -> bool:
        """Whether something has come that was not read yet: a request, where this process is busy or was paused."""
        connection = self.transport.get_extra_info("socket")
        return any(fcntl.ioctl(connection.fileno(), termios.FIONREAD, bytes(4)))

    # Bytes and parser.

    def data_received(self, data: bytes) -> None:
        """Called by the loop: parse what came, and begin to wait for what did not."""
        if self._lingers:
            return
        self._packet = len(data)
        self._head += len(data)
        try:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                self._stay(memoryview(data)[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._refuse(_refusal(error.__context__))
            return
        if self._expects or self._head > LONGEST_HEAD:
            self._await_more()

    def _stay(self, rest: memoryview) -> None:
        """Read a request that asks for another protocol, and what came behind its head, as if it did not: none is
        spoken here (RFC 9110, section 7.8), and some clients ask for HTTP/2 in all that they send. The parser takes
        such a head for the whole request."""
        while self._plain_head:
            head, self._plain_head = self._plain_head, b""
            try:
                self.parser.feed_data(head)
                self.parser.feed_data(rest)
            except httptools.HttpParserUpgrade as upgrade:
                rest = rest[upgrade.args[0] :]

    def _head_without_upgrade(self) -> bytes:
        version = self.parser.get_http_version().encode()
        first = b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, version)
        headers = [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        return b"".join([first, *headers, b"\r\n"])

    def _await_more(self) -> None:
        """Set a time for the rest of what has begun; the parser keeps what it has of a header: that has its limit."""
        if self._head > LONGEST_HEAD:
            self._refuse(HeadersTooLong(MOST_HEADERS, LONGEST_HEAD))
        elif self._timed != self._expects:
            self._timed = self._expects
            self.due = self.loop.time() + self._patience()

    def _patience(self) -> float:
        return self._timeouts.head if self._expects == _HEAD else self._timeouts.body

    def on_message_begin(self) -> None:
        """Called by the parser."""
        super().on_message_begin()
        self._head = 0
        self._expects = _HEAD
        self._timed = _NOTHING
        self.due = inf

    def on_url(self, url: bytes) -> None:
        """Called by the parser, with each piece of the target."""
        self.url += url
        if len(self.url) > LONGEST_TARGET:
            raise TargetTooLong(LONGEST_TARGET)

    def on_headers_complete(self) -> None:
        """Called by the parser: begin the request's cycle, the short one if it may take it and nothing waits before."""
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            self._plain_head = self._head_without_upgrade()
            return
        if len(self.headers) > MOST_HEADERS or (self._packet > LONGEST_HEAD and self._length() > LONGEST_HEAD):
            raise HeadersTooLong(MOST_HEADERS, LONGEST_HEAD)
        self._expects = _BODY
        self._head = 0
        parser = self.parser
        free = self.cycle is None or self.cycle.response_complete
        if (
            free
            and parser.get_method() == b"POST"
            and parser.should_keep_alive()
            and not (self.expect_100_continue or self.flow.write_paused)
            and parser.get_http_version() == "1.1"
            and (exchange := self._fast_path.offer(self.url, self.headers)) is not None
        ):
            self.cycle = cast(RequestResponseCycle, ShortCycle(self, exchange))
        else:
            self._begin_long(free)
        if free:
            self._running = cast(Cycle, self.cycle)
        if self._drain.begun:
            self.cycle.keep_alive = False  # its caller connects again, to whoever is left

    def _length(self) -> int:
        return sum(len(name) + len(value) for name, value in self.headers)

    def _begin_long(self, free: bool) -> None:
        """Begin a cycle that runs the application, or keep it until those before it are answered."""
        version = self.parser.get_http_version()
        self.scope["method"] = self.parser.get_method().decode("ascii")
        self.scope["http_version"] = version
        self.scope["raw_path"], self.scope["path"], self.scope["query_string"] = _target(self.url)
        self.cycle = cycle = LongCycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        if free:
            self._start_asgi_task(cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        self._head = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        if self._plain_head:
            return
        self._expects = _NOTHING
        self.due = inf
        if not self.cycle.response_complete:
            self.cycle.more_body = False
            self.cycle.message_event.set()

    # Ends of answers, and of the connection.

    def on_response_complete(self) -> None:
        """Called at the end of an answer; where that came before the end of the request, it is the last one."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            self.close()
        elif self._running is not None and self._running.early:
            self._linger()
        else:
            self._go_on()

    def _go_on(self) -> None:
        """Begin the next request that waits, or wait for one."""
        if self.flow.read_paused:
            self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._running = cast(LongCycle, cycle)
            self._start_asgi_task(cycle, app)
        elif not self._expects:
            self.due = self.loop.time() + self._timeouts.idle

    def _refuse(self, error: ServiceError) -> None:
        """Answer what cannot be read as a request, or is not waited for any longer: the last answer here."""
        self._give_up()
        status, rest = self._fast_path.refusal(error)
        self.transport.write(b"".join([status, self.own_headers(), b"connection: close\r\n", rest]))
        self._linger()

    def own_headers(self) -> bytes:
        """What the server adds to every answer."""
        return b"".join([b"%b: %b\r\n" % header for header in self.server_state.default_headers])

    def _give_up(self) -> None:
        """Tell the requests under way that nobody hears their answer."""
        for cycle in (self._running, self.cycle):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()

    def _linger(self) -> None:
        """Send nothing more, and read for a while what is still sent, until the caller closes."""
        self._lingers = True
        self._expects = _NOTHING
        self.pipeline.clear()
        self.flow.resume_reading()
        self.due = self.loop.time() + LINGER_SECONDS
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def close(self) -> None:
        """Close, once what waits to be sent was taken or is overdue."""
        self.transport.close()
        self.due = inf
        self.unread_due = min(self.unread_due, self.loop.time() + self._timeouts.write)

    def overdue(self, now: float) -> None:
        """Called by the server when `due` or `unread_due` has passed."""
        if now >= self.unread_due:
            self.transport.abort()
        elif self._expects == _NOTHING:
            self.close()
        elif self._is_held() or (self._expects == _BODY and cast(Cycle, self.cycle).moves()):
            self.due = now + self._patience()
        elif self._expects == _HEAD:
            self._refuse(RequestTimeout())
        else:
            self.due = inf
            cast(Cycle, self.cycle).be_late()

    def _is_held(self) -> bool:
        """Whether what did not come is not what the caller is to blame for, or others wait for their answers first."""
        running = self._running
        before = running is not None and not running.response_complete
        return self.flow.read_paused or (before and (self._expects == _HEAD or running is not self.cycle))

    def pause_writing(self) -> None:
        """Called by the loop when the caller does not read as fast as is written."""
        super().pause_writing()
        self.unread_due = self.loop.time() + self._timeouts.write

    def resume_writing(self) -> None:
        """Called by the loop when most of what was written was taken."""
        super().resume_writing()
        if not self.transport.is_closing():
            self.unread_due = inf

    def shutdown(self) -> None:
        """Called when the server stops: close after the answer under way, or when none is asked for in a moment."""
        if self._lingers:
            self.close()
        elif self.cycle is None or self.cycle.response_complete:
            self.due = min(self.due, self.loop.time() + LAST_SECONDS)
        else:
            self.cycle.keep_alive = False

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop; uvicorn tells the newest request alone, which may wait behind the one that runs."""
        super().connection_lost(exc)
        self._give_up()
        self._closed()


def _refusal(cause: BaseException | None) -> ServiceError:
    """What to answer where the parser stopped: what one of its callbacks raised, or that it understood nothing."""
    if cause is None or isinstance(cause, ServiceError):
        return cause or MalformedMessage()
    logger.error("unexpected failure at the head of a request", exc_info=cause)
    return InternalError()


def _target(url: bytes) -> tuple[bytes, str, bytes]:
    """Path as it came, path, and query of a request's target.

    Raises:
        MalformedMessage: it is none of a resource, such as `*`.
    """
    try:
        parsed = httptools.parse_url(url)
        path: str = parsed.path.decode("ascii")
    except (httptools.HttpParserError, UnicodeDecodeError, AttributeError):  # the last of a target without a path
        raise MalformedMessage from None
    return parsed.path, unquote(path) if "%" in path else path, parsed.query or b""
