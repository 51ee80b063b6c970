"""Connections go to the worker that has the fewest, and none is lost where a worker dies or has no room."""

import asyncio
import logging
import os
import resource
import socket
from collections.abc import Iterator

import pytest

from app.processes.connections import Acceptor, Connections, inbox
from tests.processes.scenario import run, until


def begun(workers: int, ready: bool = True) -> Connections:
    connections = Connections(workers)
    for worker in range(workers):
        connections.begin(worker)
        if ready:
            connections.ready(worker)
    return connections


def test_each_connection_goes_to_the_worker_with_the_fewest() -> None:
    connections = begun(3)
    for _ in range(9):
        to = connections.least(accepting=0)
        if to == 0:
            connections.opened(0)
        else:
            connections.handed(0, to)
    assert repr(connections) == "<Connections: [3, 3, 3]>"
    connections.took(2)
    connections.closed(2)
    assert connections.least(accepting=0) == 2


def test_whoever_accepted_keeps_it_where_all_have_as_many() -> None:
    connections = begun(3)
    assert [connections.least(worker) for worker in range(3)] == [0, 1, 2]


def test_a_connection_counts_from_being_handed_over_to_its_end() -> None:
    connections = begun(2)
    connections.handed(0, 1)
    assert connections.open(1) == 1
    connections.took(1)
    assert connections.open(1) == 1
    connections.closed(1)
    assert connections.open(1) == 0
    connections.handed(0, 1)
    connections.handed(0, 1, -1)
    assert connections.open(1) == 0


def test_a_successor_has_what_lies_in_the_inbox_and_nothing_that_died_with_its_predecessor() -> None:
    connections = begun(2)
    for _ in range(3):
        connections.handed(0, 1)
    connections.took(1)
    connections.opened(1)
    assert connections.open(1) == 4
    connections.end(1)
    connections.begin(1)
    assert connections.open(1) == 2
    for _ in range(2):
        connections.took(1)
        connections.closed(1)
    assert connections.open(1) == 0


def test_a_worker_that_ended_or_rests_is_given_nothing() -> None:
    connections = begun(3)
    connections.opened(0)
    connections.end(1)
    assert connections.least(accepting=0) == 2
    connections.rest(2, True)
    assert connections.least(accepting=0) == 0
    connections.rest(2, False)
    assert connections.least(accepting=0) == 2


def test_a_worker_without_models_hands_on_to_one_that_has_them_and_serves_where_none_has() -> None:
    connections = begun(3, ready=False)
    assert connections.least(accepting=1) == 1
    connections.ready(0)
    connections.opened(0)
    assert connections.least(accepting=1) == 0
    connections.end(0)
    assert connections.least(accepting=1) == 1
    for worker in (1, 2):
        connections.end(worker)
    assert connections.least(accepting=1) == 1


class Workers:
    """A listening socket, and workers that share it in one loop."""

    def __init__(self, count: int) -> None:
        self.connections = Connections(count)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.inboxes = [inbox() for _ in range(count)]
        self.served: list[list[socket.socket]] = [[] for _ in range(count)]
        self.acceptors: dict[int, Acceptor] = {}
        self.stopped: list[Acceptor] = []
        self.clients: list[socket.socket] = []

    def start(self, worker: int, ready: bool = True) -> None:
        listener = self.listener.dup()
        acceptor = Acceptor(worker, [listener], self.connections, self.inboxes, self.served[worker].append)
        self.acceptors[worker] = acceptor
        acceptor.start()
        if ready:
            self.connections.ready(worker)

    def stop(self, worker: int) -> None:
        stopping = self.acceptors.pop(worker)
        stopping.stop()
        self.stopped.append(stopping)

    def hand_over(self, to: int) -> None:
        """Put a connection into the inbox of a worker."""
        with socket.socket() as client:
            client.connect(self.listener.getsockname())
            connection, _ = self.listener.accept()
        socket.send_fds(self.inboxes[to][1], [b"c"], [connection.fileno()])
        connection.close()

    def connect(self, count: int) -> None:
        for _ in range(count):
            client = socket.socket()
            client.connect(self.listener.getsockname())
            self.clients.append(client)

    def close(self) -> None:
        for worker in list(self.acceptors):
            self.stop(worker)
        for acceptor in self.stopped:
            acceptor.close()
        for ends in (*self.inboxes, *self.served, self.clients, [self.listener]):
            for end in ends:
                end.close()

    @property
    def counts(self) -> list[int]:
        return [len(served) for served in self.served]


