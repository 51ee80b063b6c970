"""Where pictures come from: a folder, a pattern, a zip. Lists names and reads bytes; decodes nothing."""

import glob
import os
import zipfile
import zlib
from pathlib import Path
from typing import Final, Protocol

from app.errors import BodyTooLarge, InvalidBatch

SUFFIXES: Final = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"))
"""What counts as a picture in a folder or a zip, where other files lie, too."""


class Source(Protocol):
    """Pictures by name. May be read from several threads, and travels to other processes."""

    names: list[str]
    """All of them, each once, sorted."""

    def size(self, name: str) -> int:
        """Bytes of one, unpacked. Raises `OSError` as `read`."""

    def read(self, name: str) -> bytes:
        """The bytes of one. Raises `OSError` where they cannot be had."""


class Files:
    """Files below a folder, by their path from there; or with an empty folder, by the paths themselves."""

    def __init__(self, folder: str, names: list[str]) -> None:
        self.names = names
        self._folder = folder

    def size(self, name: str) -> int:
        """As `Source.size`."""
        return os.stat(os.path.join(self._folder, name)).st_size  # noqa: PTH116, PTH118 - a fifth of a Path's time

    def read(self, name: str) -> bytes:
        """As `Source.read`."""
        with open(os.path.join(self._folder, name), "rb") as file:  # noqa: PTH118, PTH123 - as above
            return file.read()


class Zip:
    """Members of a zip file: those that are pictures by their names, or every one."""

    def __init__(self, path: Path, every: bool = False) -> None:
        """Open it.

        Raises:
            InvalidBatch: it is no zip, or damaged.
            OSError: it cannot be read now.
        """
        self._path = path
        self._open()
        self.names = sorted(name for name in self._sizes if every or is_picture(name))

    def _open(self) -> None:
        try:
            self._zip = zipfile.ZipFile(self._path)
        except zipfile.BadZipFile as error:
            raise InvalidBatch(f"{self._path} cannot be opened as a zip: {error}.") from None
        self._sizes = {info.filename: info.file_size for info in self._zip.infolist()}

    def __getstate__(self) -> dict[str, object]:
        return {"_path": self._path, "names": self.names}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._open()

    def size(self, name: str) -> int:
        """As `Source.size`; the header of a member says it, and reading stops there."""
        return self._sizes[name]

    def read(self, name: str) -> bytes:
        """As `Source.read`."""
        try:
            return self._zip.read(name)
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
            raise OSError(f"the zip is damaged, encrypted or packed in an unknown way ({error})") from error


def open_source(text: str) -> Source:
    """The pictures of a folder (with all below), of a zip, or that a pattern (`photos/**/*.jpg`) matches.

    Raises:
        InvalidBatch: there are none.
    """
    path = Path(text)
    found: Source
    if path.is_dir():
        files = (file for file in path.rglob("*") if is_picture(file.name) and file.is_file())
        found = Files(text, sorted(file.relative_to(path).as_posix() for file in files))
    elif path.is_file() and zipfile.is_zipfile(path):
        found = _zip(path)
    else:
        matches = glob.glob(text, recursive=True)  # noqa: PTH207 - a pattern may begin anywhere
        found = Files("", sorted({match for match in matches if os.path.isfile(match)}))  # noqa: PTH113 - as above
    if not found.names:
        raise InvalidBatch(f"{text!r} is no folder and no zip with pictures in it, and no pattern that matches files.")
    return found


def _zip(path: Path) -> Zip:
    try:
        return Zip(path)
    except OSError as error:
        raise InvalidBatch(f"{path} cannot be opened as a zip: {error}.") from None


def read_at_most(source: Source, name: str, most: int) -> bytes:
    """Read one picture.

    Raises:
        BodyTooLarge: it is longer than `most` bytes.
        OSError: it cannot be read.
    """
    if source.size(name) > most:
        raise BodyTooLarge(most)
    return source.read(name)


def is_picture(name: str) -> bool:
    """Whether a file of this name counts as a picture; what macOS puts beside one (`._cat.jpg`) does not."""
    if name.rpartition("/")[2].startswith("._"):
        return False
    return os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122 - a name, not a path
