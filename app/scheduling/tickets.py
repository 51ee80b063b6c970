"""Jobs that somebody waits for, and what becomes of them."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from app.scheduling.policy import Job
from app.telemetry.logs import request_id
from app.tensors import Tensors

logger = logging.getLogger("imago.scheduling")


@dataclass(frozen=True)
class Finished:
    """The rows that came back for one job, and where its time went."""

    tensors: Tensors
    queue_seconds: float
    run_seconds: float


Outcome = Finished | Exception
"""What becomes of a job: its rows, or the error that its caller is to get."""
Deliver = Callable[[Outcome], None]
Drop = Callable[[], None]
"""Called when the caller of a job has left: nothing is delivered any more."""


@dataclass(eq=False, kw_only=True)
class Ticket(Job):
    """A job, and who wants to know what became of it."""

    deliver: Deliver
    """Called once on the loop's thread, unless the caller left."""
    request: str = field(default_factory=request_id.get)
    """Under whose id a failure is logged."""

    def end(self, outcome: Outcome) -> None:
        """Deliver, unless the caller left; a caller that fails over it does not disturb its neighbours."""
        if self.abandoned:
            return
        try:
            self.deliver(outcome)
        except Exception:
            logger.exception("an answer could not be delivered")
