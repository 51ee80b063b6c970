"""Looks after what is loaded, once a second. Sessions that keep failing are opened anew; a version for which that does
not help is broken, as readiness and `/models` say. Liveness hears that this process turns, and what only a restart
mends.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable

from app.errors import ImagoError
from app.repository.registry import Entry, Registry
from app.servable import Servable

logger = logging.getLogger("imago.repository")

_EVERY = 1.0
_LOST = "The device that it runs on was lost: the service has to be restarted."


class Keeper:
    """Looks after one registry, and remembers what it said."""

    def __init__(self, registry: Registry, beat: Callable[[Iterable[str]], None]) -> None:
        self._registry = registry
        self._beat = beat
        self._told: dict[str, str] = {}
        self._lost: set[str] = set()
        """Faults for ever: a version that answers no more does not bring its device back."""
        self._mending: dict[str, asyncio.Task[None]] = {}

    async def keep(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(_EVERY)

    def look(self) -> None:
        """Look once, and beat. Which version a fault is of goes to the log, once."""
        found: dict[str, str] = {}
        for entry in self._registry.openings():
            if (servable := entry.servable) is None:
                continue
            if fault := servable.jobs.fault():
                found[str(entry)] = fault
            if entry.state == "ready":
                self._look_at(entry, servable, fault)
        for key in found.keys() - self._told.keys():
            logger.critical("%s: %s Only a restart helps: /livez says so.", key, found[key])
        self._told = found
        self._beat({*found.values(), *self._lost})

    def _look_at(self, entry: Entry, servable: Servable, fault: str) -> None:
        if servable.jobs.lost:
            self._lost.add(fault)
            self._registry.take_away(entry)  # and is not closed: the driver may end the process over that
            self._registry.note(entry.name, entry.version, "failed", _LOST)
        elif servable.jobs.failing and entry.key not in self._mending:
            task = self._mending[entry.key] = asyncio.create_task(self._mend(entry, servable))
            task.add_done_callback(lambda _: self._mending.pop(entry.key))

    async def _mend(self, entry: Entry, servable: Servable) -> None:
        try:
            await servable.mend()
        except ImagoError as error:
            await self._break(entry, error.detail)
        except Exception:
            logger.exception("mending %s failed unexpectedly", entry)
            await self._break(entry, "the log says why")

    async def _break(self, entry: Entry, reason: str) -> None:
        if entry.state == "ready":
            self._registry.take_away(entry)
            await self._registry.discard(entry, f"It failed on everything, and could not be opened again: {reason}")
