"""What is on disk: the model folders below one root, and their complete versions. Reads names, opens no graph."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from app.errors import InvalidModel, InvalidSettings
from app.manifest import MANIFEST, NAME, Manifest, read_labels, read_manifest
from app.servable import read_graph
from app.serving import ServingConfig, mark_of, read_serving

MODEL = re.compile(NAME)
VERSION = re.compile(r"[1-9][0-9]{0,8}")
"""Names of the folders of models and of versions."""
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
            raise InvalidModel(f"{self.name}/serving.toml names version {missing[0]}; there are {self.versions}.")
        return tuple(sorted(chosen))

    def version_path(self, version: int) -> Path:
        """The folder of one version."""
        return self.path / str(version)

    def opening(self, version: int) -> "Opening":
        """One version as it would be opened now.

        Raises:
            InvalidModel: its manifest cannot be read, or is that of another version.
        """
        path = self.version_path(version)
        manifest = read_manifest(path)
        if (manifest.name, manifest.version) != (self.name, version):
            raise InvalidModel(
                f"{self.name}/{version} holds the manifest of {manifest.name}/{manifest.version}: copied?"
            )
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


def scan(root: Path) -> dict[str, ModelFolder | InvalidModel]:
    """Find the models below `root`, by name; one whose `serving.toml` is broken comes with its error.

    A version is a folder named by a positive integer that holds a manifest; everything else (a version being written
    under a temporary name, notes, hidden files) is left alone.

    Raises:
        InvalidSettings: `root` is no folder.
    """
    if not root.is_dir():
        raise InvalidSettings(f"models: {str(root)!r} is no folder; name the one that holds NAME/VERSION/.")
    found: dict[str, ModelFolder | InvalidModel] = {}
    for path in sorted(root.iterdir()):
        if not path.is_dir() or not MODEL.fullmatch(path.name):
            continue
        versions = _versions(path)
        if not versions:
            continue
        try:
            found[path.name] = _folder(path, versions)
        except InvalidModel as error:
            found[path.name] = error
    return found


def _folder(path: Path, versions: tuple[int, ...]) -> ModelFolder:
    if path.name == _TAKEN:
        raise InvalidModel(f"{_TAKEN!r} is part of a path of protocol v2 and cannot name a model: rename the folder.")
    return ModelFolder(path.name, path, versions, read_serving(path))


def _versions(path: Path) -> tuple[int, ...]:
    names = (entry.name for entry in path.iterdir() if (entry / MANIFEST).is_file())
    return tuple(sorted(int(name) for name in names if VERSION.fullmatch(name)))
