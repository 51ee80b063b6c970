"""imago beside the limit of the machine and FastAPI as most people write it: five minutes, one table, one picture.

    make bench        (or: python -m benchmarks.quick)

The shortest form of `benchmarks.compare`: both servers run in the environment of this process, in turn, twice.
"""

import argparse
import datetime
import sys
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks.compare import Comparison, Plan
from benchmarks.plots import draw_sections
from benchmarks.rows import read
from benchmarks.servers import servers
from benchmarks.summary import OURS, Cell, Section, number, sections
from benchmarks.work import Work
from benchmarks.workloads import WORKLOADS
from benchmarks.wrk import WrkFailed, require_wrk

_OTHER: Final = "fastapi"
_LOADS: Final = {
    "tiny": ((1, 8, 32), 2),
    "cifar": ((32,), 2),
    "resnet50": ((1, 8), 3),
    "12mp": ((8,), 3),
    "segment": ((8,), 2),
    "generate": ((8,), 2),
}
"""Numbers of clients, and seconds of a load."""


def plan(imago_flags: str) -> Plan:
    """What is measured."""
    known = servers(imago_flags)
    return Plan(
        servers=[known[OURS], known[_OTHER]],
        workloads=[
            replace(each, clients=clients, seconds=seconds, batches=each.batches[-2:])
            for each, (clients, seconds) in ((WORKLOADS[name], load) for name, load in _LOADS.items())
        ],
        passes=2,
        warm_up_seconds=1,
        limit_seconds=0.7,
    )


def table(found: Iterable[Section]) -> Table:
    """One line for each workload and number of clients."""
    columns = ("workload", "clients", "limit", "imago", "of limit", "p50 ms", "p99 ms", "FastAPI", "of limit", "p99 ms")
    shown = Table(*columns, "imago / FastAPI", title="answers a second", box=None)
    for column in shown.columns[1:]:
        column.justify = "right"
    for section in found:
        lines = {line.server: line for line in section.lines}
        for clients in section.clients:
            ours, theirs = (lines[name].cells.get(clients) if name in lines else None for name in (OURS, _OTHER))
            limit = number(section.limit.median) if section.limit else "-"
            shown.add_row(section.workload.name, str(clients), limit, *_ours(ours), *_theirs(ours, theirs))
    return shown


def _ours(cell: Cell | None) -> tuple[str, ...]:
    if cell is None:
        return ("-",) * 4
    return number(cell.rate.median), f"{cell.of_limit:.2f}", number(cell.p50_ms), number(cell.p99_ms)


def _theirs(ours: Cell | None, theirs: Cell | None) -> tuple[str, ...]:
    if theirs is None:
        return ("-",) * 4
    times = f"{ours.of_best:.1f}x" if ours and ours.of_best else "-"
    return number(theirs.rate.median), f"{theirs.of_limit:.2f}", number(theirs.p99_ms), times


def main() -> int:
    """Measure, print the table and draw the picture; 2 where something that it needs is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--imago-flags", default="", metavar="FLAGS", help="more flags of `imago serve`")
    chosen = parser.parse_args()
    try:
        require_wrk()
    except WrkFailed as error:
        print(error, file=sys.stderr)
        return 2
    work = Work()
    work.prepare()
    run = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    file, picture = work.folder("results") / f"quick-{run}.jsonl", work.root / "bench.png"
    Comparison(plan(chosen.imago_flags), work, file, run).measure()
    found = sections(read([file]))
    draw_sections(found, picture)
    Console(width=140, highlight=False).print(table(found))
    print(f"picture: {picture}; all figures: python -m benchmarks.report {file} --out {work.root / 'bench.md'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
