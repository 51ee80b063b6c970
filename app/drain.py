"""Where a process is on its way out. Readiness tells it, connections are closed by it, the server ends when it is over.

First nothing but readiness changes, so that whoever balances load has time to send it elsewhere; then the port is
closed and what was accepted is answered. Which signal begins it, and what comes after: `app.server`.
"""

import math
import time
from collections.abc import Callable


class Drain:
    """The stop of one process, from the signal to the closing of its port."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.begun = False
        self._clock = clock
        self._over_at = math.inf

    def __repr__(self) -> str:
        return f"<Drain: {'over' if self.over else 'begun' if self.begun else 'not begun'}>"

    def begin(self, delay: float) -> None:
        """Say so from now on, and serve for `delay` more seconds; sooner where that was asked for already."""
        self.begun = True
        self._over_at = min(self._over_at, self._clock() + delay)

    @property
    def over(self) -> bool:
        """Whether no new connection is taken any more."""
        return self._clock() >= self._over_at
