"""Index files of galleries: made where one pays off, made anew where much has changed, and cleared of what was deleted.

One process at a time makes them, whoever has the lock, which ends with the process that has it. Files are named after
gallery and epoch, written under another name, and renamed before the tables speak of them; what these do not speak of
is swept.
"""

import logging
import os
import sqlite3
import time
from pathlib import Path
from typing import Final

import numpy as np

from app.galleries import catalogue, changes, index
from app.galleries.database import Database, lock
from app.galleries.index import Index, Keys
from app.galleries.records import Gallery, Halves, from_stored

logger = logging.getLogger("imago.galleries")

EXACT: Final = 20_000
"""Up to so many vectors a gallery is searched exactly: 256 numbers each take some milliseconds."""
_SHARE: Final = 8
"""An index is made anew when what is not in it is an eighth of what is."""
_AT_ONCE: Final = 10_000


class Upkeep:
    """Looks after the files beside one database."""

    def __init__(self, folder: Path, database: Database, exact: int = EXACT) -> None:
        self._folder = folder
        self._database = database
        self._exact = exact

    def open(self, gallery: Gallery) -> Index | None:
        """The index of a gallery; None where it is missing or broken, and all is to be searched exactly until there is
        another."""
        if not index.available():
            return None
        try:
            return Index(self._file(gallery))
        except RuntimeError:
            self._file(gallery).unlink(missing_ok=True)  # so that it is seen to be missing
            return None

    def is_due(self, gallery: Gallery) -> bool:
        """Whether its index is missing or far behind, or much is remembered that is not there any more."""
        indexed = gallery.vectors - gallery.recent
        much = max(self._exact, indexed // _SHARE)
        lost = bool(gallery.indexed) and self._wants(gallery) and not self._file(gallery).exists()
        return (gallery.recent > much and self._wants(gallery)) or gallery.forgotten > much or lost

    def renew(self, number: int) -> bool:
        """Begin a new epoch of a gallery if that is due; false where another process looks after the files now."""
        with lock(self._folder, wait=False) as alone:
            if not alone:
                return False
            self._sweep()
            with self._database.reading() as connection:
                gallery = catalogue.numbered(connection, number)
                if gallery is None or not self.is_due(gallery):
                    return True
                place, keys, vectors = _snapshot(connection, gallery, self._wants(gallery))
            begun = time.monotonic()
            draft = self._folder / f"{number}.draft"
            if len(keys):
                index.build(draft, keys, vectors, _threads())
            self._take_up(gallery, draft, place, int(keys[-1]) if len(keys) else 0)
        logger.info("gallery %d: %d vectors indexed in %.1f s", number, len(keys), time.monotonic() - begun)
        return True

    def erase(self) -> None:
        """Overwrite in index files what was deleted, and empty the log of the tables; on disk when it ends."""
        with self._database.reading() as connection:
            pending = changes.pending_removals(connection)
        for path in {self._path(number, epoch) for number, epoch, _, _ in pending}:
            keys = [key for number, epoch, _, key in pending if self._path(number, epoch) == path]
            self._forget(path, np.array(keys, np.int64))
        if pending:
            with self._database.writing() as connection:
                changes.settle_removals(connection, [place for _, _, place, _ in pending])
        if not self._database.clear_log():
            logger.warning(
                "galleries: the log of the tables is read by somebody; what was deleted is overwritten later"
            )

    def delete_hidden(self) -> None:
        """Delete all of the galleries that are hidden, also those whose deletion failed on its way: first their files,
        then their rows, a part at a time."""
        with self._database.reading() as connection:
            hidden = catalogue.hidden(connection)
        for gallery in hidden:
            self._file(gallery).unlink(missing_ok=True)
            more = True
            while more:
                with self._database.writing() as connection:
                    more = catalogue.delete_some(connection, gallery.number)
        self.erase()

    def resume(self) -> None:
        """Finish what a process that was killed has begun: deletions, and files that nobody speaks of."""
        self.delete_hidden()
        with lock(self._folder, wait=False) as alone:
            if alone:
                self._sweep()

    def _wants(self, gallery: Gallery) -> bool:
        return gallery.vectors > self._exact and index.available()

    def _file(self, gallery: Gallery) -> Path:
        return self._path(gallery.number, gallery.epoch)

    def _path(self, number: int, epoch: int) -> Path:
        return self._folder / f"{number}-{epoch}.index"

    def _take_up(self, gallery: Gallery, draft: Path, place: int, key: int) -> None:
        """Begin an epoch with a new file, or with none, in which nothing is that was removed since it was begun."""
        with self._database.writing() as connection:
            now = catalogue.numbered(connection, gallery.number)
            if now is None or now.epoch != gallery.epoch:
                draft.unlink(missing_ok=True)
                return
            if key:
                removed = [key for _, key in changes.removals_behind(connection, gallery.number, place)]
                index.forget(draft, np.array(removed, np.int64))
            begun = changes.begin_epoch(connection, now, key)
            if key:
                draft.rename(self._file(begun))
        self._file(gallery).unlink(missing_ok=True)

    def _forget(self, path: Path, keys: Keys) -> None:
        """A file that cannot be cleared of what was deleted is deleted: it is made anew."""
        try:
            index.forget(path, keys)
        except (RuntimeError, ImportError):
            path.unlink(missing_ok=True)

    def _sweep(self) -> None:
        with self._database.reading() as connection:
            known = {self._file(gallery).name for gallery in catalogue.all_of_them(connection)}
        for path in (*self._folder.glob("*.index"), *self._folder.glob("*.draft")):
            if path.name not in known:
                path.unlink(missing_ok=True)


def _snapshot(connection: sqlite3.Connection, gallery: Gallery, wanted: bool) -> tuple[int, Keys, Halves]:
    """The place of the newest removal, and all vectors of a gallery with their keys."""
    place = changes.last_removal(connection, gallery.number)
    keys = np.zeros(gallery.vectors if wanted else 0, np.int64)
    vectors = np.zeros((len(keys), gallery.dimensions), np.float16)
    if wanted:
        rows, start = changes.vectors_behind(connection, gallery.number, 0), 0
        while part := rows.fetchmany(_AT_ONCE):
            stop = start + len(part)
            keys[start:stop] = [key for key, _ in part]
            vectors[start:stop] = from_stored([blob for _, blob in part], gallery.dimensions)
            start = stop
    return place, keys, vectors


def _threads() -> int:
    """Half of the cores: requests are answered meanwhile."""
    return max(1, (os.cpu_count() or 1) // 2)
