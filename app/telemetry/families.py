"""Counters, gauges and histograms whose numbers lie on a board; added up over all processes when they are read.

Observing is a handful of additions in shared memory; the Prometheus client library, which takes a lock for each and
knows one process, is left to write the answer. Each family keeps its series by their label values.
"""

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Final, Generic, TypeVar

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from app.telemetry.board import Cells, Labels, Segment

Series = TypeVar("Series")
Combine = Callable[[Iterable[float]], float]


class Counter:
    """One series that only grows; it survives the process that counts."""

    __slots__ = ("_cells",)

    def __init__(self, cells: Cells) -> None:
        self._cells = cells

    def inc(self, amount: float = 1.0) -> None:
        """Count so many more; not negative."""
        self._cells[0] += amount


class Gauge:
    """One series that is as it was last set or changed; it ends with the process that set it."""

    __slots__ = ("_cells",)

    def __init__(self, cells: Cells) -> None:
        self._cells = cells

    def set(self, value: float) -> None:
        """Replace the value of this process."""
        self._cells[0] = value

    def add(self, amount: float) -> None:
        """Change the value of this process by so much: where several have their part in it."""
        self._cells[0] += amount


class Histogram:
    """One series of counts, a cell for each bucket and one for what lies above them, and the sum in the last cell."""

    __slots__ = ("_bounds", "_cells")

    def __init__(self, cells: Cells, bounds: Sequence[float]) -> None:
        self._cells = cells
        self._bounds = bounds

    def observe(self, value: float) -> None:
        """Count one value, in the first bucket whose upper bound it does not exceed."""
        cells = self._cells
        cells[bisect_left(self._bounds, value)] += 1.0
        cells[-1] += value


class Family(ABC, Generic[Series]):
    """All series of one name. Label values come in the order of the label names, from closed sets."""

    def __init__(
        self, segment: Segment, name: str, text: str, label_names: Labels = (), combine: Combine = sum
    ) -> None:
        self.name = name
        self._segment = segment
        self._text = text
        self._label_names = label_names
        self._combine = combine
        self._children: dict[Labels, Series] = {}

    def labels(self, *values: str) -> Series:
        """The series with these label values.

        Raises:
            ValueError: there are more or fewer values than labels.
        """
        child = self._children.get(values)
        return self._add(values) if child is None else child

    @abstractmethod
    def collect(self, segments: Iterable[Segment]) -> Metric:
        """All series of all processes, each added up, in the words of the Prometheus client library."""

    @abstractmethod
    def _make(self, values: Labels) -> Series:
        """A series on this process's segment."""

    def _add(self, values: Labels) -> Series:
        if len(values) != len(self._label_names):
            raise ValueError(f"{self.name} has the labels {self._label_names}, so {values} cannot be their values.")
        child = self._children[values] = self._make(values)
        return child

    def _combined(self, segments: Iterable[Segment]) -> Mapping[Labels, Sequence[float]]:
        """The cells of each series, combined over the processes that have it."""
        rows: defaultdict[Labels, list[list[float]]] = defaultdict(list)
        for segment in segments:
            for labels, cells in segment.series(self.name).items():
                rows[labels].append(list(cells))
        return {labels: [*map(self._combine, zip(*found, strict=True))] for labels, found in rows.items()}


class CounterFamily(Family[Counter]):
    """Counters of one name, without its `_total`; summed over the processes."""

    def collect(self, segments: Iterable[Segment]) -> Metric:
        """See `Family.collect`."""
        family = CounterMetricFamily(self.name, self._text, labels=self._label_names)
        for labels, (value,) in self._combined(segments).items():
            family.add_metric(labels, value)
        return family

    def _make(self, values: Labels) -> Counter:
        return Counter(self._segment.cells(self.name, values, 1))


class GaugeFamily(Family[Gauge]):
    """Gauges of one name; over the processes they are summed, or whatever else `combine` does, `max` for one."""

    def __init__(
        self, segment: Segment, name: str, text: str, label_names: Labels = (), combine: Combine = sum
    ) -> None:
        super().__init__(segment, name, text, label_names, combine)
        for cells in segment.series(name).values():
            cells[0] = 0.0  # left by a predecessor: what it measured ended with it

    def collect(self, segments: Iterable[Segment]) -> Metric:
        """See `Family.collect`."""
        family = GaugeMetricFamily(self.name, self._text, labels=self._label_names)
        for labels, (value,) in self._combined(segments).items():
            family.add_metric(labels, value)
        return family

    def _make(self, values: Labels) -> Gauge:
        return Gauge(self._segment.cells(self.name, values, 1))


class HistogramFamily(Family[Histogram]):
    """Histograms of one name, with the upper bounds of their buckets in rising order; summed over the processes."""

    def __init__(self, segment: Segment, name: str, text: str, label_names: Labels, bounds: Sequence[float]) -> None:
        super().__init__(segment, name, text, label_names)
        self._bounds: Final = tuple(bounds)
        self._edges: Final = (*(str(float(bound)) for bound in bounds), "+Inf")

    def collect(self, segments: Iterable[Segment]) -> Metric:
        """See `Family.collect`."""
        family = HistogramMetricFamily(self.name, self._text, labels=self._label_names)
        for labels, (*counts, total) in self._combined(segments).items():
            family.add_metric(labels, [*zip(self._edges, accumulate(counts), strict=True)], total)
        return family

    def _make(self, values: Labels) -> Histogram:
        # One cell for each bucket, one for +Inf, one for the sum.
        return Histogram(self._segment.cells(self.name, values, len(self._bounds) + 2), self._bounds)
