"""How long the queues of the engine are, where every worker sees it: refusing must cost nothing.

Each worker counts the rows that it has sent and that were not answered, the engine writes down what a row takes. So no
count is old: a worker that reads a hundred requests in one turn of its loop sees its own ninety-nine.
"""

import mmap

_SECONDS = 2
"""Numbers of the engine for each model: seconds that a row adds to the wait, seconds of a batch."""


class Loads:
    """A shared table, made before the fork; each cell has one writer. It is an estimate: the engine decides again."""

    def __init__(self, workers: int, models: int = 1024) -> None:
        self._workers = workers
        self.models = models
        self._seconds = memoryview(mmap.mmap(-1, models * _SECONDS * 8)).cast("d")
        self._rows = memoryview(mmap.mmap(-1, models * workers * 8)).cast("q")

    def begin(self) -> None:
        """Called by an engine that begins: nothing was measured."""
        for cell in range(len(self._seconds)):
            self._seconds[cell] = 0.0

    def begin_worker(self, worker: int) -> None:
        """Called by a worker that begins, lest everybody counts what its predecessor had sent."""
        for cell in range(worker, len(self._rows), self._workers):
            self._rows[cell] = 0

    def learn(self, place: int, row_seconds: float, batch_seconds: float) -> None:
        """Called by the engine: what a row of one model adds to the wait, and what a batch takes."""
        start = place * _SECONDS
        self._seconds[start], self._seconds[start + 1] = row_seconds, batch_seconds

    def add(self, worker: int, place: int, rows: int) -> None:
        """Called by a worker that sends rows; with a negative number when they are answered."""
        self._rows[place * self._workers + worker] += rows

    def waiting(self, place: int) -> int:
        """Rows that were sent by all workers and not answered."""
        return sum(self._rows[place * self._workers : (place + 1) * self._workers])

    def expected(self, place: int, rows: int) -> float:
        """Seconds until `rows` more rows would be answered."""
        row_seconds, batch_seconds = self._seconds[place * _SECONDS : (place + 1) * _SECONDS]
        return (self.waiting(place) + rows) * row_seconds + batch_seconds


class Load:
    """The queue of one model, as one worker sees and fills it."""

    def __init__(self, loads: Loads, worker: int, place: int) -> None:
        self._loads = loads
        self._worker = worker
        self._place = place

    def add(self, rows: int) -> None:
        """Count rows that are sent; with a negative number, those that are answered."""
        self._loads.add(self._worker, self._place, rows)

    def waiting(self) -> int:
        """Rows that were sent by all workers and not answered."""
        return self._loads.waiting(self._place)

    def expected(self, rows: int) -> float:
        """Seconds until `rows` more rows would be answered."""
        return self._loads.expected(self._place, rows)
