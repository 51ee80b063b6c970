"""The comparison: servers under the same load, in turn, several times over.

    python -m benchmarks.compare --servers imago,mosec --workloads tiny --clients 1,8,32,64 --seconds 5 --passes 3

The speed of a shared machine changes by up to two times within minutes. So every server is measured once in each pass,
in another order each time, and just before and after it the limit (`benchmarks.limit`): what the machine could answer
at that moment without HTTP. Reported are medians over passes of shares of that limit. After a start come its first
answer (compared with one made here), a warm-up, and one load for each number of clients.
Rows go to `benchmarks/work/results/` as they come; `python -m benchmarks.report` makes tables and pictures of them.
"""

import argparse
import datetime
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from app.manifest import nearest
from benchmarks import limit, rows
from benchmarks.answers import Answer, Unreadable, agrees
from benchmarks.environments import EnvironmentFailed, environment, megabytes, versions
from benchmarks.machine import describe
from benchmarks.rows import Cores, FailedRow, LoadRow, MachineRow, Memory, ServerRow, Where
from benchmarks.running import Meter, Running, StartFailed, running
from benchmarks.servers import Server, servers
from benchmarks.work import Work
from benchmarks.workloads import WORKLOADS, Workload
from benchmarks.wrk import Load, WrkFailed, drive, require_wrk

Item = TypeVar("Item")


@dataclass(frozen=True)
class Plan:
    """What is measured, and for how long."""

    servers: Sequence[Server]
    workloads: Sequence[Workload]
    passes: int = 3
    warm_up_seconds: float = 3.0
    limit_seconds: float = 1.5
    environments: Path | None = None
    """Where the environments are; none where all run in that of this process."""


@dataclass
class Comparison:
    """One run of a plan; rows go to `file` as they come."""

    plan: Plan
    work: Work
    file: Path
    run: str
    _homes: dict[str, Path | EnvironmentFailed] = field(default_factory=dict)
    _ways: dict[str, limit.Way] = field(default_factory=dict)
    _right: dict[str, list[Answer]] = field(default_factory=dict)

    def measure(self) -> None:
        """Measure everything; a server that fails is recorded, and the others go on."""
        rows.append(self.file, MachineRow(self.run, now(), command(sys.argv), describe()))
        self._weigh()
        for number in range(1, self.plan.passes + 1):
            where = Where(self.run, number)
            for workload in self.plan.workloads:
                print(f"pass {number} of {self.plan.passes}: {workload.name}, {workload.what}", flush=True)
                for server in turned(self.plan.servers, number):
                    if server.serves(workload):
                        self._server(where, workload, server)

    def _weigh(self) -> None:
        """Find or build the environments, and write down what they hold."""
        folder = self.plan.environments
        if folder is None:
            return
        for server in self.plan.servers:
            try:
                home = environment(server.environment, folder, self.work)
            except EnvironmentFailed as error:
                print(f"{server.name}: {error}", flush=True)
                self._homes[server.name] = error
            else:
                self._homes[server.name] = home
                rows.append(self.file, ServerRow(self.run, server.name, megabytes(home), versions(home)))

    def _server(self, where: Where, workload: Workload, server: Server) -> None:
        try:
            self._loads(where, workload, server)
        except (EnvironmentFailed, StartFailed, WrkFailed, Unreadable) as error:
            print(f"  {server.name:16} failed: {error}", flush=True)
            rows.append(self.file, FailedRow(where, workload.name, server.name, str(error)))

    def _loads(self, where: Where, workload: Workload, server: Server) -> None:
        """Measure a server between two measurements of the limit, whose mean counts."""
        home = self._homes.get(server.name)
        if isinstance(home, EnvironmentFailed):
            raise home
        before = self._limit(workload)
        with running(server, workload, self.work, home) as found:
            right = agrees(server.read(workload, found.first_answer), self._right_answers(workload))
            drive(found.url, found.request, max(workload.clients), self.plan.warm_up_seconds)
            found.drain()
            loads = [loaded(found, clients, workload.seconds) for clients in workload.clients]
        most = (before + self._limit(workload)) / 2
        way = str(self._way(workload))
        for clients, used in zip(workload.clients, loads, strict=True):
            row = LoadRow(where, workload.name, server.name, clients, *used, right, found.start_seconds, most, way)
            rows.append(self.file, row)
            print(_line(row), flush=True)

    def _limit(self, workload: Workload) -> float:
        return limit.measure(self.work, workload, [self._way(workload)], self.plan.limit_seconds)[0]

    def _way(self, workload: Workload) -> limit.Way:
        if workload.name not in self._ways:
            self._ways[workload.name] = limit.quickest(self.work, workload, self.plan.limit_seconds / 2)
        return self._ways[workload.name]

    def _right_answers(self, workload: Workload) -> list[Answer]:
        if workload.name not in self._right:
            self._right[workload.name] = limit.right_answers(self.work, workload)
        return self._right[workload.name]


