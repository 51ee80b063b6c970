"""Open-loop load: requests that are sent when they are due, whether or not others were answered.

A closed loop (wrk) waits for a slow server and so never sees the queue that its slowness makes. Here each request has
an intended time, and its latency counts from that time: a request that waits, in the server or for a connection, is as
late as a user would find it. h2load's `--rps` would cost less and is no such client: over HTTP/1.1 it holds a request
back while its connection is busy, and counts from when it is sent.

The client is one uvloop process with raw protocols, woken by a timer of the kernel (asyncio's own wake a millisecond
late). It takes some 50 us of a core for a request, four times what wrk does, most of it in the kernel: a loop of bare
system calls took a tenth less. Every result says how many cores the client used, and how late it sent.
"""

import asyncio
import contextlib
import ctypes
import gc
import os
import re
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import uvloop
from numpy.typing import NDArray

from benchmarks.forms import Request

Kind = Literal["poisson", "constant"]
Array = NDArray[np.float64]

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_RETRY_AFTER = b"\r\nretry-after: "
_PATIENCE = 15.0
"""Seconds after the last request is due in which answers still count."""
_NEVER_SENT = -1.0


@dataclass(frozen=True)
class Sent:
    """What became of each request, in the order of their intended times."""

    due: Array
    """Intended times, in seconds from the beginning."""
    late: Array
    """Seconds from when a request was due until it was written."""
    latency: Array
    """Seconds from when a request was due to the end of its answer; infinite where none came."""
    status: NDArray[np.int64]
    """HTTP status; 0 where no answer came."""
    retry_after: NDArray[np.bool_]
    """Whether the answer said when to come again."""
    client_cpu: float
    """Cores that the client kept busy."""


def schedule(rate: float, seconds: float, kind: Kind, seed: int = 0) -> Array:
    """Intended times of `rate` requests a second: evenly spaced, or independent of one another (Poisson, given how many
    there are: else a load of a few hundred would be some percent more or less than was asked for)."""
    count = max(1, round(rate * seconds))
    if kind == "constant":
        return np.arange(count) / rate
    gaps: Array = np.random.default_rng(seed).exponential(1, count)
    times: Array = (np.cumsum(gaps) - gaps[0]) * (count / rate / gaps.sum())
    return times


def send(port: int, request: Request, due: Array, connections: int) -> Sent:
    """Send a request at each of the due times to this machine; blocks until all are answered or given up."""
    return uvloop.run(_send(port, request, due, connections))


async def _send(port: int, request: Request, due: Array, connections: int) -> Sent:
    client = _Client(port, _bytes_of(request), due, connections)
    await client.connect(min(64, connections))
    gc.collect()
    gc.disable()  # a collection would be counted as the server's latency
    begun, worked = time.monotonic(), time.process_time()
    await client.run()
    return client.result((time.process_time() - worked) / (time.monotonic() - begun))


