"""From rows to what is reported: medians over passes.

Servers are compared by their share of the limit that was measured just before and after them, in the same pass, so
that a machine that runs faster now and slower then favours none of them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.rows import FailedRow, LoadRow, Row, Where
from benchmarks.workloads import WORKLOADS, Workload

OURS = "imago"


@dataclass(frozen=True)
class Spread:
    """The median of some passes, and their extremes."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Cell:
    """One server with one number of clients."""

    rate: Spread
    p50_ms: float
    p99_ms: float
    of_limit: float
    """Share of the limit."""
    of_best: float | None
    """Times what the best other server reaches of the limit."""
    of_same: float | None
    """Times what the workload that this one varies reaches of the limit, with the same server."""


@dataclass(frozen=True)
class Facts:
    """What does not depend on the number of clients."""

    right: bool
    refused: int
    broken: int
    resident_mb: float
    proportional_mb: float
    processes: int
    start_seconds: float
    server_cpu: float
    client_cpu: float
    """Cores, in the load that kept most of them busy."""
    foreign_cpu: float
    """Cores, in the load that had most of it."""
    limit: Spread
    """Of the limits around its starts."""


@dataclass(frozen=True)
class Line:
    """One server in a table; `cells` by number of clients."""

    server: str
    cells: dict[int, Cell]
    facts: Facts | None
    failures: tuple[str, ...]


@dataclass(frozen=True)
class Section:
    """One workload: its limit and its servers, the fastest first."""

    workload: Workload
    passes: int
    limit: Spread | None
    """Of all limits measured."""
    way: str
    best_others: dict[int, str]
    """The best server, imago aside, by number of clients."""
    lines: tuple[Line, ...]

    @property
    def clients(self) -> list[int]:
        """All numbers of clients that were measured."""
        return sorted({clients for line in self.lines for clients in line.cells})


def spread(values: Sequence[float]) -> Spread:
    """Median and extremes."""
    return Spread(median(values), min(values), max(values))


def number(value: float) -> str:
    """Three digits or more."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def sections(rows: Iterable[Row]) -> list[Section]:
    """One section for each workload that was measured, in the order of `WORKLOADS`."""
    known = list(rows)
    measured = [row.workload for row in known if isinstance(row, LoadRow | FailedRow)]
    return [section(workload, known) for name, workload in WORKLOADS.items() if name in measured]


def section(workload: Workload, rows: Sequence[Row]) -> Section:
    """The section of one workload."""
    every = [row for row in rows if isinstance(row, LoadRow)]
    loads = [row for row in every if row.workload == workload.name]
    failed = [row for row in rows if isinstance(row, FailedRow) and row.workload == workload.name]
    bests = {clients: best_other(loads, clients) for clients in sorted({row.clients for row in loads})}
    names = [row.server for row in loads] + [row.server for row in failed]
    lines = [_line(name, workload, every, failed, bests) for name in dict.fromkeys(names)]
    return Section(
        workload=workload,
        passes=len({row.where for row in loads}),
        limit=spread([row.limit for row in starts(loads)]) if loads else None,
        way=loads[-1].way if loads else "",
        best_others={clients: name for clients, name in bests.items() if name},
        lines=tuple(sorted(lines, key=_peak, reverse=True)),
    )


def share(row: LoadRow) -> float:
    """Share of the limit that a load reached."""
    return row.load.rate / row.limit


def best_other(loads: Sequence[LoadRow], clients: int) -> str | None:
    """The server, imago aside, whose median share of the limit with so many clients is the highest."""
    others = [row for row in loads if row.server != OURS and row.clients == clients]
    shares = {row.server: [share(other) for other in others if other.server == row.server] for row in others}
    return max(shares, key=lambda name: median(shares[name]), default=None)


def starts(loads: Iterable[LoadRow]) -> list[LoadRow]:
    """One row for each start of a server."""
    return list({(row.where, row.server): row for row in loads}.values())


def _line(
    server: str,
    workload: Workload,
    loads: Sequence[LoadRow],
    failed: Sequence[FailedRow],
    bests: Mapping[int, str | None],
) -> Line:
    own = [row for row in loads if (row.server, row.workload) == (server, workload.name)]
    counts = sorted({row.clients for row in own})
    reasons = dict.fromkeys(row.reason for row in failed if row.server == server)
    cells = {clients: _cell(server, clients, workload, loads, bests[clients]) for clients in counts}
    return Line(server, cells, _facts(own), tuple(reasons))


def _cell(server: str, clients: int, workload: Workload, loads: Sequence[LoadRow], best: str | None) -> Cell:
    def shares(name: str | None, of: str | None) -> dict[Where, float]:
        """Shares of the limit by pass."""
        named = (row for row in loads if (row.server, row.workload, row.clients) == (name, of, clients))
        return {row.where: share(row) for row in named}

    rows = [row for row in loads if (row.server, row.workload, row.clients) == (server, workload.name, clients)]
    own = shares(server, workload.name)
    return Cell(
        rate=spread([row.load.rate for row in rows]),
        p50_ms=median(row.load.p50_ms for row in rows),
        p99_ms=median(row.load.p99_ms for row in rows),
        of_limit=median(own.values()),
        of_best=_ratio(own, shares(best, workload.name)),
        of_same=_ratio(own, shares(server, workload.same_as)),
    )


def _ratio(own: Mapping[Where, float], other: Mapping[Where, float]) -> float | None:
    """Median of the ratios within a pass; None where no pass has both."""
    ratios = [value / other[where] for where, value in own.items() if other.get(where)]
    return median(ratios) if ratios else None


def _facts(own: Sequence[LoadRow]) -> Facts | None:
    if not own:
        return None
    busiest = max(own, key=lambda row: row.use.server_cpu)
    return Facts(
        right=all(row.right for row in own),
        refused=sum(row.load.refused for row in own),
        broken=sum(row.load.broken for row in own),
        resident_mb=max(row.use.resident_mb for row in own),
        proportional_mb=max(row.use.proportional_mb for row in own),
        processes=max(row.use.processes for row in own),
        start_seconds=median(row.start_seconds for row in starts(own)),
        server_cpu=busiest.use.server_cpu,
        client_cpu=busiest.use.client_cpu,
        foreign_cpu=max(row.use.foreign_cpu for row in own),
        limit=spread([row.limit for row in starts(own)]),
    )


def _peak(line: Line) -> float:
    return max((cell.of_limit for cell in line.cells.values()), default=0.0)
