"""How many cores this process may use: of the machine, of its affinity, and of its container's quota."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def usable_cores(cgroups: Path = _CGROUPS, own: Path = _OWN) -> int:
    """The cores that may run this process at once, at least 1.

    A container with a quota of 2 CPUs on a host of 64 cores sees all 64; as many threads would spend the quota of each
    period at once and then stand still until the next (Linux, `Documentation/admin-guide/cgroup-v2.rst`: `cpu.max`).

    Args:
        cgroups: where the kernel shows control groups.
        own: the file that says to which of them this process belongs.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for folder in _folders(cgroups, own) if (quota := _quota(folder)) is not None]
    return max(1, min([allowed, *(math.ceil(quota) for quota in quotas)]))


def _folders(cgroups: Path, own: Path) -> Iterator[Path]:
    """The groups of this process and all above them: the tightest quota of them holds."""
    for line in _text(own).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = cgroups / controllers  # version 2 has one tree and names no controllers
        group = root / path.strip("/")
        yield from (group, *(above for above in group.parents if above.is_relative_to(root)))


def _quota(folder: Path) -> float | None:
    """Cores' worth of time in each period: `cpu.max` in version 2, two files in version 1; none where unlimited."""
    words = _text(folder / "cpu.max").split() or [
        _text(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")
    ]
    if len(words) != 2 or not all(word.isdecimal() for word in words) or not int(words[1]):  # "max", or -1
        return None
    return int(words[0]) / int(words[1])


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
