"""A server under test: started, tried until it answers, watched while it works, stopped by its process ids."""

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from benchmarks.forms import Request, post
from benchmarks.machine import TAG, busy, cpu_seconds, proportional, resident, tagged
from benchmarks.rows import Cores, Memory
from benchmarks.servers import Server
from benchmarks.work import ROOT, Work
from benchmarks.workloads import Workload

_FIRST_ANSWER_SECONDS = 120.0
_TERMINATE_SECONDS = 8.0
_PORTS = 5
"""TorchServe listens on five ports in a row."""


class Meter:
    """Counts the cores that a server, and everything else, keep busy from now on."""

    def __init__(self, server: "Running") -> None:
        self._server = server
        self._worked = server.cpu_seconds()
        self._machine = busy()
        self._begun = time.monotonic()

    def read(self, client: float) -> Cores:
        """Cores in use since then; `client` are those that the client counted itself."""
        machine, seconds = busy(), time.monotonic() - self._begun
        server = (self._server.cpu_seconds() - self._worked) / seconds
        everyone = (machine.worked - self._machine.worked) / seconds
        stolen = (machine.stolen - self._machine.stolen) / seconds
        return Cores(server, client, max(0.0, everyone - server - client), stolen)


class StartFailed(Exception):
    """A server ended, or did not answer in time; the sentence says where its log is."""


@dataclass
class Running:
    """A server that answers: where, what to send it, and what it said first."""

    process: "subprocess.Popen[bytes]"
    port: int
    tag: str
    request: Request
    start_seconds: float = 0.0
    """From the start of the process to the first answer."""
    first_answer: bytes = b""
    peak_bytes: int = 0
    """Most bytes resident in all processes, since it was last set to 0."""
    _pids: list[int] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def pids(self) -> list[int]:
        """All processes of the server at the moment."""
        self._pids = tagged(self.tag)
        return self._pids

    def cpu_seconds(self) -> float:
        """What its processes have worked so far."""
        return cpu_seconds(self.pids())

    def memory(self) -> Memory:
        """Its memory: the most since `peak_bytes` was set to 0, and what it has now."""
        pids = self.pids()
        return Memory(self.peak_bytes / 1e6, proportional(pids) / 1e6, len(pids))

    def drain(self, seconds: float = 60.0) -> None:
        """Wait until the queue that a load left is empty: one more request is answered after all others."""
        with contextlib.suppress(OSError):
            post(self.port, self.request, seconds)

    def watch(self, ended: threading.Event) -> None:
        """Keep `peak_bytes` until the event: a thread's work."""
        while not ended.wait(0.25):
            self.peak_bytes = max(self.peak_bytes, resident(self._pids))


@contextmanager
def running(server: Server, workload: Workload, work: Work, home: Path | None) -> Iterator[Running]:
    """Start a server for a workload and stop it at the end.

    Raises:
        StartFailed: it ended, or gave no answer with status 200 in two minutes.
    """
    log = work.folder("logs") / f"{server.name}-{workload.name}.log"
    with tempfile.TemporaryDirectory() as scratch, log.open("wb") as output:
        port, tag = _free_port(), uuid4().hex
        start = server.start(workload, work, home, port, Path(scratch))
        begun = time.perf_counter()
        process = subprocess.Popen(
            start.command, env={**os.environ, **start.variables, TAG: tag}, cwd=ROOT, stdout=output,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        found = Running(process, port, tag, server.request(workload, work.picture(workload)))
        ended = threading.Event()
        watcher = threading.Thread(target=found.watch, args=(ended,))
        try:
            found.first_answer = _first_answer(found, f"see {log.relative_to(work.root.parent)}")
            found.start_seconds = time.perf_counter() - begun
            found.pids()
            watcher.start()
            yield found
        finally:
            ended.set()
            if watcher.is_alive():
                watcher.join()
            _stop(process, tag)


def _first_answer(server: Running, hint: str) -> bytes:
    deadline, last = time.monotonic() + _FIRST_ANSWER_SECONDS, "nothing"
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise StartFailed(f"the server ended with {server.process.returncode}: {hint}")
        try:
            status, body = post(server.port, server.request, 20)
        except OSError as error:
            last = str(error)
        else:
            if status == 200:
                return body
            last = f"{status} {body[:200].decode(errors='replace')}"
        time.sleep(0.02)
    raise StartFailed(f"no good answer in {_FIRST_ANSWER_SECONDS:.0f} s but {last}: {hint}")


def _stop(process: "subprocess.Popen[bytes]", tag: str) -> None:
    """Ask the first process to end, and end what is left of the others."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    deadline = time.monotonic() + _TERMINATE_SECONDS
    while process.poll() is None or tagged(tag):
        if time.monotonic() > deadline:
            for pid in tagged(tag):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


def _free_port() -> int:
    """The first of some ports in a row of which none is taken."""
    for port in range(18_000, 30_000, 10):
        if all(_is_free(port + place) for place in range(_PORTS)):
            return port
    raise StartFailed("no free ports between 18000 and 30000")


def _is_free(port: int) -> bool:
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
