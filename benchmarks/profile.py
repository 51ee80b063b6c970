"""Where the time of a request goes: microseconds of CPU for each step, from stack samples of a loaded imago.

    python -m benchmarks.profile [--workload tiny] [--clients 32] [--imago-flags FLAGS]

The CPU time of a request is measured under load first, undisturbed; then the same load runs again while py-spy looks at
every process of the server (supervisor, HTTP workers, engine), and the time of each thread is shared out among the
steps it was seen in (`benchmarks.steps`). Prints a Markdown table.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.compare import named
from benchmarks.machine import CORES, thread_seconds
from benchmarks.report import table
from benchmarks.running import Running, StartFailed, running
from benchmarks.servers import servers
from benchmarks.steps import Samples, microseconds
from benchmarks.summary import OURS
from benchmarks.work import Work
from benchmarks.workloads import WORKLOADS, Workload
from benchmarks.wrk import Load, WrkFailed, drive, require_wrk

_WARM_UP_SECONDS = 3
_ATTACH_SECONDS = 2
"""py-spy reads the symbols of a process before it looks."""


class ProfileFailed(Exception):
    """py-spy may not look, or is not installed."""


@dataclass(frozen=True)
class Profile:
    """What a request costs, and how far the look at it disturbed the server."""

    costs: Mapping[str, float]
    """Microseconds of CPU by step."""
    plain: Load
    watched: Load
    server_cores: float
    unknown: Counter[str]


def profile(server: Running, clients: int, seconds: int, rate: int) -> Profile:
    """Load a server twice: to count its CPU time, and to look at its stacks.

    Raises:
        ProfileFailed: py-spy may not look, or is not installed.
    """
    drive(server.url, server.request, clients, _WARM_UP_SECONDS)
    server.drain()
    pids = server.pids()
    before = thread_seconds(pids)
    plain = drive(server.url, server.request, clients, seconds)
    spent = {thread: now - before.get(thread, 0.0) for thread, now in thread_seconds(pids).items()}
    server.drain()
    with ThreadPoolExecutor(1) as pool, tempfile.TemporaryDirectory() as folder:
        watched = pool.submit(drive, server.url, server.request, clients, seconds + _ATTACH_SECONDS)
        seen = _watch(pids, Path(folder), seconds, rate)
        return Profile(
            costs=microseconds(seen, spent, plain.rate * plain.seconds),
            plain=plain,
            watched=watched.result(),
            server_cores=sum(spent.values()) / plain.seconds,
            unknown=seen.unknown,
        )


def _watch(pids: Sequence[int], folder: Path, seconds: int, rate: int) -> Samples:
    """The samples of all processes, taken at the same time."""
    command = ["py-spy", "record", "--format", "raw", "--nolineno", "--threads"]
    command += ["--duration", str(seconds), "--rate", str(rate)]
    looking = {
        pid: subprocess.Popen(
            [*command, "--pid", str(pid), "--output", str(folder / str(pid))], stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, env={**os.environ, "PATH": _path()},
        )
        for pid in pids
    }  # fmt: skip
    said = {pid: process.communicate()[1] for pid, process in looking.items()}
    files = [file for pid in pids if (file := folder / str(pid)).exists()]
    if not files:
        raise ProfileFailed(f"py-spy saw no process (it needs root, or ptrace_scope 0): {next(iter(said.values()))}")
    seen = Samples()
    for file in files:
        seen.add(file.read_text().splitlines())
    return seen


def _path() -> str:
    """Where py-spy of this environment is found first."""
    return f"{Path(sys.executable).parent}:{os.environ['PATH']}"


def markdown(found: Profile, workload: Workload, clients: int) -> str:
    """The table, and a sentence before it."""
    total = sum(found.costs.values())
    idle = (CORES - found.server_cores - found.plain.client_cpu) / found.plain.rate * 1e6
    body = [
        [step, f"{cost:.1f}", f"{cost / total:.1%}"]
        for step, cost in sorted(found.costs.items(), key=lambda item: -item[1])
        if cost >= 0.05
    ]
    body += [
        ["**all of the server**", f"**{total:.1f}**", "**100 %**"],
        ["client (wrk)", f"{found.plain.client_cpu / found.plain.rate * 1e6:.1f}", ""],
        ["idle, or others' work", f"{idle:.1f}", ""],
    ]
    head = (
        f"{workload.name} ({workload.what}), {clients} clients, {CORES} cores: {found.plain.rate:,.0f} answers/s,"
        f" {found.server_cores:.2f} cores; {found.watched.rate:,.0f} answers/s while py-spy looked.\n"
    )
    unknown = [f"`{frame}` {count}" for frame, count in found.unknown.most_common(5)]
    tail = [f"Not known to a rule: {', '.join(unknown)}.\n"] if unknown else []
    return "\n".join([head, table(["step", "us of CPU a request", "share"], body), *tail])


def main() -> int:
    """Print the table; 2 where something that it needs is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", default="tiny", help=f"one of: {', '.join(WORKLOADS)} (default: %(default)s)")
    parser.add_argument("--clients", type=int, default=32, help="(default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=8, help="length of each of two loads (default: %(default)s)")
    parser.add_argument("--rate", type=int, default=100, help="samples a second (default: %(default)s)")
    parser.add_argument("--imago-flags", default="", metavar="FLAGS", help="more flags of `imago serve`")
    chosen = parser.parse_args()
    work = Work()
    try:
        require_wrk()
        workload = named(chosen.workload, WORKLOADS, "workload")[0]
        work.prepare()
        with running(servers(chosen.imago_flags)[OURS], workload, work, None) as server:
            print(markdown(profile(server, chosen.clients, chosen.seconds, chosen.rate), workload, chosen.clients))
    except (WrkFailed, StartFailed, ProfileFailed, argparse.ArgumentTypeError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
