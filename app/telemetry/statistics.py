"""What the statistics extension of the Open Inference Protocol v2 tells: for each model version, how long its requests
were in each stage, and its batches by their size. Counted on the board, as metrics are, and added up over all
processes.

Metrics know models, not versions, and batch sizes in buckets only.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from app.telemetry.board import Cells, Segment

_REQUESTS: Final = "v2_requests"
_BATCHES: Final = "v2_batches"
_SUCCESS, _SUCCESS_SECONDS, _FAIL, _FAIL_SECONDS, _DECODE, _QUEUE, _INFERENCE, _ENCODE, _CELLS = range(9)


class RequestCounts:
    """The requests of one version in this process."""

    __slots__ = ("_cells",)

    def __init__(self, cells: Cells) -> None:
        self._cells = cells

    def succeeded(self, seconds: float, decode: float, queue: float, inference: float, encode: float) -> None:
        """Count an answer, the seconds it took, and those of its stages."""
        cells = self._cells
        cells[_SUCCESS] += 1.0
        cells[_SUCCESS_SECONDS] += seconds
        cells[_DECODE] += decode
        cells[_QUEUE] += queue
        cells[_INFERENCE] += inference
        cells[_ENCODE] += encode

    def failed(self, seconds: float) -> None:
        """Count a request that was answered with an error."""
        self._cells[_FAIL] += 1.0
        self._cells[_FAIL_SECONDS] += seconds


class BatchCounts:
    """The batches of one version in this process."""

    def __init__(self, segment: Segment, labels: tuple[str, str]) -> None:
        self._segment = segment
        self._labels = labels
        self._by_rows: dict[int, Cells] = {}

    def observe(self, rows: int, seconds: float) -> None:
        """Count a batch of so many rows."""
        cells = self._by_rows.get(rows)
        if cells is None:
            cells = self._by_rows[rows] = self._segment.cells(_BATCHES, (*self._labels, str(rows)), 3)
        cells[0] += 1.0
        cells[1] += seconds
        cells[2] = time.time()


class Spent(NamedTuple):
    """How often something was done, and the seconds it took in all."""

    times: int
    seconds: float


@dataclass(frozen=True)
class Totals:
    """The statistics of one version, of all processes."""

    success: Spent
    fail: Spent
    decode: Spent
    queue: Spent
    inference: Spent
    encode: Spent
    batches: dict[int, Spent]
    """By their rows."""
    last: float
    """When the last batch ended, in seconds since 1970; 0 before the first."""

    @property
    def rows(self) -> int:
        """Rows that ran."""
        return sum(rows * spent.times for rows, spent in self.batches.items())

    @property
    def runs(self) -> int:
        """Batches that ran."""
        return sum(spent.times for spent in self.batches.values())


class Statistics:
    """The statistics of all versions: those of this process to write, those of all processes to read."""

    def __init__(self, segments: Sequence[Segment], own: Segment) -> None:
        self._segments = segments
        self._own = own
        self._requests: dict[tuple[str, int], RequestCounts] = {}

    def requests(self, model: str, version: int) -> RequestCounts:
        """Where the requests of a version are counted."""
        known = self._requests.get((model, version))
        if known is None:
            cells = self._own.cells(_REQUESTS, (model, str(version)), _CELLS)
            known = self._requests[model, version] = RequestCounts(cells)
        return known

    def batches(self, model: str, version: int) -> BatchCounts:
        """Where the batches of a version are counted."""
        return BatchCounts(self._own, (model, str(version)))

    def total(self, model: str, version: int) -> Totals:
        """Everything that was counted of a version, in all processes."""
        labels = (model, str(version))
        found = [segment.series(_REQUESTS).get(labels) for segment in self._segments]
        sums = [sum(column) for column in zip([0.0] * _CELLS, *filter(None, found), strict=True)]
        answered = int(sums[_SUCCESS])
        batches = self._batches(labels)
        return Totals(
            success=Spent(answered, sums[_SUCCESS_SECONDS]),
            fail=Spent(int(sums[_FAIL]), sums[_FAIL_SECONDS]),
            decode=Spent(answered, sums[_DECODE]),
            queue=Spent(answered, sums[_QUEUE]),
            inference=Spent(answered, sums[_INFERENCE]),
            encode=Spent(answered, sums[_ENCODE]),
            batches={
                rows: Spent(int(sum(cells[0] for cells in each)), sum(cells[1] for cells in each))
                for rows, each in sorted(batches.items())
            },
            last=max((cells[2] for each in batches.values() for cells in each), default=0.0),
        )

    def _batches(self, labels: tuple[str, str]) -> dict[int, list[Cells]]:
        """The cells of each batch size, of all processes."""
        found: dict[int, list[Cells]] = {}
        for segment in self._segments:
            for key, cells in segment.series(_BATCHES).items():
                if key[:2] == labels:
                    found.setdefault(int(key[2]), []).append(cells)
        return found
