"""Tables and pictures of a comparison.

    python -m benchmarks.report [FILE ...] [--out benchmarks/RESULTS.md]

Without files the newest results of the work folder are taken; several files are taken together. Writes the tables as
Markdown, and a picture of each workload beside them; what other commands measured stands at the end, and is kept.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from benchmarks.rows import MachineRow, Row, ServerRow, read
from benchmarks.summary import Cell, Curve, Level, Line, Section, Spread, curves, number, sections
from benchmarks.work import ROOT, Work
from benchmarks.workloads import WORKLOADS

KEPT = "<!-- Measured by other commands: a new report keeps what follows. -->\n"
_INTRODUCTION = """\
# Results

Made by `python -m benchmarks.report`; [README.md](README.md) says how it was measured and how far to trust it.
Numbers are medians over passes. The limit is what the machine could answer at that moment without HTTP; it was measured
just before and after each server, and servers are compared by their share of it. Only answers with status 200 count,
and the first answer of every start was compared with one made without a server.
"""


def markdown(rows: Sequence[Row], figures: str = "figures") -> str:
    """The whole report; pictures are linked below the folder `figures`."""
    parts = [
        _INTRODUCTION,
        *machine(rows),
        *(workload(each, figures) for each in sections(rows)),
        *(open_loop(name, found, figures) for name, found in curves(rows).items()),
        installed(rows),
    ]
    return "\n".join(part for part in parts if part)


def machine(rows: Iterable[Row]) -> list[str]:
    """Where and when, one line a run."""
    return [
        f"- {row.date}, `{row.command}`: " + ", ".join(f"{name} {value}" for name, value in row.machine.items()) + "\n"
        for row in rows
        if isinstance(row, MachineRow)
    ]


def workload(section: Section, figures: str) -> str:
    """The tables of one workload."""
    title = f"## {section.workload.name}: {section.workload.what}\n"
    picture = f"![{section.workload.name}]({figures}/{section.workload.name}.png)\n"
    tables = [rates(section), ratios(section), facts(section)]
    return "\n".join([title, _bound(section), picture, *tables, *_failures(section)])


def rates(section: Section) -> str:
    """Answers a second and latencies, a column for each number of clients."""
    head = ["answers/s (p50 / p99 in ms)", *(_clients(count) for count in section.clients)]
    return table(head, [[line.server, *_each(line, section, _rate)] for line in section.lines if line.cells])


def ratios(section: Section) -> str:
    """Shares of the limit, and times the best other server or the workload that this one varies."""
    same = section.workload.same_as
    title = f"share of the limit / times {same or 'the best other'}"
    body = [[line.server, *_each(line, section, _ratio)] for line in section.lines if line.cells]
    if section.best_others and not same:
        body.append(["*the best other*", *(f"*{section.best_others.get(count, '-')}*" for count in section.clients)])
    return table([title, *(_clients(count) for count in section.clients)], body)


def facts(section: Section) -> str:
    """What does not depend on the number of clients."""
    head = [
        "server", "start to first answer, s", "memory, MB: RSS / PSS", "processes", "cores: server / client",
        "foreign / stolen cores, at most", "refused", "broken", "first answer", "limit around it",
    ]  # fmt: skip
    return table(head, [_facts(line) for line in section.lines if line.facts])


def open_loop(name: str, found: Sequence[Curve], figures: str) -> str:
    """Latency against load of one workload."""
    head = [
        "server", "load, of its peak", "requests/s", "p50 ms", "p99 ms", "refused", "failed or too late",
        "sent late, p99 ms", "cores of the client",
    ]  # fmt: skip
    body = [_level(curve.server, level) for curve in found for level in curve.levels]
    title = f"## {name}: latency against load, {found[0].arrivals} arrivals\n"
    return "\n".join([title, f"![{name}]({figures}/open-{name}.png)\n", table(head, body)])


def installed(rows: Iterable[Row]) -> str:
    """What each server installs: the last weighing counts."""
    weighed = {row.server: row for row in rows if isinstance(row, ServerRow)}
    if not weighed:
        return ""
    body = [
        [row.server, str(row.megabytes), ", ".join(f"{name} {version}" for name, version in row.versions.items())]
        for row in sorted(weighed.values(), key=lambda row: row.megabytes)
    ]
    return "## Versions and installed size\n\n" + table(["server", "environment, MB", "versions"], body)


def table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A Markdown table: the first column to the left, the others to the right."""
    lines = [head, ["---", *("---:" for _ in head[1:])], *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _bound(section: Section) -> str:
    passes = f"{section.passes} {'pass' if section.passes == 1 else 'passes'}"
    if section.limit is None:
        return f"{passes}.\n"
    return f"Limit without HTTP: {_spread(section.limit)} answers/s ({section.way}); {passes}.\n"


def _failures(section: Section) -> list[str]:
    return [f"{line.server} failed: {reason}\n" for line in section.lines for reason in line.failures]


def _each(line: Line, section: Section, shown: Callable[[Cell], str]) -> list[str]:
    return [shown(line.cells[count]) if count in line.cells else "-" for count in section.clients]


def _rate(cell: Cell) -> str:
    return f"{number(cell.rate.median)} ({number(cell.p50_ms)} / {number(cell.p99_ms)})"


def _ratio(cell: Cell) -> str:
    times = cell.of_best if cell.of_same is None else cell.of_same
    return f"{cell.of_limit:.2f}" if times is None else f"{cell.of_limit:.2f} / {times:.2f}"


def _facts(line: Line) -> list[str]:
    found = line.facts
    assert found is not None
    return [
        line.server,
        f"{found.start_seconds:.1f}",
        f"{found.memory.resident:.0f} / {found.memory.proportional:.0f}",
        str(found.memory.processes),
        f"{found.cores.server:.2f} / {found.cores.client:.2f}",
        f"{found.cores.foreign:.2f} / {found.cores.stolen:.2f}",
        str(found.refused),
        str(found.broken),
        "right" if found.right else "**wrong**",
        _spread(found.limit),
    ]


def _level(server: str, level: Level) -> list[str]:
    return [
        server,
        f"{level.share:.0%}",
        number(level.rate),
        *("-" if value is None else number(value) for value in (level.p50_ms, level.p99_ms)),
        f"{level.refused:.1%}",
        str(level.failed),
        number(level.late_p99_ms),
        f"{level.client_cpu:.2f}",
    ]


def _spread(spread: Spread) -> str:
    if spread.low == spread.high:
        return number(spread.median)
    return f"{number(spread.median)} ({number(spread.low)} to {number(spread.high)})"


def _clients(count: int) -> str:
    return "1 client" if count == 1 else f"{count} clients"


def kept(file: Path) -> str:
    """The end of an earlier report that other commands than these measured."""
    found = file.read_text(encoding="utf-8") if file.exists() else ""
    return f"\n{found[found.index(KEPT) :]}" if KEPT in found else ""


def _age(file: Path) -> float:
    return -file.stat().st_mtime


def main() -> int:
    """Write the report; 2 where there is nothing to report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "RESULTS.md")
    chosen = parser.parse_args()
    files = chosen.files or sorted(Work().folder("results").glob("*.jsonl"), key=_age)[:1]
    if not files:
        print("nothing was measured yet: python -m benchmarks.compare", file=sys.stderr)
        return 2
    found = read(files)
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(markdown(found) + kept(chosen.out), encoding="utf-8")
    from benchmarks.plots import draw_curves, draw_section  # matplotlib comes with the extra `bench`

    figures = chosen.out.parent / "figures"
    figures.mkdir(exist_ok=True)
    for each in sections(found):
        draw_section(each, figures / f"{each.workload.name}.png")
    for name, drawn in curves(found).items():
        draw_curves(drawn, WORKLOADS[name].what, figures / f"open-{name}.png")
    print(f"wrote {chosen.out} and {figures}/")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
