"""What one process holds of one gallery: its index file, and in memory the vectors that are not in it.

Those are searched exactly. `follow` brings it up to what SQLite says, by what was added and removed since.
"""

import threading
from collections.abc import Callable
from sqlite3 import Connection
from typing import Final

import numpy as np

from app.galleries import changes
from app.galleries.index import Index, Keys
from app.galleries.records import Gallery, Vectors, from_stored

_LEAST: Final = 256
_AT_ONCE: Final = 10_000

OpenIndex = Callable[[Gallery], Index | None]


class Holding:
    """The vectors of one gallery, as of some revision of it."""

    def __init__(self, open_index: OpenIndex) -> None:
        self._open_index = open_index
        self._lock = threading.Lock()
        self._epoch = self._revision = -1
        self._removal = 0
        self._index: Index | None = None
        self._count = 0
        self._keys: Keys = np.empty(0, np.int64)
        self._rows: Vectors = np.empty((0, 0), np.float32)

    @property
    def size(self) -> int:
        """Bytes of vectors in memory."""
        return self._rows.nbytes

    def follow(self, connection: Connection, gallery: Gallery) -> None:
        """Become what the tables say of a gallery at the moment of the connection's transaction; one that was read
        before what is here already is left alone."""
        with self._lock:
            if gallery.revision <= self._revision:
                return
            if gallery.epoch != self._epoch:
                self._begin(gallery)
            after = int(self._keys[self._count - 1]) if self._count else gallery.indexed
            self._add(connection, gallery, after)
            self._take_away(connection, gallery)
            self._epoch, self._revision = gallery.epoch, gallery.revision

    def nearest(self, vector: Vectors, count: int) -> list[tuple[int, float]]:
        """Key and cosine of the vectors nearest to float [D], nearest first; at most `count` of those in memory and as
        many of the index. Some may have been removed since."""
        with self._lock:  # what is read here is never changed, but where a vector is overwritten with zeros
            keys, rows, index = self._keys[: self._count], self._rows[: self._count], self._index
        scores = rows @ vector if len(rows) else np.empty(0, np.float32)
        best = np.argpartition(-scores, count - 1)[:count] if len(scores) > count else np.arange(len(scores))
        found = [(keys[best], scores[best])]
        if index is not None:
            found.append(index.search(vector, count))
        pairs = [pair for part in found for pair in zip(part[0].tolist(), part[1].tolist(), strict=True)]
        return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))

    def _begin(self, gallery: Gallery) -> None:
        self._index = self._open_index(gallery) if gallery.indexed else None
        self._count, self._removal = 0, 0
        self._keys = np.empty(0, np.int64)
        self._rows = np.empty((0, gallery.dimensions), np.float32)

    def _add(self, connection: Connection, gallery: Gallery, after: int) -> None:
        if not gallery.dimensions:
            return
        if not self._count and gallery.indexed and self._index is None:
            after = 0  # the index cannot be read: all is searched exactly until there is another
        added = changes.vectors_behind(connection, gallery.number, after)
        while part := added.fetchmany(_AT_ONCE):
            keys = np.array([key for key, _ in part], np.int64)
            rows = from_stored([blob for _, blob in part], gallery.dimensions)
            self._make_room(len(keys), gallery.dimensions)
            self._keys[self._count : self._count + len(keys)] = keys
            self._rows[self._count : self._count + len(keys)] = rows
            self._count += len(keys)

    def _make_room(self, more: int, dimensions: int) -> None:
        needed = self._count + more
        if needed <= len(self._keys) and self._rows.shape[1] == dimensions:
            return
        room = max(_LEAST, needed, len(self._keys) * 3 // 2)
        keys, rows = np.zeros(room, np.int64), np.zeros((room, dimensions), np.float32)
        keys[: self._count] = self._keys[: self._count]
        if self._count:
            rows[: self._count] = self._rows[: self._count]
        self._keys, self._rows = keys, rows

    def _take_away(self, connection: Connection, gallery: Gallery) -> None:
        """Overwrite what was removed: rows stay where they are, and zeros are never nearest to anything."""
        removed = changes.removals_behind(connection, gallery.number, self._removal)
        if not removed:
            return
        self._removal = removed[-1][0]
        self._rows[: self._count][np.isin(self._keys[: self._count], [key for _, key in removed])] = 0
