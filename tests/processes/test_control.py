"""Sockets pass from the supervisor to a child, and either learns when the other is gone."""

import os
import resource
import socket

from app.processes.control import Control, send_socket
from tests.processes.scenario import pair, run, until


class Child:
    """What a child was handed, and whether it is to stop."""

    def __init__(self, end: socket.socket) -> None:
        self.received: list[tuple[int, socket.socket]] = []
        self.stopped = False
        Control(end, lambda number, received: self.received.append((number, received)), self._stop)

    def _stop(self) -> None:
        assert not self.stopped
        self.stopped = True


def test_sockets_arrive_with_their_numbers_and_work_once_the_sender_closed_its_own() -> None:
    async def scenario() -> None:
        ours, theirs = pair()
        child = Child(theirs)
        kept = []
        for number in (3, 0, 255):
            one, other = pair()
            with other:
                send_socket(ours, number, other)
            kept.append(one)
        await until(lambda: len(child.received) == 3)
        assert [number for number, _ in child.received] == [3, 0, 255]
        for one, (number, other) in zip(kept, child.received, strict=True):
            with one, other:
                one.send(bytes([number]))
                assert other.recv(9) == bytes([number])
                assert not other.getblocking()
        with theirs:
            ours.close()
            await until(lambda: child.stopped)

    run(scenario)


def test_a_child_stops_when_its_supervisor_closes_its_end() -> None:
    async def scenario() -> None:
        ours, theirs = pair()
        child = Child(theirs)
        ours.close()
        await until(lambda: child.stopped)
        theirs.close()

    run(scenario)


def test_a_child_that_is_gone_or_never_reads_holds_up_nobody() -> None:
    ours, theirs = pair()
    with ours, theirs:
        for _ in range(2000):
            send_socket(ours, 1, theirs)
        theirs.close()
        send_socket(ours, 1, ours)


def test_a_child_without_room_for_a_socket_stops() -> None:
    async def scenario() -> None:
        ours, theirs = pair()
        child = Child(theirs)
        with ours, theirs:
            send_socket(ours, 1, ours)
            limits = resource.getrlimit(resource.RLIMIT_NOFILE)
            os.close(free := os.dup(0))
            resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
            try:
                await until(lambda: child.stopped)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert child.received == []

    run(scenario)
