"""Runs jobs together, and where that fails in smaller parts: what is to blame fails alone, and its neighbours do not.

A batch for which there is no memory runs in halves. Any other that fails is split between its jobs, until one that
fails is alone. When every job fails, one after the other, it is the session that is to blame: `failures` counts them.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from app.errors import DeviceLost, InferenceFailed, InsufficientMemory, NotReady, OutOfMemory
from app.scheduling.tickets import Finished, Outcome, Ticket
from app.scheduling.watch import Watch
from app.telemetry.logs import request_id
from app.tensors import BatchBuffer, Tensors, split, stack

logger = logging.getLogger("imago.scheduling")

LOST = "The device that runs this model was lost: retry elsewhere, or when the service was restarted."
BROKEN = "This model fails on everything, and could not be opened again: retry elsewhere, or later."


class Runs(Protocol):
    """What a worker needs of a session."""

    def run(self, tensors: Tensors) -> Tensors:
        """Run one batch, in any thread, several at once.

        Raises:
            OutOfMemory: a smaller batch may run.
            DeviceLost: none will.
        """


class RowsMismatch(Exception):
    """A session gave back another number of rows than it took."""


class Ran(NamedTuple):
    """Jobs that ran together, and what became of them."""

    tickets: Sequence[Ticket]
    outcomes: Sequence[Outcome]
    seconds: float | None
    """Of their batch; None where it failed."""


class Attempts:
    """Of one lane. Jobs may be run in several threads at once."""

    def __init__(
        self, name: str, clock: Callable[[], float], watch: Watch, on_too_large: Callable[[int], None]
    ) -> None:
        self.failures = 0
        """Jobs that failed alone, since the last batch that did not fail."""
        self.gone = ""
        """Why nothing is run any more; callers are told so."""
        self._name = name
        self._clock = clock
        self._watch = watch
        self._on_too_large = on_too_large

    def run(self, session: Runs, batch: Sequence[Ticket], started: float, buffer: BatchBuffer) -> Iterator[Ran]:
        """Run jobs together, or in parts."""
        if self.gone:
            yield self._refused(batch)
            return
        begun = self._clock()
        counts = [ticket.rows for ticket in batch]
        try:
            tensors = buffer.fill([ticket.tensors for ticket in batch])
            parts = split(self._rows(session, tensors, sum(counts), buffer), counts)
        except Exception as error:  # whatever a backend raises must reach its caller, not end the runner
            yield from self._after_failure(session, batch, started, buffer, error)
            return
        self.failures = 0
        seconds = self._clock() - begun
        finished = zip(batch, parts, strict=True)
        yield Ran(batch, [Finished(part, started - ticket.arrived, seconds) for ticket, part in finished], seconds)

    def _rows(self, session: Runs, tensors: Tensors, rows: int, buffer: BatchBuffer) -> Tensors:
        """Run so many rows at once, or in halves where there is no memory for all of them."""
        self._watch.begin(tensors)
        try:
            return _checked(session.run(tensors), rows, buffer)
        except (OutOfMemory, MemoryError) as error:
            if rows == 1:
                raise
            logger.warning("%s has no memory for %d rows, running halves: %s", self._name, rows, error)
        finally:
            self._watch.end()
        self._on_too_large(rows)
        counts = rows // 2, rows - rows // 2
        halves = zip(split(tensors, counts), counts, strict=True)
        return stack([self._rows(session, half, count, buffer) for half, count in halves])

    def _after_failure(
        self, session: Runs, batch: Sequence[Ticket], started: float, buffer: BatchBuffer, error: Exception
    ) -> Iterator[Ran]:
        if isinstance(error, DeviceLost):
            self.gone = LOST
            logger.critical("%s lost its device", self._name, exc_info=error)
            yield self._refused(batch)
        elif len(batch) > 1:
            logger.warning("%s failed on a batch of %d jobs, running its halves: %s", self._name, len(batch), error)
            half = len(batch) // 2
            yield from self.run(session, batch[:half], started, buffer)
            yield from self.run(session, batch[half:], started, buffer)
        else:
            self.failures += 1
            token = request_id.set(batch[0].request)
            logger.error("%s failed on one job", self._name, exc_info=error)
            request_id.reset(token)
            memory = isinstance(error, OutOfMemory | MemoryError)
            yield Ran(batch, [InsufficientMemory() if memory else InferenceFailed()], None)

    def _refused(self, batch: Sequence[Ticket]) -> Ran:
        return Ran(batch, [NotReady(self.gone, retry_after=5) for _ in batch], None)


def _checked(outputs: Tensors, rows: int, buffer: BatchBuffer) -> Tensors:
    """What a batch came to, of as many rows as it had, and apart from the memory of the next one."""
    for name, array in outputs.items():
        if array.ndim == 0 or array.shape[0] != rows:
            raise RowsMismatch(f"{rows} rows went in, output {name!r} has shape {array.shape}")
    return {name: array.copy() if buffer.holds(array) else array for name, array in outputs.items()}
