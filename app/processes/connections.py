"""Shares connections out: whoever accepts one hands it to the worker that has the fewest.

The kernel does not balance: one listening socket favours whoever wakes first, and SO_REUSEPORT spreads by hash, so that
of eight connections six may meet one worker of two.
"""

import asyncio
import errno
import logging
import mmap
import os
import socket
from collections.abc import Callable, Sequence

logger = logging.getLogger("imago.processes")

_AT_ONCE = 16
"""Connections accepted in one turn of the loop."""
_REST = 1.0
"""Seconds without accepting once there is no room for another connection: the listening socket stays readable, and
trying again at once would keep a core busy."""
_NO_ROOM = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))

_GONE, _BEGUN, _READY = range(3)


class Connections:
    """How many connections each worker has, in memory made before the fork; each cell has one writer.

    What is handed over and not taken lies in the inbox of a worker. A worker that is killed leaves it to its successor,
    which begins with no connections of its own.
    """

    def __init__(self, workers: int) -> None:
        self._workers = range(workers)
        self._count = workers
        cells = memoryview(mmap.mmap(-1, max(1, workers * (workers + 3)) * 8)).cast("q")
        self._handed = cells[: workers * workers]
        self._taken, self._own, self._state = (
            cells[workers * row : workers * (row + 1)] for row in range(workers, workers + 3)
        )

    def __repr__(self) -> str:
        return f"<Connections: {[self.open(worker) for worker in self._workers]}>"

    def open(self, worker: int) -> int:
        """Connections that a worker has, or that are on their way to it."""
        return sum(self._handed[worker :: self._count]) - self._taken[worker] + self._own[worker]

    def begin(self, worker: int) -> None:
        """Called by a worker that begins to serve: what its predecessor had is gone."""
        self._own[worker] = 0
        self._state[worker] = max(_BEGUN, self._state[worker])

    def ready(self, worker: int) -> None:
        """Called by a worker that has its models: those without are given no connections from now on."""
        self._state[worker] = _READY

    def rest(self, worker: int, resting: bool) -> None:
        """Called by a worker that has no room for connections, and when it tries again."""
        state = abs(self._state[worker])
        self._state[worker] = -state if resting else state

    def is_without_models(self, worker: int) -> bool:
        """Whether this worker has begun and cannot answer much yet."""
        return self._state[worker] == _BEGUN

    def end(self, worker: int) -> None:
        """Called by whoever knows that a worker takes no more."""
        self._state[worker] = _GONE

    def least(self, accepting: int) -> int:
        """The worker to hand the next connection to: of those that are ready, or else have begun, the one with the
        fewest; the one that accepted where equal."""
        furthest = max(self._state)
        able = [worker for worker in self._workers if self._state[worker] == furthest > _GONE] or [accepting]
        return min(able, key=lambda worker: (self.open(worker), worker != accepting))

    def handed(self, accepting: int, to: int, count: int = 1) -> None:
        """One worker puts a connection into the inbox of another, or -1: could not."""
        self._handed[accepting * self._count + to] += count

    def took(self, worker: int) -> None:
        """A worker takes a connection out of its inbox."""
        self._own[worker] += 1
        self._taken[worker] += 1

    def opened(self, worker: int) -> None:
        """A worker keeps a connection that it accepted."""
        self._own[worker] += 1

    def closed(self, worker: int) -> None:
        """A connection of this worker ended."""
        self._own[worker] -= 1


class Acceptor:
    """Accepts in one worker, and takes what the others hand over; one that has no others needs no inboxes."""

    def __init__(
        self,
        worker: int,
        listeners: Sequence[socket.socket],
        connections: Connections,
        inboxes: Sequence[tuple[socket.socket, socket.socket]],
        serve: Callable[[socket.socket], None],
    ) -> None:
        self._worker = worker
        self._listeners = listeners
        self._connections = connections
        self._inboxes = inboxes
        self._inbox = inboxes[worker][0] if inboxes else None
        self._serve = serve
        self._loop = asyncio.get_running_loop()
        self._resting: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Accept from now on."""
        self._connections.begin(self._worker)
        if self._inbox is not None:
            self._loop.add_reader(self._inbox.fileno(), self._take)
        for listener in self._listeners:
            listener.setblocking(False)
        self._listen()

    def stop(self) -> None:
        """Accept what has come and no more: the other workers do, or nobody. What they hand over is still taken."""
        self._connections.end(self._worker)
        for listener in self._listeners:
            self._loop.remove_reader(listener.fileno())
            while self._accept(listener):
                pass
        if self._resting is not None:
            self._resting.cancel()
        for listener in self._listeners:
            listener.close()
        self._take()

    def close(self) -> None:
        """Take nothing any more."""
        self._take()
        if self._inbox is not None:
            self._loop.remove_reader(self._inbox.fileno())

    def _listen(self) -> None:
        self._resting = None
        self._connections.rest(self._worker, False)
        for listener in self._listeners:
            self._loop.add_reader(listener.fileno(), self._accept, listener)

    def _rest(self, error: OSError) -> None:
        logger.error("no connection is accepted for %.0f s: %s", _REST, error.strerror)
        self._connections.rest(self._worker, True)
        for listener in self._listeners:
            self._loop.remove_reader(listener.fileno())
        self._resting = self._loop.call_later(_REST, self._listen)

    def _accept(self, listener: socket.socket) -> bool:
        """Accept some; whether there may be more."""
        for _ in range(_AT_ONCE):
            try:
                connection, _ = listener.accept()
            except OSError as error:  # another worker was quicker, or the caller left
                if error.errno in _NO_ROOM and self._resting is None:
                    self._rest(error)
                return False
            connection.setblocking(False)
            self._share(connection)
        return True

    def _share(self, connection: socket.socket) -> None:
        """Hand a connection to the worker that should have it, or serve it."""
        to = self._connections.least(self._worker)
        if to == self._worker or not self._hand_over(connection, to):
            self._connections.opened(self._worker)
            self._serve(connection)

    def _hand_over(self, connection: socket.socket, to: int) -> bool:
        self._connections.handed(self._worker, to)
        try:
            socket.send_fds(self._inboxes[to][1], [b"c"], [connection.fileno()])
        except OSError:  # its inbox is full: it has not read for long
            self._connections.handed(self._worker, to, -1)
            return False
        connection.close()
        return True

    def _take(self) -> None:
        while self._inbox is not None:
            try:
                sent, handles, _, _ = socket.recv_fds(self._inbox, 1, 1)
            except OSError:
                return
            if not sent:
                return
            self._connections.took(self._worker)
            if not handles or (connection := _connection(handles[0])) is None:
                self._connections.closed(self._worker)  # no room for its handle here, or the caller left
            elif self._connections.is_without_models(self._worker):  # left by a predecessor: another may answer now
                self._connections.closed(self._worker)
                self._share(connection)
            else:
                self._serve(connection)


def _connection(handle: int) -> socket.socket | None:
    try:
        connection = socket.socket(fileno=handle)
    except OSError:
        os.close(handle)
        return None
    connection.setblocking(False)
    return connection


def inbox() -> tuple[socket.socket, socket.socket]:
    """A pair of sockets, made before the fork: connections are read from the first and sent to the second."""
    ends = socket.socketpair()  # of datagrams the kernel keeps ten
    for end in ends:
        end.setblocking(False)
    return ends
