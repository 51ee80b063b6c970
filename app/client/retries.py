"""When a request is sent again, and after how long: a plain decision; `AsyncClient` waits and sends."""

from dataclasses import dataclass
from typing import Final

REFUSED: Final = frozenset((429, 503))
"""Statuses of requests that were refused before any work: sending those again repeats nothing."""


@dataclass(frozen=True)
class Retries:
    """How often a request is sent again, and how long the client waits before.

    A request is sent again when it was refused at admission (429, 503), when no connection came about, or when one
    broke under a request that may be repeated. Every other answer is an answer.
    """

    limit: int = 4
    """How often at most."""
    first_wait: float = 0.25
    """Seconds; doubled each time up to `longest_wait`, where the service does not say how long."""
    longest_wait: float = 8.0

    def wait(self, tried: int, retry_after: float | None, chance: float) -> float | None:
        """Seconds until the next try after `tried` of them; None where that was the last.

        `chance` in [0, 1) spreads those who were refused together: over the whole wait ("full jitter", Brooker 2015,
        AWS Architecture Blog), or beyond what the service asked for.
        """
        if tried > self.limit:
            return None
        backoff = min(self.longest_wait, self.first_wait * 2.0 ** min(tried - 1, 32))
        return chance * backoff if retry_after is None else retry_after + chance * self.first_wait
