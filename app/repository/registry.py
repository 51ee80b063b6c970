"""What is loaded: opens versions, answers who serves, drains and closes. A broken one leaves the others serving.

A version is opened beside those that serve (`stage`), takes over in one step (`switch`), and what it replaced is
drained and closed (`release`). When that is to happen is up to `app.repository.manager`, or told by another process.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import NoReturn

from app.errors import ImagoError, InvalidModel, ModelNotFound, NotReady, WrongTask
from app.manifest import GRAPH, Manifest, read_manifest
from app.repository.entries import Entries, Entry, State
from app.repository.routes import Asked, Asker, Chance, Split, routes
from app.repository.shadowing import shadowing
from app.repository.store import ModelFolder, Opening, scan
from app.servable import Servable
from app.serving import ServingConfig, Traffic

__all__ = ["Entry", "Opener", "Registry", "State"]

logger = logging.getLogger("imago.repository")

_PLAIN = Traffic()
LOADING = "The models are being loaded: retry."
Opener = Callable[[Path, Manifest, ServingConfig], Awaitable[Servable]]
"""Makes the servable of the version in a folder; raises `ImagoError` where it cannot."""


class Registry:
    """The model versions of one process, by name and version."""

    def __init__(
        self, root: Path, opener: Opener, defaults: Mapping[str, str], count: Callable[[float], None],
        chance: Chance = random.random, plain: bool = False,
    ) -> None:  # fmt: skip
        self.root = root
        self.settled = asyncio.Event()
        self.on_change: Callable[[], None] = lambda: None
        """Called after every change of an entry."""
        self._open = opener
        self._defaults = defaults
        self._count = count
        self._chance = chance
        self._plain = plain
        self._folders: dict[str, ModelFolder | InvalidModel] = {}
        self._entries = Entries()
        self._opened: dict[str, Entry] = {}
        self._traffic: dict[str, Traffic] = {}
        self._serving: Mapping[Asked, Servable] = {}
        self._splits: Mapping[Asked, Split] = {}

    def __repr__(self) -> str:
        return f"<Registry {self.root.name}: {', '.join(f'{e} {e.state}' for e in self.entries())}>"

    def entries(self) -> list[Entry]:
        """All versions as they are shown, by name, newest first."""
        return [entry for name in self._entries.names() for entry in self._entries.shown(name)]

    def openings(self, name: str | None = None) -> list[Entry]:
        """All entries, or those of one model: of one version there are several while one takes over from the other."""
        return list(self._entries) if name is None else self._entries.of(name)

    def names(self) -> list[str]:
        """All models, loaded or not."""
        return self._entries.names()

    def versions_on_disk(self, name: str) -> tuple[int, ...]:
        """Versions of a model that lay complete on disk when it was looked at last, loaded or not."""
        folder = self._folders.get(name)
        return folder.versions if isinstance(folder, ModelFolder) else ()

    def folder(self, name: str) -> ModelFolder:
        """The folder of a model as it was looked at last. Raises `InvalidModel` as `usable`."""
        return usable(self._folders.get(name))

    def traffic(self, name: str) -> Traffic:
        """Which of the versions of a model answer which requests."""
        return self._traffic.get(name, _PLAIN)

    def serving_config(self, name: str) -> ServingConfig:
        """What the operator chose for a model that answers."""
        openings = [entry.opening for entry in self.ready(name) if entry.opening is not None]
        return openings[-1].serving if openings else ServingConfig()

    def find(self, key: str) -> Entry | None:
        """The entry of an opening, until it is closed."""
        return self._opened.get(key)

    def ready(self, name: str) -> list[Entry]:
        """The versions of a model that answer."""
        return [entry for entry in self._entries.of(name) if entry.state == "ready"]

    async def load_all(self) -> None:
        """Open every version that its operator chose, one after the other, the quickest models first: most can answer
        before the slowest is measured. What fails is kept with its reason.

        Raises:
            InvalidSettings: the root is no folder.
        """
        for name, folder in sorted(self.look().items(), key=_work):
            try:
                chosen = usable(folder).chosen()
            except InvalidModel as error:
                self.note(name, 0, "failed", error.detail)
                continue
            for version in chosen:
                await self._load(usable(folder), version)
        self._check_defaults()
        self.settle()

    async def _load(self, folder: ModelFolder, version: int) -> None:
        try:
            opening = await asyncio.to_thread(folder.opening, version)
        except InvalidModel as error:
            self.note(folder.name, version, "failed", error.detail)
            return
        entry = await self.stage(opening)
        self.switch(folder.name, [*self.ready(folder.name), entry], folder.serving.traffic)

    def look(self) -> Mapping[str, ModelFolder | InvalidModel]:
        """Look what is on disk. Raises `InvalidSettings` where the root is no folder."""
        self._folders = scan(self.root, self._plain)
        for entry in self.openings():
            if self._is_history(entry):
                self._entries.remove(entry)
        return self._folders

    def _is_history(self, entry: Entry) -> bool:
        """Whether it is not open, and what it was opened from is gone from disk."""
        if entry.servable is not None or entry.state not in ("failed", "unloaded"):
            return False
        folder = self._folders.get(entry.name)
        if entry.state == "failed" and (isinstance(folder, InvalidModel) or not entry.version):
            return folder is None  # else it may still be as wrong as it was
        return entry.version not in self.versions_on_disk(entry.name)

    async def stage(self, opening: Opening) -> Entry:
        """Open one version beside those that serve; it answers from `switch` on. A failure is kept with its reason."""
        manifest = opening.manifest
        entry = Entry(manifest.name, manifest.version, manifest=manifest, opening=opening)
        self._entries.add(entry)
        self.on_change()
        try:
            entry.servable = await self._open(opening.path, manifest, opening.serving)
        except ImagoError as error:
            self._fail(entry, error.detail)
        except Exception:  # whatever one version trips over, the others are loaded
            logger.exception("loading %s failed unexpectedly", entry)
            self._fail(entry, "loading failed unexpectedly; the log says how")
        else:
            self._opened[entry.key] = entry
        self.on_change()
        return entry

    def switch(self, name: str, serve: Collection[Entry], traffic: Traffic) -> list[Entry]:
        """Let these answer for a model from now on, and no others; of those that are not open nothing changes.
        Returns what was replaced, which is to be released."""
        self._traffic[name] = traffic
        retired = [entry for entry in self.ready(name) if entry not in serve]
        for entry in retired:
            entry.state, entry.reason = "unloading", ""
            if entry.servable is not None:
                entry.servable.retired = True
        for entry in serve:
            if entry.servable is not None and entry.state in ("loading", "ready"):
                if entry.state == "loading":
                    logger.info("%s is ready", entry)
                entry.state, entry.reason = "ready", ""
        self._route()
        self.on_change()
        return retired

    def take_away(self, entry: Entry) -> None:
        """Let one version answer no more; it stays open."""
        others = [other for other in self.ready(entry.name) if other is not entry]
        self.switch(entry.name, others, self.traffic(entry.name))

    async def release(self, entry: Entry) -> None:
        """Let a version that answers no more finish what it has accepted, and close it. While it lies on disk, and no
        other opening of it is known, it is remembered as unloaded."""
        await self._close(entry)
        logger.info("%s is closed", entry)
        entry.state = "unloaded"
        others = [other for other in self._entries.of(entry.name) if other.version == entry.version]
        if others != [entry] or entry.version not in self.versions_on_disk(entry.name):
            self._entries.remove(entry)
        self.on_change()

    async def discard(self, entry: Entry, reason: str) -> None:
        """Close a version that was staged, and is not to answer for this reason."""
        await self._close(entry)
        if any(other.version == entry.version for other in self.ready(entry.name)):
            self._entries.remove(entry)
        else:
            self._fail(entry, reason)
        self.on_change()

    def blame(self, name: str, reason: str) -> None:
        """Note why a model was not loaded as it was to be: of the versions that answer on, or else of the model."""
        for entry in self.ready(name):
            entry.reason = f"It was not replaced: {reason}"
        if not self._entries.of(name):
            self.note(name, 0, "failed", reason)
        self.on_change()

    def give_up(self, name: str) -> None:
        """Take what is broken of a model for unloaded: nobody wants it to answer any more."""
        for entry in self._entries.of(name):
            if entry.state == "failed":
                self.note(name, entry.version, "unloaded", "")

    def note(self, name: str, version: int, state: State, reason: str) -> None:
        """Keep a version that cannot answer now, and why."""
        entry = self._entries.add(Entry(name, version))
        folder = self._folders.get(name)
        if isinstance(folder, ModelFolder) and version in folder.versions:
            try:
                entry.manifest = read_manifest(folder.version_path(version))
            except InvalidModel:
                logger.debug("the manifest of %s cannot be read", entry)
        entry.state = state
        if state == "failed":
            self._fail(entry, reason)
        self._route()
        self.on_change()

    def forget(self, entry: Entry) -> None:
        """Forget a version that is not open."""
        self._entries.remove(entry)
        self.on_change()

    def settle(self) -> None:
        """Every version was tried."""
        self.settled.set()
        self.on_change()

    def get(
        self, kind: str | None, name: str | None = None, version: int | str | None = None, asker: Asker | None = None
    ) -> Servable:
        """The servable that answers a task: by name and version (a number, or an alias); or the version that answers
        for that name, or for the task. Without a task the one of that name, whatever its task is. A canary that is to
        stick to somebody sticks to the `asker`.

        Raises:
            ModelNotFound: nothing of that name or version is here, or no model has this task.
            WrongTask: the model is for another task.
            NotReady: it is here and cannot answer.
        """
        if name is None and version is not None and (default := self.default(kind or "")) is not None:
            name = default.manifest.name
        known = self._serving.get((kind, name, version))
        if known is None:
            self._refuse(kind, name, version)
        if self._splits and (split := self._splits.get((kind, name, version))) is not None and split.takes(asker):
            return split.canary
        return known

    def default(self, kind: str) -> Servable | None:
        """The servable that answers a task where a request names no model."""
        return self._serving.get((kind, None, None))

    def able(self, kind: str, variant: str) -> str | None:
        """The first model of a task that is able to something beside it: by default the task's default model. None
        where none is, which the default then says."""
        first = self.default(kind)
        names = [] if first is None else [first.manifest.name]
        for name in (*names, *self.names()):
            found = self._serving.get((kind, name, None))
            if found is not None and found.task.variant == variant:
                return name
        return None

    def describe(self, name: str) -> list[Entry]:
        """The versions of one model as they are shown, newest first. Raises `ModelNotFound`."""
        shown = self._entries.shown(name)
        if not shown:
            raise ModelNotFound(name)
        return shown

    async def close(self) -> None:
        """Answer what was accepted, then close every session."""
        self._serving = {}
        for entry in self.openings():
            if entry.servable is not None:
                await entry.servable.close()
                entry.servable = None
        self._opened.clear()
        self._count(0)

    async def _close(self, entry: Entry) -> None:
        if entry.servable is not None:
            await entry.servable.close()
            if self._opened.get(entry.key) is entry:  # else it was opened anew meanwhile, and that serves
                del self._opened[entry.key]
            entry.servable = None

    def _fail(self, entry: Entry, reason: str) -> None:
        entry.state, entry.reason = "failed", reason
        logger.error("%s is broken: %s", entry, reason)

    def _route(self) -> None:
        """Write down who answers each question."""
        models: dict[str, tuple[Mapping[int, Servable], Traffic]] = {}
        for name in self.names():
            ready = {entry.version: entry.servable for entry in self.ready(name) if entry.servable is not None}
            models[name] = ready, self.traffic(name)
            shadowing(*models[name], self._chance)
        self._serving, self._splits = routes(models, self._defaults, self._chance)
        self._count(sum(len(ready) for ready, _ in models.values()))

    def _refuse(self, kind: str | None, name: str | None, version: int | str | None) -> NoReturn:
        """Raise the error that says why nobody answers."""
        if not self.settled.is_set():
            raise NotReady(LOADING)
        name = self._defaults.get(kind or "") if name is None else name
        if name is None:
            entries = [entry for entry in self.entries() if entry.manifest and entry.manifest.task == kind]
        else:
            traffic = self.traffic(name)
            number = traffic.stable if version is None else traffic.number(version)
            anyone = version is None and number is None
            entries = [entry for entry in self.describe(name) if anyone or entry.version == number]
        entries = [entry for entry in entries if entry.state not in ("unloading", "unloaded")]
        if not entries:
            raise ModelNotFound(name, version)
        entry = next((entry for entry in entries if entry.state != "ready"), entries[0])
        if entry.state != "ready" or entry.servable is None:
            raise NotReady(f"Model {entry.name!r} cannot answer: {entry.reason or entry.state}", retry_after=5)
        raise WrongTask(entry.name, entry.servable.task.kind, kind or "")

    def _check_defaults(self) -> None:
        for kind, name in self._defaults.items():
            if name not in self.names():
                logger.error("default model %r for %r is not below %s", name, kind, self.root)
            elif any(entry.manifest is not None and entry.manifest.task != kind for entry in self._entries.of(name)):
                logger.error("default model %r for %r is of another task", name, kind)


def usable(folder: ModelFolder | InvalidModel | None) -> ModelFolder:
    """The folder of a model. Raises `InvalidModel` where its `serving.toml` is broken, or where there is none."""
    if folder is None:
        raise InvalidModel("There is no complete version of it on disk.")
    if isinstance(folder, InvalidModel):
        raise folder
    return folder


def _work(found: tuple[str, ModelFolder | InvalidModel]) -> int:
    """What a row of a model's newest version costs, roughly: a convolution uses each weight once for each pixel."""
    folder = found[1]
    try:
        manifest = read_manifest(usable(folder).version_path(usable(folder).versions[-1]))
    except InvalidModel:
        return 0
    pixels = 1
    if manifest.image is not None:
        pixels = manifest.image.width * manifest.image.height
    elif manifest.tiling is not None:
        pixels = manifest.tiling.side**2
    return manifest.files[GRAPH].bytes * pixels if GRAPH in manifest.files else 0
