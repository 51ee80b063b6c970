"""Has a second version answer what the first has answered, and counts how they agree. Nobody waits for it."""

import asyncio
import logging
from functools import partial
from typing import Final

from app.errors import InvalidRequest, ServiceError
from app.repository.routes import Chance, Ready, stable_of
from app.servable import Servable
from app.serving import Traffic
from app.tasks import Prepared
from app.tasks.base import TaskOptions
from app.tensors import Tensors

logger = logging.getLogger("imago.repository")

_AT_ONCE: Final = 1
"""Calls that one process has a shadow answer at a time; those that come meanwhile are dropped."""
_SECONDS: Final = 5.0
"""After so long nobody waits for a shadow."""


class Shadowing:
    """Gives a second version a share of what the first has answered.

    Callers have their answers by then. What they wait for comes first: while anything waits for the version that
    answers, or for the shadow, calls are dropped.
    """

    def __init__(self, primary: Servable, shadow: Servable, percent: float, chance: Chance) -> None:
        self.primary = primary
        self.shadow = shadow
        self.percent = percent
        self._chance = chance
        self._metrics = primary.metrics.shadow_of(primary.task.kind, primary.manifest.name)
        self._clock = primary.clock
        self._same_rows = (
            primary.manifest.image == shadow.manifest.image and primary.running.inputs == shadow.running.inputs
        )
        self._running: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Shadowing of {self.primary.manifest.version} by {self.shadow.manifest.version}>"

    @property
    def busy(self) -> bool:
        """Whether as many calls as may are being compared."""
        return len(self._running) >= _AT_ONCE

    def __call__(self, prepared: Prepared, options: TaskOptions | None, outputs: Tensors) -> None:
        """As `app.servable.Mirror`."""
        if 100 * self._chance() >= self.percent:
            return
        if self._drops() or not (self._same_rows or options is not None):
            self._metrics.dropped.inc()
            return
        task = asyncio.get_running_loop().create_task(self._compare(prepared, options, outputs))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def _drops(self) -> bool:
        return self.busy or self.shadow.retired or bool(self.primary.waiting() or self.shadow.waiting())

    async def _compare(self, prepared: Prepared, options: TaskOptions | None, outputs: Tensors) -> None:
        self.shadow.hold()
        try:
            agreement = await self._agreement(prepared, options, outputs)
        except ServiceError:
            self._metrics.failed.inc()
        except Exception:  # a fault of the shadow's is nobody's request
            self._metrics.failed.inc()
            logger.exception("%r failed", self)
        else:
            self._metrics.agreement.observe(agreement)
            self._metrics.compared.inc()
        finally:
            self.shadow.free()

    async def _agreement(self, prepared: Prepared, options: TaskOptions | None, outputs: Tensors) -> float:
        shadow = self.shadow
        rows = prepared.tensors
        if not self._same_rows:
            pixels = prepared.picture.pixels if prepared.picture is not None else 0
            again = partial(shadow.task.prepare, prepared.picture, options)
            made = await shadow.near(pixels, again)
            if made.parts is not None:
                raise InvalidRequest("Pictures that are taken in parts are not compared.")
            rows = made.tensors
        others, _, _ = await shadow.infer(rows, self._clock() + _SECONDS)
        size = sum(array.size for array in outputs.values())
        return await shadow.near(size, partial(self.primary.task.agreement, outputs, shadow.task, others))


def shadowing(ready: Ready, traffic: Traffic, chance: Chance) -> None:
    """Let the version that answers be shadowed as chosen, and no other."""
    primary, shadow = stable_of(ready, traffic), ready.get(traffic.shadowing or 0)
    for servable in ready.values():
        if servable is not primary:
            servable.mirror = None
    if primary is None:
        return
    if shadow is None or traffic.shadow is None or shadow.task.kind != primary.task.kind:
        primary.mirror = None
        return
    known, wanted = primary.mirror, (shadow, traffic.shadow.percent)
    if not isinstance(known, Shadowing) or (known.shadow, known.percent) != wanted:
        primary.mirror = Shadowing(primary, *wanted, chance)
