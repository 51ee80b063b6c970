"""Pictures of what was measured. The one place that knows matplotlib."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.summary import OURS, Curve, Line, Section, number

matplotlib.use("Agg")

_OURS = ("#0b3c6f", "#1f6fb2", "#5aa0d6", "#a3cbe8")
_OTHERS = ("#3a3a3a", "#6e6e6e", "#a0a0a0", "#cccccc")
_LIMIT = "#c0392b"
_LINES = ("#1f6fb2", "#3a3a3a", "#c0792b", "#4a8a3a", "#8a4a8a")
_STYLE: Any = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}


def draw_section(section: Section, file: Path) -> None:
    """One workload: a group of bars for each server, a bar for each number of clients, the limit as a line."""
    with matplotlib.rc_context(_STYLE):
        bars = sum(len(line.cells) for line in section.lines)
        figure = Figure(figsize=(8, 1.3 + 0.2 * max(bars, 4)), layout="constrained")
        _bars(figure.add_subplot(), section)
        figure.savefig(file, dpi=110)


def draw_sections(found: Sequence[Section], file: Path) -> None:
    """All workloads in one picture, each with its own scale."""
    with matplotlib.rc_context(_STYLE):
        rows = (len(found) + 1) // 2
        figure = Figure(figsize=(11, 2.6 * rows), layout="constrained")
        for axes, section in zip(figure.subplots(rows, 2, squeeze=False).flat, found, strict=False):
            _bars(axes, section)
        for axes in figure.axes[len(found) :]:
            axes.set_visible(False)
        figure.savefig(file, dpi=110)


def draw_curves(found: Sequence[Curve], what: str, file: Path) -> None:
    """Latency against load: the median dotted, the 99th percentile drawn through, the share refused below."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(8, 5), layout="constrained")
        latency, refused = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        for place, curve in enumerate(found):
            colour = _LINES[place % len(_LINES)]
            shares = [level.share * 100 for level in curve.levels]
            p50, p99 = ([level.p50_ms for level in curve.levels], [level.p99_ms for level in curve.levels])
            latency.plot(shares, p99, marker="o", color=colour, label=f"{curve.server}, p99")
            latency.plot(shares, p50, marker=".", color=colour, linestyle=":", label=f"{curve.server}, p50")
            refused.plot(shares, [level.refused * 100 for level in curve.levels], marker="o", color=colour)
        latency.set_yscale("log")
        latency.set_ylabel("ms from when it was due")
        latency.set_title(f"{what}: latency against load, {found[0].arrivals} arrivals", loc="left", fontsize=9)
        latency.grid(alpha=0.3, which="both")
        latency.legend(frameon=False)
        refused.set_ylabel("refused, %")
        refused.set_ylim(bottom=0)
        refused.set_xlabel("load, percent of the closed-loop peak")
        refused.grid(alpha=0.3)
        figure.savefig(file, dpi=110)


def _bars(axes: Axes, section: Section) -> None:
    """Horizontal bars, the fastest server on top."""
    place, ticks = 0.0, []
    for line in section.lines:
        if not line.cells:
            continue
        first = place
        for clients, colour in zip(section.clients, _colours(line), strict=False):
            if clients not in line.cells:
                continue
            _bar(axes, place, line, clients, colour)
            place += 1
        ticks.append(((first + place - 1) / 2, line.server))
        place += 0.6
    if section.limit is not None:
        axes.axvline(section.limit.median, color=_LIMIT, linewidth=1.2, linestyle="--")
        limit = section.limit.median
        axes.annotate(
            f"limit without HTTP {number(limit)}", (limit, -1.1), color=_LIMIT, ha="right",
            va="center", fontsize=8, xytext=(-4, 0), textcoords="offset points",
        )  # fmt: skip
    axes.set_yticks([tick for tick, _ in ticks], [name for _, name in ticks])
    axes.set_ylim(place, -1.8)
    axes.set_xlim(0, _right_edge(section))
    axes.set_xlabel("answers a second")
    axes.set_title(f"{section.workload.name}: {section.workload.what}", loc="left", fontsize=9)


def _bar(axes: Axes, place: float, line: Line, clients: int, colour: str) -> None:
    cell = line.cells[clients]
    axes.barh(place, cell.rate.median, height=0.85, color=colour)
    label = f"{number(cell.rate.median)}  {clients} client{'s' if clients > 1 else ''}, p99 {number(cell.p99_ms)} ms"
    axes.annotate(
        label, (cell.rate.median, place), xytext=(3, 0), textcoords="offset points", va="center", fontsize=7,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8},
    )  # fmt: skip


def _colours(line: Line) -> Sequence[str]:
    """Dark for few clients, light for many."""
    return _OURS if line.server == OURS else _OTHERS


def _right_edge(section: Section) -> float:
    """Room for the labels beside the longest bar, and for the limit."""
    longest = max((cell.rate.median for line in section.lines for cell in line.cells.values()), default=1.0)
    return max(longest * 1.45, (section.limit.median if section.limit else 0) * 1.05)
