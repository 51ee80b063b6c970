"""What is loaded: opens versions, answers who serves, drains and closes. One broken model leaves the others serving."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

from app.errors import ImagoError, InvalidModel, ModelNotFound, NotReady, WrongTask
from app.manifest import GRAPH, Manifest, ServingConfig, read_manifest
from app.repository.store import ModelFolder, scan
from app.servable import Servable

logger = logging.getLogger("imago.repository")

State = Literal["loading", "ready", "failed"]
LOADING = "The models are being loaded: retry."
Opener = Callable[[Path, Manifest, ServingConfig], Awaitable[Servable]]
"""Makes the servable of the version in a folder; raises `ImagoError` where it cannot."""


@dataclass
class Entry:
    """One version, loaded or on its way, or the reason why it is not."""

    name: str
    version: int
    state: State = "loading"
    reason: str = ""
    manifest: Manifest | None = None
    servable: Servable | None = None

    def __str__(self) -> str:
        return f"{self.name}/{self.version}" if self.version else self.name


class Registry:
    """The model versions of one process, by name and version."""

    def __init__(self, root: Path, opener: Opener, defaults: Mapping[str, str], count: Callable[[float], None]) -> None:
        self.root = root
        self.settled = asyncio.Event()
        self.on_change: Callable[[], None] = lambda: None
        """Called after every change of an entry."""
        self._open = opener
        self._defaults = defaults
        self._count = count
        self._folders: dict[str, ModelFolder] = {}
        self._entries: dict[str, dict[int, Entry]] = {}
        self._serving: dict[tuple[str | None, str | None, int | None], Servable] = {}

    def __repr__(self) -> str:
        return f"<Registry {self.root.name}: {', '.join(f'{e} {e.state}' for e in self.entries())}>"

    def entries(self) -> list[Entry]:
        """All versions, by name, newest first."""
        return [
            versions[version] for _, versions in sorted(self._entries.items()) for version in sorted(versions)[::-1]
        ]

    def versions_on_disk(self, name: str) -> tuple[int, ...]:
        """Versions of a model that lie complete on disk, loaded or not."""
        folder = self._folders.get(name)
        return folder.versions if folder else ()

    def serving_config(self, name: str) -> ServingConfig:
        """What the operator chose for a model."""
        folder = self._folders.get(name)
        return folder.serving if folder else ServingConfig()

    def find(self, key: str) -> Entry | None:
        """The entry of `name/version`."""
        name, _, version = key.rpartition("/")
        return self._entries.get(name, {}).get(int(version))

    async def load_all(self) -> None:
        """Open every version that its operator chose, one after the other, the quickest models first: most can answer
        before the slowest is measured. What fails is kept with its reason.

        Raises:
            InvalidSettings: the root is no folder.
        """
        for name, folder in sorted(self.look().items(), key=_work):
            try:
                chosen = _usable(folder).chosen()
            except InvalidModel as error:
                self.note(name, 0, "failed", error.detail)
                continue
            for version in chosen:
                await self.load(name, version)
        self._check_defaults()
        self.settle()

    def look(self) -> dict[str, ModelFolder | InvalidModel]:
        """Look what is on disk. Raises `InvalidSettings` where the root is no folder."""
        found = scan(self.root)
        self._folders = {name: folder for name, folder in found.items() if not isinstance(folder, InvalidModel)}
        return found

    async def load(self, name: str, version: int) -> None:
        """Open one version, unless it is ready already; a failure is kept with its reason."""
        known = self._entries.get(name, {}).get(version)
        if known is not None and known.state == "ready":
            return
        entry = self._keep(Entry(name, version))
        try:
            folder = self._folders[name]
            path = folder.version_path(version)
            entry.manifest = _matching(read_manifest(path), name, version)
            entry.servable = await self._open(path, entry.manifest, folder.serving)
        except ImagoError as error:
            self._fail(entry, error.detail)
        except Exception:  # whatever one version trips over, the others are loaded
            logger.exception("loading %s failed unexpectedly", entry)
            self._fail(entry, "loading failed unexpectedly; the log says how")
        else:
            entry.state = "ready"
            logger.info("%s is ready", entry)
        self._route()
        self.on_change()

    def note(self, name: str, version: int, state: State, reason: str) -> None:
        """Keep a version that cannot answer now, and why."""
        entry = self._keep(Entry(name, version))
        if (folder := self._folders.get(name)) is not None and version in folder.versions:
            with contextlib.suppress(InvalidModel):
                entry.manifest = read_manifest(folder.version_path(version))
        entry.state = state
        if state == "failed":
            self._fail(entry, reason)
        self._route()
        self.on_change()

    def settle(self) -> None:
        """Every version was tried."""
        self.settled.set()
        self.on_change()

    def get(self, kind: str | None, name: str | None = None, version: int | None = None) -> Servable:
        """The servable that answers a task: by name and version, its newest version, or the task's default. Without a
        task the one of that name, whatever its task is.

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
        return known

    def default(self, kind: str) -> Servable | None:
        """The servable that answers a task where a request names no model."""
        return self._serving.get((kind, None, None))

    def describe(self, name: str) -> list[Entry]:
        """The versions of one model, newest first. Raises `ModelNotFound`."""
        if name not in self._entries:
            raise ModelNotFound(name)
        return [self._entries[name][version] for version in sorted(self._entries[name])[::-1]]

    async def close(self) -> None:
        """Answer what was accepted, then close every session."""
        self._serving.clear()
        for entry in self.entries():
            if entry.servable is not None:
                await entry.servable.close()
                entry.servable = None
        self._count(0)

    def _fail(self, entry: Entry, reason: str) -> None:
        entry.state, entry.reason = "failed", reason
        logger.error("%s is broken: %s", entry, reason)

    def _keep(self, entry: Entry) -> Entry:
        self._entries.setdefault(entry.name, {})[entry.version] = entry
        return entry

    def _route(self) -> None:
        """Write down who answers each question, so that a request costs one look-up."""
        serving: dict[tuple[str | None, str | None, int | None], Servable] = {}
        loaded = 0
        for entry in self.entries():
            if (servable := entry.servable) is None:
                continue
            loaded += 1
            kind = servable.task.kind
            for asked in (kind, None):
                serving[asked, entry.name, entry.version] = servable
                serving.setdefault((asked, entry.name, None), servable)
            if self._defaults.get(kind, entry.name) == entry.name:
                serving.setdefault((kind, None, None), servable)
        self._serving = serving
        self._count(loaded)

    def _refuse(self, kind: str | None, name: str | None, version: int | None) -> NoReturn:
        """Raise the error that says why nobody answers."""
        if not self.settled.is_set():
            raise NotReady(LOADING)
        name = self._defaults.get(kind or "") if name is None else name
        if name is None:
            entries = [entry for entry in self.entries() if entry.manifest and entry.manifest.task == kind]
        else:
            entries = [entry for entry in self.describe(name) if version in (None, entry.version)]
        if not entries:
            raise ModelNotFound(name, version)
        entry = entries[0]
        if entry.servable is None:
            raise NotReady(f"Model {entry.name!r} cannot answer: {entry.reason or entry.state}", retry_after=5)
        raise WrongTask(entry.name, entry.servable.task.kind, kind or "")

    def _check_defaults(self) -> None:
        for kind, name in self._defaults.items():
            if name not in self._entries:
                logger.error("default model %r for %r is not below %s", name, kind, self.root)


def _work(found: tuple[str, ModelFolder | InvalidModel]) -> int:
    """What a row of a model's newest version costs, roughly: a convolution uses each weight once for each pixel."""
    folder = found[1]
    try:
        manifest = read_manifest(_usable(folder).version_path(_usable(folder).versions[-1]))
    except InvalidModel:
        return 0
    pixels = manifest.image.width * manifest.image.height if manifest.image else 1
    return manifest.files[GRAPH].bytes * pixels if GRAPH in manifest.files else 0


def _usable(folder: ModelFolder | InvalidModel) -> ModelFolder:
    if isinstance(folder, InvalidModel):
        raise folder
    return folder


def _matching(manifest: Manifest, name: str, version: int) -> Manifest:
    if (manifest.name, manifest.version) != (name, version):
        raise InvalidModel(f"{name}/{version} holds the manifest of {manifest.name}/{manifest.version}: copied?")
    return manifest
