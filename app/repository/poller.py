"""Looks at the folder of models again and again, and loads what is new there. Off unless an interval is set."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from app.errors import ServiceError
from app.repository.manager import Manager
from app.repository.registry import Registry
from app.repository.store import MODEL, VERSION
from app.serving import SERVING

logger = logging.getLogger("imago.repository")

Stamp = tuple[tuple[str, int, int, int], ...]
"""Path, inode, length and time of change of each file that decides what is loaded: also labels, tensors beside a graph
and signatures, for want of which a version is refused."""
Stamps = Mapping[str, Stamp]
"""By name of the folder."""


class Poller:
    """Remembers what was acted on. A model that changed is loaded once it lies still from one look to the next; one
    that is gone serves on: a folder that a network lost for a moment must not end a service."""

    def __init__(self, root: Path, load: Callable[[str], Awaitable[None]]) -> None:
        self._root = root
        self._load = load
        self._acted: Stamps = {}
        self._seen: Stamps = {}
        with contextlib.suppress(OSError):  # whoever loads says what is wrong with the folder
            self._acted = self._seen = stamps(root)

    async def poll(self, seconds: float) -> None:
        """Look every so many seconds, until cancelled."""
        while True:
            await asyncio.sleep(seconds)
            await self.look()

    async def look(self) -> None:
        """Look once."""
        try:
            now = await asyncio.to_thread(stamps, self._root)
        except OSError as error:
            logger.error("the folder of models cannot be read now: %s", error.strerror)
            return
        for name in self._acted.keys() - now.keys():
            logger.warning("%s is no longer in the folder of models; what is loaded of it serves on", name)
        self._acted = {name: stamp for name, stamp in self._acted.items() if name in now}
        changed = [name for name, stamp in now.items() if stamp and stamp != self._acted.get(name)]
        still = [name for name in changed if self._seen.get(name) == now[name]]
        self._seen = now
        for name in still:
            self._acted[name] = now[name]
            try:
                await self._load(name)
            except ServiceError as error:
                logger.error("what changed of %s is not loaded: %s", name, error.detail)
            except Exception:  # whatever one model trips over, the others are looked after
                logger.exception("what changed of %s is not loaded", name)


async def load_and_poll(
    registry: Registry, manager: Manager, seconds: float, on_loaded: Callable[[Registry], None]
) -> None:
    """Load everything, say so, and look for what changed since, where there is an interval.

    Raises:
        InvalidSettings: the root is no folder.
    """
    poller = Poller(registry.root, manager.load) if seconds else None
    await registry.load_all()
    on_loaded(registry)
    if poller is not None:
        await poller.poll(seconds)


def stamps(root: Path) -> Stamps:
    """A stamp for each folder below the root. Raises `OSError` where it cannot be read now."""
    return {entry.name: _stamp(Path(entry.path)) for entry in os.scandir(root) if MODEL.fullmatch(entry.name)}


def _stamp(folder: Path) -> Stamp:
    versions = [path for path in _within(folder) if VERSION.fullmatch(path.name)]
    files = [folder / SERVING, *(file for version in versions for file in _within(version))]
    return tuple(found for file in files if (found := _of(file)) is not None)


def _within(folder: Path) -> list[Path]:
    """What lies in a folder; nothing in a file, or where it is gone since it was listed, or closed to this process: the
    others are looked at."""
    try:
        return sorted(Path(entry.path) for entry in os.scandir(folder))
    except OSError:
        return []


def _of(file: Path) -> tuple[str, int, int, int] | None:
    try:
        known = file.stat()
    except OSError:
        return None
    return str(file), known.st_ino, known.st_size, known.st_mtime_ns
