"""What rows take: learned from batches that ended, told to whoever decides on admission."""

from collections.abc import Mapping

_SMOOTHING = 0.2
"""Weight of the newest batch in the moving averages: the last ten batches decide nine tenths."""


class Pace:
    """Seconds of rows and batches, of sessions that run `concurrency` batches at once.

    `measured` says what a batch of so many rows took at warm-up. What batches really take is kept as a multiple of
    that: a few rows alone, which cost more each, do not make a full batch look slow. Without it a row counts as one.
    """

    def __init__(self, max_batch_size: int, concurrency: int, measured: Mapping[int, float] | None = None) -> None:
        self._concurrency = concurrency
        self._usual = _by_rows(measured or {}, max_batch_size)
        self._most = max_batch_size
        self._times = 1.0 if measured else 0.0
        self.batch_seconds = self._times * self._usual[max_batch_size]
        """What a batch is expected to take; follows slow ones at once."""

    @property
    def row_seconds(self) -> float:
        """Seconds that one more row adds to the wait where full batches run; 0 while nothing is known."""
        return self._times * self._usual[self._most] / self._most / self._concurrency

    def learn(self, rows: int, seconds: float, busy_seconds: float | None = None) -> None:
        """Take a batch into account that took so long.

        `busy_seconds` passed since the batch before it ended, where rows waited all the while. That counts in place of
        its own time: it holds what else the cores were busy with, such as decoding.
        """
        taken = seconds if busy_seconds is None else busy_seconds * self._concurrency
        times = taken / self._usual[min(rows, self._most)] * min(1.0, self._most / rows)
        self._times = _average(self._times, times) if self._times else times
        self.batch_seconds = max(seconds, _average(self.batch_seconds, seconds))


def _average(before: float, newest: float) -> float:
    return (1 - _SMOOTHING) * before + _SMOOTHING * newest


def _by_rows(measured: Mapping[int, float], most: int) -> list[float]:
    """Seconds of a batch of so many rows, by their number: straight lines between what was measured."""
    known = sorted(measured.items()) or [(1, 1.0), (most, float(most))]
    seconds = [0.0]
    for rows in range(1, most + 1):
        above = next((point for point in known if point[0] >= rows), known[-1])
        below = next((point for point in reversed(known) if point[0] <= rows), (0, 0.0))
        share = (rows - below[0]) / (above[0] - below[0]) if above[0] > below[0] else 1.0
        seconds.append(below[1] + share * (above[1] - below[1]) if above[0] >= rows else above[1] * rows / above[0])
    return seconds