def _bytes_of(request: Request) -> bytes:
    headers = {**request.headers, "Host": "localhost", "Content-Length": str(len(request.body))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {request.path} HTTP/1.1\r\n{lines}\r\n".encode() + request.body


class _Client:
    """The requests that are due, the connections that are free, and what came of them."""

    def __init__(self, port: int, message: bytes, due: Array, connections: int) -> None:
        self._port = port
        self._message = message
        self._due: Sequence[float] = due.tolist()
        self._most = connections
        self._open: set[_Connection] = set()
        self._idle: list[_Connection] = []
        self._waiting: deque[int] = deque()
        self._next = 0
        self._left = len(self._due)
        self._sent = [_NEVER_SENT] * len(self._due)
        self._answered = [float("inf")] * len(self._due)
        self._status = [0] * len(self._due)
        self._retry_after = [False] * len(self._due)
        self._timer = Timer()
        self._ended = asyncio.Event()
        self._closed: asyncio.Event | None = None
        self._opening: set[asyncio.Task[None]] = set()
        self._begun = 0.0

    async def connect(self, count: int) -> None:
        """Open connections before the first request is due."""
        await asyncio.gather(*(self._connect() for _ in range(count)))

    async def run(self) -> None:
        """Send everything, and wait for the answers."""
        loop = asyncio.get_running_loop()
        self._begun = time.monotonic() + 0.01
        loop.add_reader(self._timer.fd, self._wake)
        self._timer.arm(self._begun)
        with contextlib.suppress(TimeoutError):  # those without an answer keep status 0
            await asyncio.wait_for(self._ended.wait(), self._due[-1] + _PATIENCE)
        loop.remove_reader(self._timer.fd)
        self._timer.close()
        await self._close()

    def result(self, client_cpu: float) -> Sent:
        """What became of the requests."""
        due, answered = np.array(self._due), np.array(self._answered)
        late = np.maximum(0.0, np.array(self._sent) - due)
        return Sent(due, late, answered - due, np.array(self._status), np.array(self._retry_after), client_cpu)

    def answered(self, connection: "_Connection", number: int, status: int, retry_after: bool) -> None:
        """Note an answer, and give the connection to whoever waits for one."""
        self._retry_after[number] = retry_after
        self._answered[number] = time.monotonic() - self._begun
        self._status[number] = status
        self._finish()
        self.free(connection)

    def made(self, connection: "_Connection") -> None:
        """A connection is open."""
        self._open.add(connection)
        self.free(connection)

    def free(self, connection: "_Connection") -> None:
        """A connection can be used."""
        if self._waiting:
            self._write(connection, self._waiting.popleft())
        else:
            self._idle.append(connection)

    def lost(self, connection: "_Connection") -> None:
        """A connection was closed, with or without a request on it."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if connection.number is not None:
            self._finish()  # its request stays without an answer
        if self._closed is not None and not self._open:
            self._closed.set()

    def _wake(self) -> None:
        """Send all that is due, and sleep until the next is."""
        self._timer.read()
        now = time.monotonic() - self._begun
        while self._next < len(self._due) and self._due[self._next] <= now:
            self._start(self._next)
            self._next += 1
        if self._next < len(self._due):
            self._timer.arm(self._begun + self._due[self._next])

    def _start(self, number: int) -> None:
        if self._idle:
            self._write(self._idle.pop(), number)
            return
        self._waiting.append(number)
        if len(self._open) + len(self._opening) < self._most:
            task = asyncio.get_running_loop().create_task(self._connect_another())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    def _write(self, connection: "_Connection", number: int) -> None:
        self._sent[number] = time.monotonic() - self._begun
        connection.send(number, self._message)

    async def _connect(self) -> None:
        await asyncio.get_running_loop().create_connection(lambda: _Connection(self), "127.0.0.1", self._port)

    async def _connect_another(self) -> None:
        with contextlib.suppress(OSError):  # refused: requests wait for the connections that there are
            await self._connect()

    async def _close(self) -> None:
        """Cut all connections: uvloop does not end while one is open."""
        await asyncio.gather(*self._opening)
        self._closed = asyncio.Event()
        for connection in [*self._open]:
            connection.abort()
        if self._open:
            await self._closed.wait()

    def _finish(self) -> None:
        self._left -= 1
        if not self._left:
            self._ended.set()


class _Connection(asyncio.Protocol):
    """One kept connection, with one request at a time."""

    def __init__(self, client: _Client) -> None:
        self._client = client
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self.number: int | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Offer itself."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class is none by inheritance
        self._client.made(self)

    def send(self, number: int, message: bytes) -> None:
        """Send request `number`."""
        assert self._transport is not None
        self.number = number
        self._transport.write(message)

    def abort(self) -> None:
        """Cut the connection."""
        assert self._transport is not None
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Collect an answer; it is whole when its head and the length announced there have come."""
        self._received = received = self._received + data if self._received else data
        head = received.find(b"\r\n\r\n")
        if head < 0 or self.number is None:
            return
        length = _LENGTH.search(received, 0, head + 2)
        if len(received) < head + 4 + (int(length[1]) if length else 0):
            return
        number, self.number, self._received = self.number, None, b""
        status = int(received[9:12])
        self._client.answered(self, number, status, status != 200 and _RETRY_AFTER in received[:head].lower())

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the client."""
        self._client.lost(self)


class Timer:
    """`timerfd_create(2)`: readable at a moment of the monotonic clock, to the microsecond."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd: int = self._libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")

    def arm(self, moment: float) -> None:
        """Be readable once, at `moment` of `time.monotonic`; at once if that has passed."""
        seconds, fraction = divmod(moment, 1.0)
        # struct itimerspec: interval (none), then the moment; all zero would disarm.
        spec = (ctypes.c_long * 4)(0, 0, int(seconds), max(1, int(fraction * 1e9)))
        absolute = 1  # TFD_TIMER_ABSTIME
        if self._libc.timerfd_settime(self.fd, absolute, spec, None):
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def read(self) -> None:
        """Be no longer readable."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 8)

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.fd)
