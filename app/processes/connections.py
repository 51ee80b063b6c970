"""Shares connections out: whoever accepts one hands it to the worker that has the fewest.

The kernel does not balance: one listening socket favours whoever wakes first, and SO_REUSEPORT spreads by hash, so that
of eight connections six may meet one worker of two.
"""

import asyncio
import mmap
import socket
from collections.abc import Callable, Sequence

_AT_ONCE = 16
"""Connections accepted in one turn of the loop."""


class Connections:
    """How many connections each worker has, in memory made before the fork; each cell has one writer."""

    def __init__(self, workers: int) -> None:
        self._workers = range(workers)
        self._count = workers
        cells = memoryview(mmap.mmap(-1, max(1, workers * (workers + 2)) * 8)).cast("q")
        self._handed = cells[: workers * workers]
        self._closed = cells[workers * workers : workers * (workers + 1)]
        self._alive = cells[workers * (workers + 1) :]

    def __repr__(self) -> str:
        return f"<Connections: {[self.open(worker) for worker in self._workers]}>"

    def open(self, worker: int) -> int:
        """Connections that a worker has, or that are on their way to it."""
        return sum(self._handed[worker :: self._count][: self._count]) - self._closed[worker]

    def begin(self, worker: int) -> None:
        """Called by a worker that begins to serve: what its predecessor had is gone."""
        self._closed[worker] += self.open(worker)
        self._alive[worker] = 1

    def end(self, worker: int) -> None:
        """Called by whoever knows that a worker takes no more."""
        self._alive[worker] = 0

    def least(self, accepting: int) -> int:
        """The worker to hand the next connection to: the one with the fewest, the one that accepted where equal."""
        alive = [worker for worker in self._workers if self._alive[worker] or worker == accepting]
        return min(alive, key=lambda worker: (self.open(worker), worker != accepting))

    def handed(self, accepting: int, to: int, count: int = 1) -> None:
        """One worker handed a connection to another, or to itself."""
        self._handed[accepting * self._count + to] += count

    def closed(self, worker: int) -> None:
        """A connection of this worker ended."""
        self._closed[worker] += 1


class Acceptor:
    """Accepts in one worker, and takes what the others hand over."""

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
        self._serve = serve
        self._loop = asyncio.get_running_loop()

    def start(self) -> None:
        """Accept from now on."""
        self._connections.begin(self._worker)
        self._loop.add_reader(self._inboxes[self._worker][0].fileno(), self._take)
        for listener in self._listeners:
            listener.setblocking(False)
            self._loop.add_reader(listener.fileno(), self._accept, listener)

    def stop(self) -> None:
        """Accept no more; the other workers do, or nobody."""
        self._connections.end(self._worker)
        for listener in self._listeners:
            self._loop.remove_reader(listener.fileno())
        self._take()
        self._loop.remove_reader(self._inboxes[self._worker][0].fileno())

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            try:
                connection, _ = listener.accept()
            except OSError:  # another worker was quicker, or the caller left
                return
            connection.setblocking(False)
            to = self._connections.least(self._worker)
            if to != self._worker and self._hand_over(connection, to):
                continue
            self._connections.handed(self._worker, self._worker)
            self._serve(connection)

    def _hand_over(self, connection: socket.socket, to: int) -> bool:
        try:
            socket.send_fds(self._inboxes[to][1], [b"c"], [connection.fileno()])
        except OSError:  # its inbox is full: it has not read for long
            return False
        self._connections.handed(self._worker, to)
        connection.close()
        return True

    def _take(self) -> None:
        while True:
            try:
                _, handles, _, _ = socket.recv_fds(self._inboxes[self._worker][0], 1, 1)
            except OSError:
                return
            for handle in handles:
                connection = socket.socket(fileno=handle)
                connection.setblocking(False)
                self._serve(connection)


def inbox() -> tuple[socket.socket, socket.socket]:
    """A pair of sockets, made before the fork: connections are read from the first and sent to the second."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    for end in ends:
        end.setblocking(False)
    return ends
