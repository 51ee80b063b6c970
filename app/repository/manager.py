"""Changes what is loaded while it serves: load, swap, unload, for one model after the other.

The new version is open and warm, in every process, before it takes over; then it does so in one step, and the old one
ends what it has accepted. Where anything fails before, nothing changes. What is open and who answers is kept by the
registry; the processes that copy this one are hidden behind `Followers`.
"""

import asyncio
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from app.errors import InvalidModel, InvalidSettings, LoadRefused, NotReady
from app.repository.registry import LOADING, Entry, Registry
from app.repository.store import ModelFolder, Opening
from app.serving import Traffic, Versions


class Followers(Protocol):
    """The processes that copy this one's registry."""

    async def copied(self) -> Mapping[str, str]:
        """Wait until all have the present state. Returns why what was opened could not be there, by `Entry.key`."""

    async def left(self, keys: Collection[str]) -> None:
        """Wait until nobody there uses these openings any more."""


class Nobody:
    """There is one process only."""

    async def copied(self) -> Mapping[str, str]:
        """At once."""
        return {}

    async def left(self, keys: Collection[str]) -> None:
        """At once."""


class Manager:
    """Loads and unloads on request. Used in the one process that decides what is loaded."""

    def __init__(self, registry: Registry, followers: Followers) -> None:
        self._registry = registry
        self._followers = followers
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._ending: dict[str, asyncio.Task[None]] = {}

    async def load(self, name: str, versions: Versions | None = None) -> None:
        """Let a model answer as its folder and its `serving.toml` say now, or with these versions instead; come back
        when it does, in every process.

        Raises:
            ModelNotFound: there is nothing of this name, neither on disk nor loaded.
            LoadRefused: a version cannot be opened; what served before serves on.
            NotReady: the models are being loaded for the first time.
        """
        self._look(name)
        async with self._locks[name]:
            await self._ended(name)
            self._look(name)
            try:
                folder = self._folder(name, versions)
                serve = await self._opened(folder)
            except InvalidModel as error:
                self._registry.blame(name, error.detail)
                raise LoadRefused(f"Model {name!r} was not loaded: {error.detail}") from error
            await self._switch(name, serve, folder.serving.traffic)

    async def unload(self, name: str) -> None:
        """Let a model answer no more, and take what is broken of it for unloaded; come back when no process takes
        requests for it.

        Raises:
            ModelNotFound: nothing of this name is known.
            NotReady: as `load`.
        """
        self._look(name)
        async with self._locks[name]:
            await self._ended(name)
            self._registry.give_up(name)
            await self._switch(name, (), Traffic())

    def _look(self, name: str) -> None:
        if not self._registry.settled.is_set():
            raise NotReady(LOADING)
        try:
            known = name in self._registry.look()
        except (InvalidSettings, OSError) as error:
            raise LoadRefused(f"The folder of models cannot be read now: {error}") from error
        if not known:
            self._registry.describe(name)

    def _folder(self, name: str, versions: Versions | None) -> ModelFolder:
        folder = self._registry.folder(name)
        return folder if versions is None else replace(folder, serving=folder.serving.choosing(versions))

    async def _opened(self, folder: ModelFolder) -> list[Entry]:
        """Entries of the versions chosen, all of them open: those that serve unchanged, and what is staged.

        Raises:
            InvalidModel: one cannot be opened; what was staged is closed again.
        """
        chosen = [await self._opening(folder, number) for number in folder.chosen()]
        openings = {opening.key: opening for opening in chosen}
        kept = [entry for entry in self._registry.ready(folder.name) if entry.key in openings]
        for entry in kept:
            await asyncio.to_thread(openings.pop(entry.key).verify)
        staged = [await self._registry.stage(opening) for opening in openings.values()]
        await self._agree(staged)
        return [*kept, *staged]

    async def _opening(self, folder: ModelFolder, version: int) -> Opening:
        try:
            return await asyncio.to_thread(folder.opening, version)
        except InvalidModel as error:
            self._registry.note(folder.name, version, "failed", error.detail)
            raise

    async def _agree(self, staged: Sequence[Entry]) -> None:
        """All or nothing: raises InvalidModel where one is not open, here or in another process."""
        reasons = {entry.key: entry.reason for entry in staged if entry.servable is None}
        if staged and not reasons:
            told = await self._followers.copied()
            reasons = {entry.key: told[entry.key] for entry in staged if entry.key in told}
        if not reasons:
            return
        for entry in staged:
            reason = reasons.get(entry.key, "Another version that was to answer with it could not be opened.")
            await self._registry.discard(entry, reason)
        raise InvalidModel(next(iter(reasons.values())))

    async def _switch(self, name: str, serve: Sequence[Entry], traffic: Traffic) -> None:
        """Let these answer for a model, and no others; what they replace ends on its own."""
        retired = self._registry.switch(name, serve, traffic)
        await self._followers.copied()
        if retired:
            ending = self._ending[name] = asyncio.create_task(self._end(retired))
            ending.add_done_callback(lambda _: self._ending.pop(name))

    async def _end(self, retired: Sequence[Entry]) -> None:
        await self._followers.left([entry.key for entry in retired])
        for entry in retired:
            await self._registry.release(entry)

    async def _ended(self, name: str) -> None:
        """Wait until what was replaced last is closed: of one model there are never three versions in memory."""
        if (ending := self._ending.get(name)) is not None:
            await asyncio.wait([ending])
