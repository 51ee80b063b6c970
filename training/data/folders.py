"""One's own pictures: one folder a class, in a directory or in a zip archive of it.

    ROOT/CLASS/PICTURE                        one pool, of which a fixed part of each class is held out
    ROOT/{train,val,test}/CLASS/PICTURE       split already; `valid` and `validation` stand for `val`

Names that begin with a dot, and files that are no pictures by their ending, are left out.
"""

import hashlib
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol

from training.data.errors import BrokenData

Split = Literal["train", "val", "test"]
ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"})
SPLITS: Mapping[str, Split] = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
}  # fmt: skip
_HELD_OUT = 0.1
"""Share of each class for validation, and as much again for testing, where the folder is not split."""


class Source(Protocol):
    """Files by name, relative to the root of a data set, with slashes."""

    def names(self) -> list[str]:
        """All files but hidden ones, in order."""

    def read(self, name: str) -> bytes:
        """The bytes of one. Raises BrokenData."""


@dataclass(frozen=True)
class Example:
    """One labelled picture."""

    name: str
    label: int


@dataclass(frozen=True)
class Folder:
    """Labelled pictures, split."""

    source: Source
    classes: tuple[str, ...]
    splits: Mapping[Split, tuple[Example, ...]]
    divided: bool
    """Whether the folder came split; otherwise the parts were drawn here."""

    def read(self, example: Example) -> bytes:
        """The encoded picture. Raises BrokenData."""
        return self.source.read(example.name)


def open_source(path: Path) -> Source:
    """A directory or a zip archive. Raises BrokenData."""
    if path.is_dir():
        return _Directory(path)
    if path.is_file() and path.suffix.lower() == ".zip":
        return _Archive(path)
    raise BrokenData(path, "is neither a folder nor a zip archive")


def read_folder(path: Path, least: int = 2) -> Folder:
    """The pictures below a directory or in an archive, by class; nothing is decoded.

    Raises:
        BrokenData: there is no picture, fewer than `least` classes, a class that one of the parts lacks, or a picture
            that lies in no class.
    """
    source = open_source(path)
    found: dict[Split | None, dict[str, list[str]]] = {}
    for name in filter(is_picture, source.names()):
        split, label = _place(PurePosixPath(name), path)
        found.setdefault(split, {}).setdefault(label, []).append(name)
    if not found:
        raise BrokenData(path, "holds no picture in a folder of its class: ROOT/CLASS/PICTURE")
    if None in found and len(found) > 1:
        stray = found[None][min(found[None])][0]
        raise BrokenData(stray, "lies beside train/, val/ or test/ and not in one of them")
    classes = tuple(sorted({label for part in found.values() for label in part}, key=_natural))
    for label in classes:
        if label.splitlines() != [label]:
            raise BrokenData(path, f"class {label!r} has a name of several lines, and labels are one a line")
    if len(classes) < least:
        raise BrokenData(path, f"holds one class only ({classes[0]}): there is nothing to tell apart")
    divided = None not in found
    parts = _given(found, classes, path) if divided else _drawn(found[None], path)
    numbers = {label: number for number, label in enumerate(classes)}
    splits = {
        split: tuple(Example(name, numbers[label]) for label in classes for name in part.get(label, ()))
        for split, part in parts.items()
    }
    return Folder(source, classes, splits, divided)


def _place(name: PurePosixPath, root: Path) -> tuple[Split | None, str]:
    """Split and class of a file; what lies above them, such as the one folder in an archive, does not count."""
    parents = name.parts[:-1]
    for depth, part in enumerate(parents):
        if part.lower() in SPLITS:
            if depth + 1 >= len(parents):
                raise BrokenData(f"{root.name}/{name}", "lies in no folder of a class")
            return SPLITS[part.lower()], parents[depth + 1]
    if not parents:
        raise BrokenData(f"{root.name}/{name}", "lies in no folder of a class")
    return None, parents[-1]


