"""Whether every process of the service still turns, and what is wrong with it beyond repair.

Each process tells so on its segment of the board, once a second; whoever is asked for liveness reads them all. One that
has ended is left to the supervisor, who replaces it.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from app.telemetry.board import Segment

_PULSE: Final = "pulse"
_FAULT: Final = "fault"
_BEAT, _PID = range(2)
"""The cells of a process: when its event loop turned last (monotonic clock, one for all processes), and its id."""

SILENT_SECONDS: Final = 30.0
"""A process whose event loop has not turned for so long does not come back by itself."""


class Pulse:
    """The pulse of this process to beat, those of all processes to feel."""

    def __init__(self, segments: Sequence[Segment], own: Segment, clock: Callable[[], float] = time.monotonic) -> None:
        self._segments = segments
        self._own = own
        self._clock = clock

    def beat(self, faults: Iterable[str]) -> None:
        """Say that the event loop of this process turns, and what is wrong here: few different sentences, each of which
        takes room for ever, and may be read by anybody."""
        now = self._clock()
        for fault in faults:
            self._own.cells(_FAULT, (fault,), 1)[0] = now
        cells = self._own.cells(_PULSE, (), 2)
        cells[_PID] = os.getpid()
        cells[_BEAT] = now

    def faults(self) -> list[str]:
        """What is wrong in any process, in sentences."""
        return [fault for segment in self._segments for fault in self._faults_of(segment)]

    def _faults_of(self, segment: Segment) -> Iterator[str]:
        for cells in segment.series(_PULSE).values():
            beat, pid = cells[_BEAT], int(cells[_PID])
            if (silence := self._clock() - beat) <= SILENT_SECONDS:
                found = segment.series(_FAULT).items()
                yield from (fault for (fault,), (seen,) in found if seen >= beat)
            elif pid and _lives(pid):
                yield f"A process has not turned for {silence:.0f} s."


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
