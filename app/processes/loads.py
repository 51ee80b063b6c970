"""How long the queues of the engine are, written down where every worker sees it: refusing must cost nothing."""

import mmap

_NUMBERS = 3
"""Of each model: rows waiting, seconds until one that comes now would be answered, seconds of a row."""


class Loads:
    """A shared table, made before the fork; the engine writes, workers read. A row may be torn by a microsecond: it is
    an estimate, and the engine decides again."""

    def __init__(self, models: int = 1024) -> None:
        self._cells = memoryview(mmap.mmap(-1, models * _NUMBERS * 8)).cast("d")
        self.models = models

    def clear(self) -> None:
        """Nothing waits: called by an engine that begins, lest workers refuse for the queues of its predecessor."""
        for cell in range(len(self._cells)):
            self._cells[cell] = 0.0

    def write(self, place: int, waiting: int, expected: float, row_seconds: float) -> None:
        """Write down the queue of one model: its rows, and the seconds that no more and each further row would take."""
        start = place * _NUMBERS
        cells = self._cells
        cells[start], cells[start + 1], cells[start + 2] = waiting, expected, row_seconds

    def waiting(self, place: int) -> int:
        """Rows that wait."""
        return int(self._cells[place * _NUMBERS])

    def expected(self, place: int, rows: int) -> float:
        """Seconds until `rows` more rows would be answered."""
        start = place * _NUMBERS
        return self._cells[start + 1] + rows * self._cells[start + 2]
