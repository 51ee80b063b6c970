"""What is on disk: the model folders below one root, and their complete versions. Reads names, opens no graph."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from app.errors import InvalidModel, InvalidSettings
from app.manifest import GRAPH, MANIFEST, NAME, PLAIN, Manifest, manifest_of, read_labels
from app.servable import read_graph
from app.serving import ServingConfig, mark_of, read_serving

logger = logging.getLogger("imago.repository")

MODEL = re.compile(NAME)
VERSION = re.compile(r"[1-9][0-9]{0,8}")
"""Names of the folders of models and of versions."""
_TRITONS = "config.pbtxt"
_TAKEN = "stats"
"""`/v2/models/stats` is a route of the Open Inference Protocol."""


@dataclass(frozen=True)
class ModelFolder:
    """One model: its folder, its complete versions in ascending order, and what its operator chose."""

    name: str
    path: Path
    versions: tuple[int, ...]
    serving: ServingConfig

    def chosen(self) -> tuple[int, ...]:
        """The versions to load, in ascending order: those chosen, and those that names and shares of requests need.

        Raises:
            InvalidModel: `serving.toml` names a version that is not there.
        """
        wanted = self.serving.versions
        numbers = self.versions[-1:] if wanted == "latest" else self.versions if wanted == "all" else wanted
        chosen = {*numbers, *self.serving.named}
        missing = sorted(chosen - set(self.versions))
        if missing:
            there = ", ".join(map(str, self.versions)) or "none"
            raise InvalidModel(
                f"{self.name}: serving.toml, or who asked for a load, names version {missing[0]}; on disk: {there}."
            )
        return tuple(sorted(chosen))

    def version_path(self, version: int) -> Path:
        """The folder of one version."""
        return self.path / str(version)

    def opening(self, version: int) -> "Opening":
        """One version as it would be opened now; blocks while the files of a plain one are read.

        Raises:
            InvalidModel: its manifest cannot be read, or is that of another version.
        """
        path = self.version_path(version)
        manifest = manifest_of(path)
        if (manifest.name, manifest.version) != (self.name, version):
            raise InvalidModel(
                f"{self.name}/{version} holds the manifest of {manifest.name}/{manifest.version}: copied?"
            )
        if manifest.task == PLAIN and (self.path / _TRITONS).exists():
            logger.info("%s/%s is not read: the graph and serving.toml say everything", self.name, _TRITONS)
        return Opening(path, manifest, self.serving)


@dataclass(frozen=True)
class Opening:
    """One version as it is opened: its folder, what it is, and how it is to run."""

    path: Path
    manifest: Manifest
    serving: ServingConfig

    @cached_property
    def key(self) -> str:
        """A name that is equal where opening again would change nothing: `classifier/2@8d3f0c55a1b2`."""
        return f"{self.manifest.name}/{self.manifest.version}@{mark_of(self.manifest, self.serving)}"

    def verify(self) -> None:
        """Check that what is opened of it is still what the manifest says. Raises `InvalidModel`."""
        read_graph(self.path, self.manifest)
        read_labels(self.path, self.manifest)


def scan(root: Path, plain: bool = False) -> dict[str, ModelFolder | InvalidModel]:
    """Find the models below `root`, by name; one whose `serving.toml` is broken, or whose folder cannot be read, comes
    with its error.

    A version is a folder named by a positive integer that holds a manifest, or where `plain` ones are taken a graph;
    everything else (a version being written under a temporary name, notes, hidden files) is left alone.

    Raises:
        InvalidSettings: `root` is no folder.
    """
    if not root.is_dir():
        raise InvalidSettings(f"models: {str(root)!r} is no folder; name the one that holds NAME/VERSION/.")
    found: dict[str, ModelFolder | InvalidModel] = {}
    for path in sorted(root.iterdir()):
        if not MODEL.fullmatch(path.name):
            continue
        try:
            versions = _versions(path, (MANIFEST, GRAPH) if plain else (MANIFEST,)) if path.is_dir() else ()
            if versions:
                found[path.name] = _folder(path, versions)
        except InvalidModel as error:
            found[path.name] = error
        except OSError as error:
            found[path.name] = InvalidModel(f"{path.name} cannot be read: {error.strerror}.")
    return found


def _folder(path: Path, versions: tuple[int, ...]) -> ModelFolder:
    if path.name == _TAKEN:
        raise InvalidModel(f"{_TAKEN!r} is part of a path of protocol v2 and cannot name a model: rename the folder.")
    return ModelFolder(path.name, path, versions, read_serving(path))


def _versions(path: Path, signs: Sequence[str]) -> tuple[int, ...]:
    names = (entry.name for entry in path.iterdir() if any((entry / sign).is_file() for sign in signs))
    return tuple(sorted(int(name) for name in names if VERSION.fullmatch(name)))
