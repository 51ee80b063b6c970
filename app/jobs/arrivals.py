"""Takes the pictures of a job in, piece by piece, to a zip on the disk: one that was sent, or one made of many files.

Used from threads, by one at a time.
"""

import zipfile
from pathlib import Path
from typing import IO

from app.errors import EmptyBody, InvalidRequest
from app.jobs.job import Bounds
from app.jobs.zips import check_name, count_pictures


class ZipArrival:
    """A zip, as it is sent."""

    every = False

    def __init__(self, path: Path, bounds: Bounds) -> None:
        self._path = path
        self._bounds = bounds
        self._file = path.open("xb")

    def write(self, data: bytes) -> None:
        """Take its next bytes."""
        self._file.write(data)

    def finish(self) -> int:
        """All of it has come: how many pictures it holds.

        Raises:
            InvalidRequest, JobTooLarge: it is not to be trusted, see `app.jobs.zips`.
            EmptyBody: there is no picture in it.
        """
        self.close()
        return _some(count_pictures(self._path, self._bounds))

    def close(self) -> None:
        """Write what is left."""
        self._file.close()


class FilesArrival:
    """Files, one after the other."""

    every = True

    def __init__(self, path: Path, bounds: Bounds) -> None:
        self._bounds = bounds
        self._zip = zipfile.ZipFile(path, "x")  # stored: pictures are packed already
        self._file: IO[bytes] | None = None
        self._names: set[str] = set()

    def begin(self, name: str) -> None:
        """The next file begins; one without a name is numbered.

        Raises:
            InvalidRequest: its name is not one, or another file has it.
        """
        name = check_name(name or f"{len(self._names) + 1}")
        if name in self._names:
            raise InvalidRequest(f"Two files are named {name[:80]!r}.")
        if name.lower().endswith(".zip"):
            raise InvalidRequest("A zip is sent as the body itself, with Content-Type: application/zip.")
        self._names.add(name)
        self._file = self._zip.open(zipfile.ZipInfo(name), "w")

    def write(self, data: bytes) -> None:
        """Take its next bytes."""
        if self._file is not None:
            self._file.write(data)

    def end(self) -> None:
        """All of a file has come."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def finish(self) -> int:
        """All files have come: how many. Raises `EmptyBody` where there are none."""
        self.close()
        return _some(len(self._names))

    def close(self) -> None:
        """Write what is left."""
        self.end()
        self._zip.close()


def _some(pictures: int) -> int:
    if not pictures:
        raise EmptyBody
    return pictures
