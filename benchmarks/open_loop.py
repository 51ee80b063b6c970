"""Latency against load: requests that come when they come, at shares of what a server can answer.

    python -m benchmarks.open_loop [--servers imago,mosec] [--workloads tiny] [--arrivals poisson]

Before each load the peak is measured in a closed loop with 64 clients, because a shared machine changes its speed; the
load then is a share of it (`--levels`, in percent). imago is told how long its callers wait (`--timeout-ms`, the header
X-Request-Timeout-Ms), so that above its peak it refuses at once what would come too late: the share refused is drawn
beside the latency of what was answered.
"""

import argparse
import datetime
import multiprocessing
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks import rows
from benchmarks.arrivals import Kind, Sent, schedule, send
from benchmarks.compare import command, named, now
from benchmarks.environments import EnvironmentFailed, environment
from benchmarks.forms import Request
from benchmarks.machine import describe
from benchmarks.rows import MachineRow, OpenRow, Outcome, Where
from benchmarks.running import Meter, Running, StartFailed, running
from benchmarks.servers import Server, servers
from benchmarks.summary import OURS
from benchmarks.work import Work
from benchmarks.workloads import WORKLOADS, Workload
from benchmarks.wrk import WrkFailed, drive, require_wrk

_PEAK_CLIENTS = 64
_PEAK_SECONDS = 3
_REFUSALS = (429, 503)


@dataclass(frozen=True)
class Arrivals:
    """How requests come."""

    kind: Kind
    shares: tuple[float, ...]
    """Of the peak."""
    seconds: float
    connections: int
    timeout_ms: int


def levels(found: Running, where: Where, workload: Workload, server: Server, arrivals: Arrivals) -> Iterator[OpenRow]:
    """Each level of one server, after a measurement of its peak."""
    request = with_timeout(found.request, arrivals.timeout_ms) if server.name == OURS else found.request
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as client:
        client.submit(schedule, 1, 1, "constant").result()  # its start is no part of a load
        for number, share in enumerate(arrivals.shares):
            peak = drive(found.url, found.request, _PEAK_CLIENTS, _PEAK_SECONDS).rate
            found.drain()
            due = schedule(share * peak, arrivals.seconds, arrivals.kind, seed=number)
            meter = Meter(found)
            sent = client.submit(send, found.port, request, due, arrivals.connections).result()
            cores = meter.read(sent.client_cpu)
            found.drain()
            yield OpenRow(where, workload.name, server.name, arrivals.kind, share, peak, outcome(sent), cores)


def outcome(sent: Sent) -> Outcome:
    """Counts and percentiles of what was sent."""
    good, refused = sent.status == 200, np.isin(sent.status, _REFUSALS)
    p50, p99 = np.percentile(sent.latency[good] * 1000, (50, 99)).tolist() if good.any() else (None, None)
    return Outcome(
        answered=int(good.sum()),
        refused=int(refused.sum()),
        failed=int((~good & ~refused).sum()),
        p50_ms=p50,
        p99_ms=p99,
        late_p99_ms=float(np.percentile(sent.late, 99)) * 1000,
    )


def with_timeout(request: Request, milliseconds: int) -> Request:
    """The request of a caller who waits no longer than this."""
    return replace(request, headers={**request.headers, "X-Request-Timeout-Ms": str(milliseconds)})


def measure(chosen: argparse.Namespace, work: Work, file: Path, run: str) -> None:
    """Everything that the command line asks for; rows go to `file` as they come."""
    rows.append(file, MachineRow(run, now(), command(sys.argv), describe()))
    arrivals = Arrivals(
        kind=chosen.arrivals,
        shares=tuple(float(level) / 100 for level in chosen.levels.split(",")),
        seconds=chosen.seconds,
        connections=chosen.connections,
        timeout_ms=chosen.timeout_ms,
    )
    environments = (chosen.environments or work.folder("environments")).resolve()
    for number in range(1, chosen.passes + 1):
        for workload in named(chosen.workloads, WORKLOADS, "workload"):
            for server in named(chosen.servers, servers(chosen.imago_flags), "server"):
                home = None if server.name == OURS else environment(server.environment, environments, work)
                with running(server, workload, work, home) as found:
                    drive(found.url, found.request, _PEAK_CLIENTS, _PEAK_SECONDS)
                    for row in levels(found, Where(run, number), workload, server, arrivals):
                        rows.append(file, row)
                        print(_line(row), flush=True)


def main() -> int:
    """Measure, and say where it was written; 2 where something that it needs is missing or ended."""
    chosen = _arguments()
    work = Work()
    run = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    file = chosen.results or work.folder("results") / f"open-{run}.jsonl"
    try:
        require_wrk()
        work.prepare()
        measure(chosen, work, file, run)
    except (WrkFailed, argparse.ArgumentTypeError, EnvironmentFailed, StartFailed) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"measured into {file}; table and picture: python -m benchmarks.report {file}")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", default=OURS, help=f"some of: {', '.join(servers())} (default: %(default)s)")
    parser.add_argument("--workloads", default="tiny", help=f"some of: {', '.join(WORKLOADS)} (default: %(default)s)")
    parser.add_argument("--levels", default="20,40,60,80,90,100,120", help="percent of the peak (default: %(default)s)")
    parser.add_argument("--arrivals", choices=("poisson", "constant"), default="poisson", help="(default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=10, help="length of a load (default: %(default)s)")
    parser.add_argument("--passes", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument(
        "--timeout-ms", type=int, default=250, help="how long imago's callers wait (default: %(default)s)"
    )
    parser.add_argument("--connections", type=int, default=2048, help="at most so many (default: %(default)s)")
    parser.add_argument("--environments", type=Path, help="folder of the peers' environments")
    parser.add_argument("--imago-flags", default="", metavar="FLAGS", help="more flags of `imago serve`")
    parser.add_argument("--results", type=Path, help="file to add rows to (default: a new one in the work folder)")
    return parser.parse_args()


def _line(row: OpenRow) -> str:
    found, cores = row.outcome, row.cores
    return (
        f"{row.server:16} {row.workload:8} {row.share:4.0%} of {row.peak:.0f}/s: p50 {found.p50_ms or 0:.2f} p99"
        f" {found.p99_ms or 0:.2f} ms, refused {found.refused_share:.1%}, failed {found.failed}, sent late p99"
        f" {found.late_p99_ms:.2f} ms, cores {cores.server:.2f} + client {cores.client:.2f} + foreign"
        f" {cores.foreign:.2f}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
