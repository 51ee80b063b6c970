"""Starts the processes, replaces the one that dies, stops them in order. No thread, no loop: it forks at any time."""

import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from app.processes.control import send_socket
from app.processes.shared import Shared

logger = logging.getLogger("imago.processes")

REFUSED = 2
"""Exit status of a child that tells its operator what to change: starting it again would not help."""

_ENGINE = -1
_GRACE = 5.0
"""Seconds that a child may take to end after its drain, before it is killed."""
_SHORT_LIFE = 5.0
"""A child that ended sooner waits before it is started again: twice as long each time, from 0.1 to 10 seconds."""
_STOPPING = (signal.SIGTERM, signal.SIGINT)


@dataclass
class Child:
    """One process: a worker by its number, or the engine."""

    number: int
    pid: int
    control: socket.socket
    begun: float

    def __str__(self) -> str:
        return _name(self.number)


class Supervisor:
    """The parent of all; `run` returns the exit status of the service."""

    def __init__(
        self,
        shared: Shared,
        run_worker: Callable[[int, socket.socket], None],
        run_engine: Callable[[socket.socket], None],
        drain_seconds: float,
    ) -> None:
        self._shared = shared
        self._run_worker = run_worker
        self._run_engine = run_engine
        self._drain_seconds = drain_seconds
        self._children: dict[int, Child] = {}
        self._due: dict[int, float] = {}
        self._delays: dict[int, float] = {}
        self._until: float | None = None
        """Once it stops: when those are killed that have not ended."""
        self._asked = False
        self._status = 0
        self._heeded = (*_STOPPING, signal.SIGCHLD)

    def __repr__(self) -> str:
        return f"<Supervisor: {', '.join(f'{child} {child.pid}' for child in self._children.values())}>"

    def run(self) -> int:
        """Start everything; come back when all have ended after SIGTERM or SIGINT."""
        wake, waker = socket.socketpair()
        for end in (wake, waker):
            end.setblocking(False)
        for heeded in self._heeded:
            signal.signal(heeded, lambda *_: None)
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        with wake, waker:
            self._due = dict.fromkeys((_ENGINE, *range(self._shared.workers)), 0.0)
            self._start_due()
            while self._children or self._due:
                select.select([wake], [], [], self._patience())
                self._heed(wake)
                self._reap()
                self._start_due()
                self._press()
            signal.set_wakeup_fd(-1)
        return self._status

    def _heed(self, wake: socket.socket) -> None:
        try:
            came = set(wake.recv(64))
        except BlockingIOError:
            return
        if came & set(_STOPPING):
            if self._asked:
                self._signal(signal.SIGKILL)  # asked twice: at once, whatever is lost
                self._status = 1
            self._asked = True
            self._stop(signal.SIGTERM if signal.SIGTERM in came else signal.SIGINT)

    def _stop(self, asked: signal.Signals = signal.SIGINT) -> None:
        """Workers answer what they accepted, after SIGTERM what comes for a while yet; the engine stays until the last
        of them has ended."""
        now = time.monotonic()
        if self._until is None:
            self._until = now + self._drain_seconds + _GRACE
            for listener in self._shared.listeners:
                listener.close()  # whoever comes after the last worker is refused, and does not wait for nobody
            self._signal(asked, workers_only=True)
        self._due.clear()
        if self._children.keys() == {_ENGINE}:
            self._children[_ENGINE].control.close()
            self._until = min(self._until, now + _GRACE)

    def _press(self) -> None:
        """Kill what has not ended long after it should have."""
        if self._until is not None and time.monotonic() > self._until:
            self._signal(signal.SIGKILL)

    def _signal(self, number: int, workers_only: bool = False) -> None:
        for child in self._children.values():
            if child.number != _ENGINE or not workers_only:
                os.kill(child.pid, number)

    def _patience(self) -> float | None:
        """Seconds until something is due without a signal."""
        if self._until is not None:
            return 0.5
        return max(0.0, min(self._due.values()) - time.monotonic()) if self._due else None

    def _start_due(self) -> None:
        for number, due in list(self._due.items()):
            if due <= time.monotonic():
                del self._due[number]
                self._start(number)

    def _start(self, number: int) -> None:
        try:
            pid, control = self._fork(number)
        except OSError as error:
            logger.error("%s cannot be started: %s", _name(number), error.strerror)
            self._start_later(number)
            return
        self._children[number] = Child(number, pid, control, time.monotonic())
        self._introduce(number)

    def _fork(self, number: int) -> tuple[int, socket.socket]:
        """The id of a new process, and this end of the socket that ties it to here."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            signal.pthread_sigmask(signal.SIG_BLOCK, self._heeded)  # what the child gets is not for our handlers
            try:
                pid = os.fork()
                if pid == 0:
                    ours.close()
                    self._become(number, theirs)
            except OSError:
                ours.close()
                raise
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, self._heeded)
        return pid, ours

    def _become(self, number: int, control: socket.socket) -> NoReturn:
        """In the child: run, and never return."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            for heeded in self._heeded:
                signal.signal(heeded, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self._heeded)
            os.setpgid(0, 0)  # Ctrl-C reaches the supervisor alone, which stops them in order
            for other in self._children.values():
                other.control.close()
            if number == _ENGINE:
                self._run_engine(control)
            else:
                self._run_worker(number, control)
            status = 0
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 1
        except BaseException:
            logger.exception("%s failed", _name(number))
        finally:
            _leave(status)

    def _introduce(self, number: int) -> None:
        """Connect a new worker with the engine, or a new engine with every worker."""
        engine = self._children.get(_ENGINE)
        workers = [number] if number != _ENGINE else [child for child in self._children if child != _ENGINE]
        for worker in workers:
            if engine is None or worker not in self._children:
                continue
            one, other = socket.socketpair()
            with one, other:
                send_socket(engine.control, worker, one)
                send_socket(self._children[worker].control, worker, other)

    def _reap(self) -> None:
        by_pid = {child.pid: child for child in self._children.values()}
        while by_pid:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            if (child := by_pid.pop(pid, None)) is not None:
                self._ended(child, os.waitstatus_to_exitcode(status))

    def _ended(self, child: Child, status: int) -> None:
        child.control.close()
        del self._children[child.number]
        if child.number != _ENGINE:
            self._shared.connections.end(child.number)
        if status == REFUSED and self._until is None:
            self._status = REFUSED
            self._stop()
        elif self._until is not None:
            self._stop()
        else:
            self._restart(child, status)

    def _restart(self, child: Child, status: int) -> None:
        lived = time.monotonic() - child.begun
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        delay = self._start_later(child.number, lived)
        logger.error("%s %s after %.0f s; it is started again in %.1f s", child, how, lived, delay)

    def _start_later(self, number: int, lived: float = 0.0) -> float:
        """Start a child again, at once where the last one lived long: the seconds until then."""
        delay = 0.0 if lived > _SHORT_LIFE else min(10.0, max(0.1, 2 * self._delays.get(number, 0.0)))
        self._delays[number] = delay
        self._due[number] = time.monotonic() + delay
        return delay


def _name(number: int) -> str:
    return "the engine" if number == _ENGINE else f"worker {number}"


def _leave(status: int) -> NoReturn:
    """End this process as it is: what its parent would do at its end is left to the parent."""
    try:
        for asked in _STOPPING:
            signal.signal(asked, signal.SIG_IGN)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)
