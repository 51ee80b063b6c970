"""Zip archives as ordered sources of named bytes; what the bytes mean is left to the data set's reader."""

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from training.data.errors import BrokenData
from training.data.folders import is_shown


def members(archives: Sequence[Path]) -> Iterator[tuple[str, bytes]]:
    """Files of several archives but hidden ones as (name, bytes), in the order of their names; BrokenData where one
    cannot be read."""
    opened = [(path, _open(path)) for path in archives]
    try:
        names = sorted((name, path, archive) for path, archive in opened for name in _files(archive))
        for name, path, archive in names:
            yield name, _read(archive, name, path)
    finally:
        for _, archive in opened:
            archive.close()


def _files(archive: zipfile.ZipFile) -> list[str]:
    return list(filter(is_shown, archive.namelist()))


def _open(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise BrokenData(path, f"no readable zip archive ({error})") from error


def _read(archive: zipfile.ZipFile, name: str, path: Path) -> bytes:
    try:
        return archive.read(name)
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, ValueError, RuntimeError) as error:
        raise BrokenData(path, f"{name} in it is damaged ({error})") from error
