"""Opens a graph for the first time in a process of its own, with limits on time and memory.

ONNX Runtime parses and optimises in C++: a graph may crash it, or keep it busy for ever. What happens to this process
is the reason why the graph is not opened where others are served.
"""

import ctypes
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final

from app.errors import ImagoError, InvalidModel, OutOfMemory, SessionFault
from app.runtime import Device, open_session
from app.runtime.faults import fault_of
from app.runtime.probe import check, noise
from app.runtime.whole import by_rows

try:
    import resource
except ImportError:  # Windows: time is limited there, memory is not
    resource = None  # type: ignore[assignment]

logger = logging.getLogger("imago.runtime")

_PR_SET_PDEATHSIG: Final = 1
"""From Linux's `prctl.h`."""
_LENGTH: Final = 8


@dataclass(frozen=True)
class Trial:
    """The limits of a trial."""

    seconds: float
    memory_bytes: int
    """Of address space. CUDA reserves more of it than there is memory: there it is not limited."""
    _running: "set[subprocess.Popen[bytes]]" = field(default_factory=set, init=False, repr=False, compare=False)
    _given_up: threading.Event = field(default_factory=threading.Event, init=False, repr=False, compare=False)

    def run(self, graph: bytes, files: Mapping[str, bytes], device: Device, backend: str) -> None:
        """Open a graph, and the files that hold its tensors, and run one row of noise.

        Raises:
            InvalidModel: that failed, crashed, or took more than it may.
        """
        facts = {"device": device, "backend": backend, "seconds": self.seconds, "memory": self.memory_bytes}
        try:
            status, told, log = self._run(_packed(facts, graph, files))
        except subprocess.TimeoutExpired:
            raise InvalidModel(f"Opening the graph and running one row took longer than {self.seconds:g} s.") from None
        if (reason := _reason(status, told, log)) is not None:
            raise InvalidModel(reason)

    def give_up(self) -> None:
        """End what is being tried, now and later: a service that stops waits for no graph."""
        self._given_up.set()
        for process in tuple(self._running):
            process.kill()

    def _run(self, packed: bytes) -> tuple[int, bytes, bytes]:
        """Status, output and log of the process. Raises `TimeoutExpired`, when it has ended."""
        with subprocess.Popen(
            [sys.executable, "-P", "-m", "app.runtime.trial"],  # -P: nothing of the working directory
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        ) as process:  # fmt: skip
            self._running.add(process)
            if self._given_up.is_set():
                process.kill()
            try:
                told, log = process.communicate(packed, self.seconds)
            except BaseException:
                process.kill()
                raise
            finally:
                self._running.discard(process)
        return process.returncode, told, log


def _reason(status: int, told: bytes, log: bytes) -> str | None:
    """Why the graph is refused, or None."""
    if status == 0:
        reason: str | None = json.loads(told.splitlines()[-1])
        return reason
    logger.error("a trial ended with %d: %s", status, log[-2000:].decode(errors="replace"))
    how = _signal(-status) if status < 0 else f"status {status}"
    return f"The graph crashed the process that tried to open it ({how})."


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _packed(facts: Mapping[str, Any], graph: bytes, files: Mapping[str, bytes]) -> bytes:
    """What goes to the process: a JSON header with its length before it, the graph, the files."""
    lengths = [[name, len(content)] for name, content in files.items()]
    head = json.dumps({**facts, "graph": len(graph), "files": lengths}).encode()
    return b"".join([len(head).to_bytes(_LENGTH, "little"), head, graph, *files.values()])


def _limit(facts: Mapping[str, Any]) -> None:
    """Bound this process, and end it with its parent."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if resource is None:
        return
    seconds = int(facts["seconds"]) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))  # its parent counts real seconds
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if facts["device"] == "cpu":
        resource.setrlimit(resource.RLIMIT_AS, (facts["memory"], facts["memory"]))


def _tried(source: BinaryIO) -> str | None:
    """In the process: why the graph cannot be served, or None."""
    facts = json.loads(source.read(int.from_bytes(source.read(_LENGTH), "little")))
    _limit(facts)
    try:
        graph = source.read(facts["graph"])
        files = {name: source.read(length) for name, length in facts["files"]}
        session = by_rows(open_session(graph, facts["device"], 1, facts["backend"], files))
        check(session, noise(session.inputs, 1), finite=False)  # whether they have to be, its task says
    except (ImagoError, SessionFault, MemoryError) as error:
        if isinstance(fault_of(error), OutOfMemory):
            limit = f" within {facts['memory']} bytes" if facts["device"] == "cpu" else ""
            return f"There is not enough memory to open it and run one row{limit}: {str(error)[:300]}"
        return str(error)[:1000]
    return None


if __name__ == "__main__":
    print(json.dumps(_tried(sys.stdin.buffer)), flush=True)  # noqa: T201 - this is what the parent reads
    os._exit(0)  # whatever a library does at its end is not what was tried