def _given(
    found: Mapping[Split | None, Mapping[str, list[str]]], classes: Sequence[str], path: Path
) -> dict[Split, Mapping[str, list[str]]]:
    parts = {split: part for split, part in found.items() if split is not None}
    if "train" not in parts:
        raise BrokenData(path, "has no folder train/ beside its other parts")
    for split, part in parts.items():
        missing = [label for label in classes if label not in part]
        if missing:
            raise BrokenData(path, f"class {missing[0]} has no picture in {split}/")
    if "val" in parts:
        return parts
    inner = _drawn(parts["train"], path)
    held_out = {label: [*inner["val"][label], *inner["test"][label]] for label in parts["train"]}
    return {**parts, "train": inner["train"], "val": held_out}


def _drawn(pool: Mapping[str, list[str]], path: Path) -> dict[Split, Mapping[str, list[str]]]:
    """A tenth of each class, at least one picture, for validation and as much for testing, by a hash of the name: the
    same for every seed, and for a picture that stays while others come."""
    parts: dict[Split, dict[str, list[str]]] = {"train": {}, "val": {}, "test": {}}
    for label, names in pool.items():
        if len(names) < 3:
            raise BrokenData(path, f"class {label} has {len(names)} pictures: at least three are needed")
        order = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
        count = max(1, round(_HELD_OUT * len(names)))
        parts["val"][label] = sorted(order[:count])
        parts["test"][label] = sorted(order[count : 2 * count])
        parts["train"][label] = sorted(order[2 * count :])
    return dict(parts)


def _natural(label: str) -> tuple[int, str]:
    """Numbers in their own order, before words; 1 and 01 are two classes."""
    return (int(label) if label.isdecimal() else 1 << 62), label


def is_picture(name: str) -> bool:
    """Whether a file is a picture by its ending."""
    return PurePosixPath(name).suffix.lower() in ENDINGS


def is_shown(name: str) -> bool:
    """Whether a name is that of a file, and not of one that systems leave behind."""
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)
    return not hidden and not name.endswith("/")


def _files(root: Path) -> Iterator[Path]:
    """All files below a directory; links are followed, but for those to a directory that one is in already.

    Raises BrokenData where a directory cannot be read.
    """
    inside = {root: {os.path.realpath(root)}}
    for name, below, files in os.walk(root, onerror=_refuse, followlinks=True):
        folder = Path(name)
        yield from (folder / file for file in files)
        around = inside.pop(folder)
        real = {each: os.path.realpath(folder / each) for each in below}
        below[:] = [each for each in below if real[each] not in around]
        inside |= {folder / each: around | {real[each]} for each in below}


def _refuse(error: OSError) -> None:
    raise BrokenData(str(error.filename), f"cannot be read ({error.strerror})")


class _Directory:
    def __init__(self, root: Path) -> None:
        self._root = root

    def names(self) -> list[str]:
        found = sorted(filter(is_shown, (path.relative_to(self._root).as_posix() for path in _files(self._root))))
        for name in found:
            try:
                name.encode()
            except UnicodeEncodeError:
                raise BrokenData(ascii(name), "has a name that is not UTF-8: rename it") from None
        return found

    def read(self, name: str) -> bytes:
        try:
            return (self._root / name).read_bytes()
        except OSError as error:
            raise BrokenData(name, f"cannot be read ({error.strerror})") from error


class _Archive:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._opened: tuple[int, zipfile.ZipFile] | None = None
        self._archive()

    def names(self) -> list[str]:
        return sorted(filter(is_shown, self._archive().namelist()))

    def read(self, name: str) -> bytes:
        try:
            return self._archive().read(name)
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error, ValueError, RuntimeError) as error:
            raise BrokenData(name, f"cannot be read from {self._path.name} ({error})") from error

    def _archive(self) -> zipfile.ZipFile:
        """Opened once in each process: a descriptor shared after a fork has one place in the file for all."""
        if self._opened is None or self._opened[0] != os.getpid():
            try:
                self._opened = os.getpid(), zipfile.ZipFile(self._path)
            except (OSError, zipfile.BadZipFile) as error:
                raise BrokenData(self._path, f"no readable zip archive ({error})") from error
        return self._opened[1]