def test_the_workers_of_one_socket_serve_as_many_connections_each() -> None:
    async def scenario() -> None:
        workers = Workers(3)
        for worker in range(3):
            workers.start(worker)
        workers.connect(12)
        await until(lambda: sum(workers.counts) == 12)
        assert workers.counts == [4, 4, 4]
        assert not workers.served[2][0].getblocking()
        workers.clients[0].send(b"hello")
        (connection,) = (
            one for served in workers.served for one in served if one.getpeername() == workers.clients[0].getsockname()
        )
        assert await asyncio.get_running_loop().sock_recv(connection, 9) == b"hello"
        workers.close()

    run(scenario)


@pytest.mark.parametrize(("ready", "counts"), [(True, [2, 2]), (False, [4, 0])])
def test_connections_in_the_inbox_of_a_worker_that_died_are_served_by_its_successor_or_whoever_has_models(
    ready: bool, counts: list[int]
) -> None:
    async def scenario() -> None:
        workers = Workers(2)
        workers.start(0)
        workers.connections.begin(1)
        workers.connections.ready(1)
        workers.connect(4)
        await until(lambda: workers.connections.open(1) == 2 and workers.counts[0] == 2)
        workers.connections.end(1)
        workers.start(1, ready)
        await until(lambda: workers.counts == counts)
        assert [workers.connections.open(worker) for worker in range(2)] == counts
        workers.close()

    run(scenario)


def test_a_full_inbox_leaves_the_connection_where_it_was_accepted() -> None:
    async def scenario() -> None:
        workers = Workers(2)
        workers.start(0)
        workers.connections.begin(1)
        workers.connections.ready(1)
        try:
            while workers.inboxes[1][1].send(b"c"):
                pass
        except BlockingIOError:
            workers.connect(3)
        await until(lambda: workers.counts[0] == 3)
        assert repr(workers.connections) == "<Connections: [3, 0]>"
        workers.close()

    run(scenario)


def test_a_worker_that_stops_serves_what_was_handed_to_it_and_accepts_nothing() -> None:
    async def scenario() -> None:
        workers = Workers(2)
        for worker in range(2):
            workers.start(worker)
        workers.hand_over(to=1)
        workers.stop(1)
        assert workers.counts == [0, 1]
        workers.connect(3)
        await until(lambda: workers.counts == [3, 1])
        workers.hand_over(to=1)  # by one that did not hear yet
        await until(lambda: workers.counts == [3, 2])
        workers.close()

    run(scenario)


def test_connections_that_came_before_a_stop_are_served_by_whoever_stops_last() -> None:
    async def scenario() -> None:
        workers = Workers(2)
        for worker in range(2):
            workers.start(worker)
        workers.connect(40)  # the loop has not turned since: nobody has accepted one
        for worker in range(2):
            workers.stop(worker)
        await until(lambda: sum(workers.counts) == 40)
        workers.close()

    run(scenario)


@pytest.fixture
def _no_handles_left() -> Iterator[None]:
    """Restores the limit on open files that a test lowers."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.usefixtures("_no_handles_left")
def test_a_worker_without_room_for_connections_rests_and_then_serves_them(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        workers = Workers(2)
        workers.start(0)
        workers.connections.begin(1)
        workers.connections.ready(1)
        workers.connections.opened(1)
        workers.connect(3)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        os.close(free := os.dup(0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        for _ in range(100):
            await asyncio.sleep(0)
        assert workers.counts == [0, 0]
        assert workers.connections.least(accepting=0) == 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await until(lambda: sum(workers.counts) + workers.connections.open(1) - 1 == 3)
        workers.close()

    with caplog.at_level(logging.ERROR, "imago.processes"):
        run(scenario)
    assert [record.message for record in caplog.records] == ["no connection is accepted for 1 s: Too many open files"]


@pytest.mark.usefixtures("_no_handles_left")
def test_a_connection_handed_to_a_worker_without_room_for_it_is_not_counted() -> None:
    async def scenario() -> None:
        workers = Workers(2)
        workers.start(1)
        with socket.socket() as client:
            client.connect(workers.listener.getsockname())
            connection, _ = workers.listener.accept()
            workers.connections.handed(0, 1)
            socket.send_fds(workers.inboxes[1][1], [b"c"], [connection.fileno()])
            with connection:
                soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
                os.close(free := os.dup(0))
                resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
                await until(lambda: workers.connections.open(1) == 0)
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert client.recv(1) == b""
        assert workers.counts == [0, 0]
        workers.close()

    run(scenario)
