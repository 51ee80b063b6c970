"""What the kernel tells of the service's processes, added up: memory, processor time, open files.

Who belongs to the service stands on the board; reading one process is left to the Prometheus client library.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from prometheus_client import ProcessCollector
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.telemetry.board import Cells, Segment
from app.telemetry.families import Combine

_NAME: Final = "process"
_PID, _BEFORE, _TOTAL = range(3)
"""The cells of a slot: the id of its process, and processor seconds of the slot before that process and in all."""

_CPU: Final = "process_cpu_seconds"
_CPU_TEXT: Final = "User and system CPU time in seconds of all processes, those included that have ended."
_GAUGES: Final[dict[str, tuple[str, Combine]]] = {
    "process_virtual_memory_bytes": ("Virtual memory of all processes in bytes.", sum),
    "process_resident_memory_bytes": (
        "Resident memory of all processes in bytes; pages that they share are counted in each.", sum,
    ),
    "process_start_time_seconds": ("Start time of the oldest process since unix epoch in seconds.", min),
    "process_open_fds": ("Number of open file descriptors of all processes.", sum),
    "process_max_fds": ("Maximum number of open file descriptors, summed over all processes.", sum),
}  # fmt: skip


class Processes(Collector):
    """The `process_` metrics, of all living processes together. Where there is no /proc, there are none.

    To be made once, in the process that `own` is the segment of.
    """

    def __init__(self, segments: Sequence[Segment], own: Segment, proc: str = "/proc") -> None:
        self._segments = segments
        self._pid = os.getpid()
        self._one = ProcessCollector(pid=lambda: self._pid, proc=proc, registry=None)
        cells = own.cells(_NAME, (), 3)
        # In this order: whoever reads in between finds the dead one's id, or less than the total, which stands then.
        cells[_BEFORE] = cells[_TOTAL]
        cells[_PID] = self._pid

    def collect(self) -> Iterator[Metric]:
        """Read every process once."""
        slots = [cells for segment in self._segments for cells in segment.series(_NAME).values()]
        living = [values for cells in slots if (values := self._read(cells))]
        if not living:
            return
        yield CounterMetricFamily(_CPU, _CPU_TEXT, sum(cells[_TOTAL] for cells in slots))
        for name, (text, combine) in _GAUGES.items():
            if found := [values[name] for values in living if name in values]:
                yield GaugeMetricFamily(name, text, combine(found))

    def _read(self, cells: Cells) -> Mapping[str, float]:
        """The values of a slot's process, none if it has ended; notes its processor time, the last known of a slot."""
        before, self._pid = cells[_BEFORE], int(cells[_PID])  # before the process is read: see the constructor
        values: dict[str, float] = {metric.name: metric.samples[0].value for metric in self._one.collect()}
        cells[_TOTAL] = max(cells[_TOTAL], before + values.get(_CPU, 0.0))
        return values
