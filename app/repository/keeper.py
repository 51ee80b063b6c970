"""Looks after what is loaded, once a second: liveness hears from here that this process turns, and what is stuck."""

import asyncio
import logging
from collections.abc import Callable, Iterable

from app.repository.registry import Registry

logger = logging.getLogger("imago.repository")

_EVERY = 1.0


class Keeper:
    """Looks after one registry, and remembers what it said."""

    def __init__(self, registry: Registry, beat: Callable[[Iterable[str]], None]) -> None:
        self._registry = registry
        self._beat = beat
        self._told: dict[str, str] = {}

    async def keep(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(_EVERY)

    def look(self) -> None:
        """Beat, and tell what is wrong beyond repair; which version it is goes to the log, once."""
        found: dict[str, str] = {}
        for entry in self._registry.openings():
            if entry.servable is not None and (fault := entry.servable.jobs.fault()):
                found[str(entry)] = fault
        for key in found.keys() - self._told.keys():
            logger.critical("%s: %s Only a restart helps: /livez says so.", key, found[key])
        self._told = found
        self._beat(set(found.values()))
