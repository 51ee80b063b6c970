"""From rows to what is reported: medians over passes.

Servers are compared by their share of the limit that was measured just before and after them, in the same pass, so
that a machine that runs faster now and slower then favours none of them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.rows import Cores, FailedRow, LoadRow, Memory, OpenRow, Row, Where
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
    memory: Memory
    """The most of each of its parts."""
    start_seconds: float
    cores: Cores
    """Of the load that kept most of them busy; foreign and stolen ones of the load that had most of them."""
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
    busiest = max((row.cores for row in own), key=lambda cores: cores.server)
    return Facts(
        right=all(row.right for row in own),
        refused=sum(row.load.refused for row in own),
        broken=sum(row.load.broken for row in own),
        memory=Memory(
            resident=max(row.memory.resident for row in own),
            proportional=max(row.memory.proportional for row in own),
            processes=max(row.memory.processes for row in own),
        ),
        start_seconds=median(row.start_seconds for row in starts(own)),
        cores=Cores(
            server=busiest.server,
            client=busiest.client,
            foreign=max(row.cores.foreign for row in own),
            stolen=max(row.cores.stolen for row in own),
        ),
        limit=spread([row.limit for row in starts(own)]),
    )


def _peak(line: Line) -> float:
    return max((cell.of_limit for cell in line.cells.values()), default=0.0)


@dataclass(frozen=True)
class Level:
    """One server under open-loop load at one share of its peak: medians over passes."""

    share: float
    rate: float
    """Requests due a second."""
    refused: float
    """Share of the requests."""
    failed: int
    p50_ms: float | None
    p99_ms: float | None
    late_p99_ms: float
    client_cpu: float


@dataclass(frozen=True)
class Curve:
    """Latency of one server against load."""

    server: str
    arrivals: str
    levels: tuple[Level, ...]


def curves(rows: Iterable[Row]) -> dict[str, list[Curve]]:
    """Curves by workload, in the order measured."""
    loads = [row for row in rows if isinstance(row, OpenRow)]
    found: dict[str, list[Curve]] = {}
    for workload, server, arrivals in dict.fromkeys((row.workload, row.server, row.arrivals) for row in loads):
        own = [row for row in loads if (row.workload, row.server, row.arrivals) == (workload, server, arrivals)]
        shares = sorted({row.share for row in own})
        levels = tuple(_level([row for row in own if row.share == share]) for share in shares)
        found.setdefault(workload, []).append(Curve(server, arrivals, levels))
    return found


def _level(own: Sequence[OpenRow]) -> Level:
    outcomes = [row.outcome for row in own]
    return Level(
        share=own[0].share,
        rate=median(row.share * row.peak for row in own),
        refused=median(each.refused_share for each in outcomes),
        failed=sum(each.failed for each in outcomes),
        p50_ms=_median([each.p50_ms for each in outcomes]),
        p99_ms=_median([each.p99_ms for each in outcomes]),
        late_p99_ms=median(each.late_p99_ms for each in outcomes),
        client_cpu=median(row.cores.client for row in own),
    )


def _median(values: Iterable[float | None]) -> float | None:
    """The median of those that there are."""
    known = [value for value in values if value is not None]
    return median(known) if known else None
