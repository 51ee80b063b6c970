"""What the kernel counts: CPU seconds and memory of a server's processes, and of the machine as a whole. Linux only.

A server may have many processes, some of which leave their parent (Ray's daemons do). All of them inherit a variable
with the tag of their start, so that they are found by their environment.
"""

import os
import platform
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

TAG = "BENCHMARK_TAG"
"""The variable that marks the processes of one start."""

CORES = len(os.sched_getaffinity(0))

_PROC = Path("/proc")
_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PSS = re.compile(rb"^Pss:\s+(\d+) kB", re.MULTILINE)


@dataclass(frozen=True)
class Busy:
    """CPU seconds that the machine has worked since its start, and seconds that its host took away."""

    worked: float
    stolen: float


def tagged(tag: str) -> list[int]:
    """The processes that carry a tag, this one left out."""
    wanted = f"{TAG}={tag}".encode()
    holding = (path for path in _PROC.glob("[0-9]*") if wanted in _read(path / "environ").split(b"\0"))
    return [int(path.name) for path in holding if int(path.name) != os.getpid()]


def resident(pids: Iterable[int]) -> int:
    """Bytes resident, summed; pages that processes share count for each of them."""
    return sum(int((_read(_PROC / str(pid) / "statm").split() or [b"0", b"0"])[1]) for pid in pids) * _PAGE


def proportional(pids: Iterable[int]) -> int:
    """Bytes resident, summed, with each shared page divided among those that share it (PSS)."""
    found = (_PSS.search(_read(_PROC / str(pid) / "smaps_rollup")) for pid in pids)
    return sum(int(match[1]) * 1024 for match in found if match)


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system seconds that processes have used themselves."""
    return sum(_ticks(_read(_PROC / str(pid) / "stat")) for pid in pids) / _TICK


def thread_seconds(pids: Iterable[int]) -> dict[int, float]:
    """The same for each thread of some processes, by its number (which is unique on the machine)."""
    tasks = (task for pid in pids for task in (_PROC / str(pid) / "task").glob("[0-9]*"))
    return {int(task.name): _ticks(_read(task / "stat")) / _TICK for task in tasks}


def busy() -> Busy:
    """What the machine has worked so far."""
    user, nice, system, _, _, interrupt, soft, stolen = map(int, _read(_PROC / "stat").split()[1:9])
    return Busy((user + nice + system + interrupt + soft) / _TICK, stolen / _TICK)


def describe() -> dict[str, str]:
    """The machine and the versions of what imago itself runs on, for the head of a report."""
    model = re.search(rb"^model name\s*: (.*)$", _read(_PROC / "cpuinfo"), re.MULTILINE)
    memory = re.search(rb"^MemTotal:\s+(\d+)", _read(_PROC / "meminfo"), re.MULTILINE)
    return {
        "processor": model[1].decode() if model else platform.machine(),
        "cores": str(CORES),
        "memory": f"{int(memory[1]) / 2**20:.0f} GiB" if memory else "unknown",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("onnxruntime", "numpy", "pillow", "fastapi", "uvicorn")},
    }


def _ticks(stat: bytes) -> int:
    """User and system ticks; the name of a process may hold spaces and brackets, so count from its end."""
    fields = stat.rpartition(b")")[2].split()
    return int(fields[11]) + int(fields[12]) if fields else 0


def _read(path: Path) -> bytes:
    """A file of /proc; nothing where its process has ended."""
    try:
        return path.read_bytes()
    except OSError:
        return b""
