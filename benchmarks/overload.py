"""What an overloaded imago still answers: requests sent at multiples of what it can do, whether or not others were
answered.

    python -m benchmarks.overload [--workload resnet50] [--levels 100,200,300,500,1000] [--timeout-ms 500]

The peak is measured in a closed loop before each load, because a shared machine changes its speed. Goodput is what was
answered within the callers' deadline (X-Request-Timeout-Ms), as a share of the peak; times count from when a request
was due (`benchmarks.arrivals`). The client runs on the same cores: the column `client` says what it took of them.
Prints a Markdown table.
"""

import argparse
import multiprocessing
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from benchmarks.arrivals import Sent, schedule, send
from benchmarks.open_loop import with_timeout
from benchmarks.report import table
from benchmarks.running import Meter, Running, StartFailed, running
from benchmarks.servers import servers
from benchmarks.summary import OURS
from benchmarks.work import Work
from benchmarks.workloads import WORKLOADS
from benchmarks.wrk import WrkFailed, drive, require_wrk

_PEAK_CLIENTS = 64
_PEAK_SECONDS = 5
_REFUSED = 429
_COLUMNS = (
    "offered", "peak, 1/s", "goodput", "p99 answered, ms", "late or failed", "p99 refused, ms", "with Retry-After",
    "cores", "client",
)  # fmt: skip


def loads(found: Running, levels: list[float], seconds: float, timeout_ms: int) -> Iterator[list[str]]:
    """A row of the table for each level."""
    request = with_timeout(found.request, timeout_ms)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as client:
        client.submit(schedule, 1, 1, "constant").result()  # its start is no part of a load
        for number, level in enumerate(levels):
            peak = drive(found.url, found.request, _PEAK_CLIENTS, _PEAK_SECONDS).rate
            found.drain()
            due = schedule(level * peak, seconds, "poisson", seed=number)
            meter = Meter(found)
            sent = client.submit(send, found.port, request, due, 2048).result()
            cores = meter.read(sent.client_cpu)
            found.drain()
            yield [
                f"{level:.0%}", f"{peak:.0f}", *judged(sent, peak, timeout_ms / 1000),
                f"{cores.server:.2f}", f"{cores.client:.2f}",
            ]  # fmt: skip


def judged(sent: Sent, peak: float, deadline: float) -> list[str]:
    """Goodput, p99 of what was answered, answers that were neither in time nor refusals, p99 and form of refusals."""
    answered, refused = sent.status == 200, sent.status == _REFUSED
    good = answered & (sent.latency <= deadline)
    told = f"{sent.retry_after[refused].mean():.1%}" if refused.any() else "none refused"
    return [
        f"{good.sum() / (peak * sent.due[-1]):.1%}",
        _p99(sent.latency[answered]),
        str(int((~good & ~refused).sum())),
        _p99(sent.latency[refused]),
        told,
    ]


def _p99(seconds: "np.typing.NDArray[np.float64]") -> str:
    return f"{np.percentile(seconds, 99) * 1000:.0f}" if len(seconds) else "-"


def main() -> int:
    """Measure and print; 2 where something that it needs is missing or ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", default="resnet50", choices=WORKLOADS, help="(default: %(default)s)")
    parser.add_argument("--levels", default="100,200,300,500,1000", help="percent of the peak (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=20, help="length of a load (default: %(default)s)")
    parser.add_argument("--timeout-ms", type=int, default=500, help="the callers' deadline (default: %(default)s)")
    parser.add_argument("--imago-flags", default="", metavar="FLAGS", help="more flags of `imago serve`")
    chosen = parser.parse_args()
    levels = [float(level) / 100 for level in chosen.levels.split(",")]
    work = Work()
    try:
        require_wrk()
        work.prepare()
        with running(servers(chosen.imago_flags)[OURS], WORKLOADS[chosen.workload], work, None) as found:
            print(table(_COLUMNS, loads(found, levels, chosen.seconds, chosen.timeout_ms)))
    except (WrkFailed, StartFailed) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
