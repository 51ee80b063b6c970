"""`Supervisor` starts, replaces and stops processes: real ones, forked from one that the test forks."""

import errno
import os
import select
import signal
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from app.processes import supervisor
from app.processes.shared import share
from app.processes.supervisor import REFUSED, Supervisor

PATIENCE = 20.0


class Report:
    """Lines that processes write and the test reads; one line is one event."""

    def __init__(self) -> None:
        self._from, self._to = os.pipe()
        self._rest = b""

    def write(self, *words: object) -> None:
        os.write(self._to, " ".join(map(str, words)).encode() + b"\n")

    def read(self) -> list[str]:
        """The words of the next line, of whichever process."""
        while b"\n" not in self._rest:
            assert select.select([self._from], [], [], PATIENCE)[0], "nothing was reported"
            self._rest += os.read(self._from, 4096)
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode().split()

    def wait_for(self, *words: object, count: int = 1) -> list[list[str]]:
        """The lines up to the last of so many that begin with these words."""
        wanted, lines = [*map(str, words)], []
        while count:
            lines.append(self.read())
            count -= lines[-1][: len(wanted)] == wanted
        return lines

    def close(self) -> None:
        os.close(self._from)
        os.close(self._to)


class Service:
    """A supervisor in a process of its own."""

    def __init__(self, pid: int, report: Report) -> None:
        self.pid = pid
        self.report = report

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Its exit status."""
        statuses: list[int] = []

        def ended() -> bool:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                statuses.append(os.waitstatus_to_exitcode(status))
            return bool(pid)

        self.until(ended)
        self.pid = 0
        return statuses[0]

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, "it did not come to pass"
            time.sleep(0.01)

    def handles(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def children(self) -> set[int]:
        return {int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()}


Run = Callable[[Report, int, socket.socket], None]
"""What a child does: a worker by its number, the engine as -1."""


def serve_as_engine(control: socket.socket) -> None:
    """Take whatever the supervisor hands over, until it closes its end."""
    while control.recv(1):
        pass


def until_told(report: Report, number: int, control: socket.socket) -> None:
    """As workers and engine do: a worker ends at SIGTERM, the engine when the supervisor closes its end."""
    report.write("begun", number, os.getpid())
    if number < 0:
        serve_as_engine(control)
    else:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        report.write("ready", number)
        signal.sigwait({signal.SIGTERM})
    report.write("ended", number)


@contextmanager
def service(
    run: Run = until_told,
    workers: int = 2,
    drain_seconds: float = 30,
    listeners: tuple[socket.socket, ...] = (),
    prepare: Callable[[], None] = lambda: None,
) -> Iterator[Service]:
    report, shared = Report(), share(workers, listeners)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads beside a fork: the child uses none of them
        pid = os.fork()
    if pid == 0:
        status = 70
        try:
            prepare()
            one = Supervisor(
                shared,
                lambda number, control: run(report, number, control),
                lambda control: run(report, -1, control),
                drain_seconds,
            )
            status = one.run()
        finally:
            os._exit(status)
    found = Service(pid, report)
    try:
        yield found
    finally:
        for left in [*(found.children() if found.pid else ()), *([found.pid] if found.pid else ())]:
            os.kill(left, signal.SIGKILL)
        if found.pid:
            os.waitpid(found.pid, 0)
        report.close()
        for ends in shared.inboxes:
            for end in ends:
                end.close()


def order(lines: list[list[str]], word: str) -> list[int]:
    return [int(line[1]) for line in lines if line[0] == word]


def test_sigterm_ends_the_workers_first_and_the_engine_after_the_last_of_them() -> None:
    with service(workers=3) as running:
        begun = running.report.wait_for("ready", count=3)
        assert sorted(order(begun, "begun")) == [-1, 0, 1, 2]
        running.signal(signal.SIGTERM)
        ended = order(running.report.wait_for("ended", count=4), "ended")
        assert sorted(ended[:3]) == [0, 1, 2]
        assert ended[3] == -1
        assert running.wait() == 0


def test_a_port_is_refused_as_soon_as_the_service_stops() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()

    def slow(report: Report, number: int, control: socket.socket) -> None:
        listener.close()
        until_told(report, number, control)
        while number == 0:
            signal.pause()  # until it is killed

    with service(slow, workers=1, listeners=(listener,)) as running:
        running.report.wait_for("ready")
        listener.close()
        running.signal(signal.SIGTERM)
        running.report.wait_for("ended", 0)
        with socket.socket() as caller, pytest.raises(ConnectionRefusedError):
            caller.connect(address)
        running.signal(signal.SIGTERM)
        assert running.wait() == 1


def test_a_child_that_dies_young_again_and_again_is_started_later_each_time() -> None:
    def mortal(report: Report, number: int, control: socket.socket) -> None:
        report.write("begun", number, time.monotonic())
        if number == 0:
            raise SystemExit(1)
        serve_as_engine(control)

    with service(mortal, workers=1) as running:
        times = [float(line[2]) for line in running.report.wait_for("begun", 0, count=4) if line[1] == "0"]
        pauses = [later - sooner for sooner, later in pairwise(times)]
        assert [pause >= least for pause, least in zip(pauses, (0.1, 0.2, 0.4), strict=True)] == [True, True, True]
        running.signal(signal.SIGTERM)
        assert running.wait() == 0


def test_a_child_that_lived_long_is_replaced_at_once_and_leaves_no_handle_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervisor, "_SHORT_LIFE", 0.0)
    with service() as running:
        lines = running.report.wait_for("ready", count=2)
        handles = running.handles()
        for _ in range(20):
            (victim,) = [int(line[2]) for line in lines if line[:2] == ["begun", "0"]]
            os.kill(victim, signal.SIGKILL)
            lines = running.report.wait_for("ready", 0)
        assert len(running.children()) == 3
        running.until(lambda: running.handles() <= handles)  # it may still be handing over the last sockets
        running.signal(signal.SIGTERM)
        assert running.wait() == 0


@pytest.mark.parametrize("refusing", [-1, 0])
def test_a_child_that_refuses_its_settings_ends_the_service_with_its_status(refusing: int) -> None:
    def refuse(report: Report, number: int, control: socket.socket) -> None:
        if number == refusing:
            raise SystemExit(REFUSED)
        until_told(report, number, control)

    with service(refuse) as running:
        assert running.wait() == REFUSED


def test_what_a_child_fails_with_is_a_failure_and_not_a_refusal() -> None:
    def fail(report: Report, number: int, control: socket.socket) -> None:
        report.write("begun", number)
        if number == 0:
            raise ValueError("a fault of ours")
        serve_as_engine(control)

    with service(fail, workers=1) as running:
        running.report.wait_for("begun", 0, count=2)
        running.signal(signal.SIGTERM)
        assert running.wait() == 0


def deaf(report: Report, number: int, control: socket.socket) -> None:
    """A child that is asked to end, reports that, and does not."""
    signal.signal(signal.SIGTERM, lambda *_: report.write("asked", number))
    report.write("begun", number)
    while True:
        signal.pause()


def test_asked_twice_everything_ends_at_once() -> None:
    with service(deaf) as running:
        running.report.wait_for("begun", count=3)
        running.signal(signal.SIGTERM)
        running.report.wait_for("asked", count=2)
        running.signal(signal.SIGINT)
        assert running.wait() == 1


def test_workers_get_the_signal_that_was_sent() -> None:
    """Whoever interrupts by hand does not wait for a balancer."""

    def report_signal(report: Report, number: int, control: socket.socket) -> None:
        if number < 0:
            serve_as_engine(control)
            return
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        report.write("ready")
        report.write("got", signal.sigwait({signal.SIGTERM, signal.SIGINT}))

    for sent in (signal.SIGTERM, signal.SIGINT):
        with service(report_signal, workers=1) as running:
            running.report.wait_for("ready")
            running.signal(sent)
            running.report.wait_for("got", int(sent))
            assert running.wait() == 0


def test_what_has_not_ended_after_its_time_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_GRACE", 0.1)
    with service(deaf, drain_seconds=0) as running:
        running.report.wait_for("begun", count=3)
        running.signal(signal.SIGTERM)
        assert running.wait() == 0


def test_an_engine_that_does_not_end_is_killed_soon_after_the_last_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    def stubborn(report: Report, number: int, control: socket.socket) -> None:
        until_told(report, number, control)
        while number < 0:
            signal.pause()

    monkeypatch.setattr(supervisor, "_GRACE", 0.1)
    with service(stubborn, drain_seconds=3600) as running:
        running.report.wait_for("ready", count=2)
        running.signal(signal.SIGTERM)
        assert running.wait() == 0


def test_a_stop_that_comes_while_children_are_being_started_loses_none_of_them() -> None:
    for _ in range(10):
        with service(workers=4) as running:
            running.report.wait_for("begun")
            running.signal(signal.SIGTERM)
            assert running.wait() == 0


def test_a_process_that_cannot_be_started_is_tried_again() -> None:
    def make_forks_scarce() -> None:
        fork, refusals = os.fork, iter([True, True])

        def scarce() -> int:
            if next(refusals, False):
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            return fork()

        os.fork = scarce

    with service(prepare=make_forks_scarce) as running:
        running.report.wait_for("ready", count=2)
        running.signal(signal.SIGTERM)
        assert running.wait() == 0


def meeting(report: Report, number: int, control: socket.socket) -> None:
    """The engine says its id to every worker that it is introduced to, the worker reports it."""
    while True:
        told, handles, _, _ = socket.recv_fds(control, 1, 1)
        if not told:
            return
        with socket.socket(fileno=handles[0]) as other:
            if number < 0:
                other.send(str(os.getpid()).encode())
            else:
                report.write("met", number, told[0], os.getpid(), other.recv(99).decode())


def test_every_worker_meets_the_engine_again_when_either_was_replaced() -> None:
    with service(meeting) as running:
        met = running.report.wait_for("met", count=2)
        assert sorted(line[1:3] for line in met) == [["0", "0"], ["1", "1"]]
        engine = {int(line[4]) for line in met}
        assert len(engine) == 1
        workers = {line[1]: int(line[3]) for line in met}
        os.kill(workers["1"], signal.SIGKILL)
        (again,) = running.report.wait_for("met")
        assert again[1] == "1"
        assert int(again[3]) != workers["1"]
        assert int(again[4]) in engine
        os.kill(engine.pop(), signal.SIGKILL)
        met = running.report.wait_for("met", count=2)
        assert sorted(line[1] for line in met) == ["0", "1"]
        assert len({line[4] for line in met} - {again[4]}) == 1
        running.signal(signal.SIGTERM)
        assert running.wait() == 0