def loaded(server: Running, clients: int, seconds: float) -> tuple[Load, Cores, Memory]:
    """One load, what it took, and a queue left empty."""
    server.peak_bytes = 0
    meter = Meter(server)
    load = drive(server.url, server.request, clients, seconds)
    used = meter.read(load.client_cpu), server.memory()
    server.drain()
    return load, *used


def turned(items: Sequence[Server], number: int) -> list[Server]:
    """The servers in the order of pass `number`: each pass begins with the next of them."""
    start = (number - 1) % len(items)
    return [*items[start:], *items[:start]]


def command(arguments: Sequence[str]) -> str:
    """The command that repeats a run on any machine: paths of this one left out."""
    kept, rest = [], iter(arguments[1:])
    for argument in rest:
        if argument in ("--environments", "--results"):
            next(rest, None)
        else:
            kept.append(argument)
    return shlex.join(["python", "-m", f"benchmarks.{Path(arguments[0]).stem}", *kept])


def main() -> int:
    """Measure what the command line asks for; 2 where something that it needs is missing."""
    chosen = _arguments()
    try:
        require_wrk()
        plan = _plan(chosen)
    except (WrkFailed, argparse.ArgumentTypeError) as error:
        print(error, file=sys.stderr)
        return 2
    work = Work()
    work.prepare()
    run = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    file = chosen.results or work.folder("results") / f"{run}.jsonl"
    Comparison(plan, work, file, run).measure()
    print(f"measured into {file}; tables and pictures: python -m benchmarks.report {file}")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", default="all", help=f"some of: {', '.join(servers())} (default: all)")
    parser.add_argument("--workloads", default="all", help=f"some of: {', '.join(WORKLOADS)} (default: all)")
    parser.add_argument("--clients", help="such as 1,8,32,64 (default: each workload's own)")
    parser.add_argument("--seconds", type=float, help="length of a load (default: each workload's own, 5 or 10)")
    parser.add_argument("--passes", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--warm-up", type=float, default=3, metavar="SECONDS", help="(default: %(default)s)")
    parser.add_argument(
        "--environments", type=Path, help="folder of the peers' environments (default: one in the work folder)"
    )
    parser.add_argument("--imago-flags", default="", metavar="FLAGS", help="more flags of `imago serve`")
    parser.add_argument("--results", type=Path, help="file to add rows to (default: a new one in the work folder)")
    return parser.parse_args()


def _plan(chosen: argparse.Namespace) -> Plan:
    """Raises ArgumentTypeError where a name is unknown."""
    workloads = [
        replace(
            workload,
            clients=tuple(map(int, chosen.clients.split(","))) if chosen.clients else workload.clients,
            seconds=chosen.seconds or workload.seconds,
        )
        for workload in named(chosen.workloads, WORKLOADS, "workload")
    ]
    return Plan(
        servers=named(chosen.servers, servers(chosen.imago_flags), "server"),
        workloads=workloads,
        passes=chosen.passes,
        warm_up_seconds=chosen.warm_up,
        environments=(chosen.environments or Work().folder("environments")).resolve(),
    )


def named(text: str, known: Mapping[str, Item], what: str) -> list[Item]:
    """The items whose names stand in a list with commas, or all. Raises ArgumentTypeError where one is unknown."""
    names = list(known) if text == "all" else text.split(",")
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"{what} {name!r} is unknown{nearest(name, known)}")
    return [known[name] for name in names]


def _line(row: LoadRow) -> str:
    load, cores, memory = row.load, row.cores, row.memory
    parts = [
        f"  {row.server:16} c={row.clients:<4} {load.rate:9.1f} answers/s, {load.rate / row.limit:.2f} of the limit",
        f"p50 {load.p50_ms:.2f} p99 {load.p99_ms:.2f} ms",
        f"cores {cores.server:.2f} + client {cores.client:.2f} + foreign {cores.foreign:.2f}",
        f"{memory.resident:.0f}/{memory.proportional:.0f} MB",
    ]
    bad = [f"refused {load.refused}"] * bool(load.refused) + [f"broken {load.broken}"] * bool(load.broken)
    return ", ".join(parts + bad + ["WRONG ANSWER"] * (not row.right))


def now() -> str:
    """The date and time, UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


if __name__ == "__main__":
    raise SystemExit(main())
