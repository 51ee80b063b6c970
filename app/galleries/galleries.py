"""All galleries, as one process serves them: what is asked of them, whole calls at a time. Calls block: threads make
them."""

import json
import logging
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from app.errors import GalleryNotFound, ImagoError, InternalError
from app.galleries import catalogue, changes
from app.galleries.database import Database
from app.galleries.holding import Holding
from app.galleries.records import Entry, Gallery, Match, Source, Vectors, Who, as_stored
from app.galleries.upkeep import EXACT, Upkeep

logger = logging.getLogger("imago.galleries")

FILE: Final = "galleries.sqlite3"
_HELD: Final = 2**28
"""Bytes of vectors that a process holds; the gallery that was searched last is held, however large."""
_PATIENCE: Final = 10.0
"""Seconds that a stop waits for an index that is being made; what is half done is made again later."""


class Galleries:
    """The galleries of one folder, which other processes may serve as well."""

    def __init__(self, folder: Path, max_vectors: int, exact: int = EXACT) -> None:
        """Open a folder, which is made where there is none; `exact` vectors are searched without an index.

        Raises:
            InvalidSettings: it cannot be used.
        """
        self._database = Database(folder / FILE)
        self._upkeep = Upkeep(folder, self._database, exact)
        self._max_vectors = max_vectors
        self._holdings: OrderedDict[int, Holding] = OrderedDict()
        self._lock = threading.Lock()
        self._renewing: threading.Thread | None = None

    def listed(self, who: Who) -> list[Gallery]:
        """The galleries that exist for somebody."""
        with self._database.reading() as connection:
            return catalogue.listed(connection, who)

    def gallery(self, who: Who, name: str, owner: str | None = None) -> Gallery:
        """One of them. Raises as `catalogue.find`."""
        with self._database.reading() as connection:
            return catalogue.find(connection, who, name, owner)

    def entries(self, who: Who, name: str, owner: str | None, after: str, count: int) -> tuple[Gallery, list[Entry]]:
        """A gallery and so many of its ids, those behind one. Raises as `gallery`."""
        with self._database.reading() as connection:
            gallery = catalogue.find(connection, who, name, owner)
            return gallery, catalogue.entries(connection, gallery, after, count)

    def entry(self, who: Who, name: str, owner: str | None, identity: str) -> Entry:
        """One id. Raises as `gallery`."""
        with self._database.reading() as connection:
            return catalogue.entry(connection, catalogue.find(connection, who, name, owner), identity)

    def configure(
        self, who: Who, name: str, owner: str | None, source: Source | None, threshold: float | None
    ) -> Gallery:
        """Set the threshold of a gallery, which is made if it is not there and a `source` is given.

        Raises:
            GalleryConflict, GalleryFull, GalleryNotFound: see `app.errors`.
        """
        with self._database.writing() as connection:
            gallery = _found_or_made(connection, who, name, owner, source)
            catalogue.set_threshold(connection, gallery, threshold)
            return catalogue.find(connection, who, name, gallery.owner)

    def put(
        self, who: Who, name: str, owner: str | None, source: Source, identity: str, vectors: Vectors,
        metadata: Mapping[str, Any],
    ) -> Entry:  # fmt: skip
        """Set the vectors of an id, float [N,D] of length 1, in a gallery that is made if it is not there.

        Raises:
            GalleryConflict, GalleryFull: see `app.errors`.
        """
        with self._database.writing() as connection:
            gallery = _found_or_made(connection, who, name, owner, source)
            replaced = catalogue.put(connection, gallery, identity, as_stored(vectors), metadata, self._max_vectors)
            entry = catalogue.entry(connection, gallery, identity)
            gallery = catalogue.find(connection, who, name, gallery.owner)
        if replaced:
            self._upkeep.erase()
        self._tend(gallery)
        return entry

    def delete_entry(self, who: Who, name: str, owner: str | None, identity: str) -> None:
        """Delete an id: when this ends its vectors are in no file. Raises as `gallery`."""
        with self._database.writing() as connection:
            gallery = catalogue.find(connection, who, name, owner)
            catalogue.delete_entry(connection, gallery, identity)
        self._upkeep.erase()

    def delete(self, who: Who, name: str, owner: str | None) -> None:
        """Delete a gallery and all that is in it, from every file. Raises as `gallery`."""
        with self._database.writing() as connection:
            gallery = catalogue.find(connection, who, name, owner)
            catalogue.hide(connection, gallery)
        self._upkeep.delete_hidden()
        with self._lock:
            self._holdings.pop(gallery.number, None)

    def search(
        self, who: Who, name: str, owner: str | None, source: Source, vectors: Vectors, count: int
    ) -> tuple[Gallery, list[list[Match]]]:
        """A gallery, and for each row of float [N,D], of length 1, its nearest ids, nearest first, at most `count`.

        Raises:
            GalleryConflict, GalleryNotFound: see `app.errors`.
        """
        with self._database.reading() as connection:
            gallery = catalogue.find(connection, who, name, owner)
            catalogue.check_source(gallery, source)
            holding = self._holding(gallery)
            holding.follow(connection, gallery)
        found = [self._matches(holding, vector, count) if gallery.vectors else [] for vector in vectors]
        self._tend(gallery)
        return gallery, found

    def total(self) -> int:
        """Vectors of all galleries. Raises `InternalError` where they cannot be read."""
        try:
            with self._database.reading() as connection:
                return catalogue.total(connection)
        except sqlite3.Error:
            logger.exception("the vectors of galleries cannot be counted")
            raise InternalError from None

    def resume(self) -> None:
        """Finish what a process that was killed has begun to delete; what fails is tried again by the next deletion."""
        try:
            self._upkeep.resume()
        except (ImagoError, OSError, sqlite3.Error):
            logger.exception("something that was deleted is still in the files of galleries")

    def close(self) -> None:
        """Let go of the files; no other call may run."""
        renewing = self._renewing
        if renewing is not None:
            renewing.join(_PATIENCE)
            if renewing.is_alive():
                return
        self._database.close()

    def _holding(self, gallery: Gallery) -> Holding:
        """What is held of a gallery; where that is too much of all of them, those searched longest ago are let go."""
        with self._lock:
            holding = self._holdings.setdefault(gallery.number, Holding(self._upkeep.open))
            self._holdings.move_to_end(gallery.number)
            while len(self._holdings) > 1 and sum(one.size for one in self._holdings.values()) > _HELD:
                self._holdings.popitem(last=False)
            return holding

    def _matches(self, holding: Holding, vector: Vectors, count: int) -> list[Match]:
        """Ids by the nearest of their vectors; what was deleted by now is left out, whatever was held of it."""
        wanted = 4 * count
        while True:
            near = holding.nearest(vector, wanted)[:wanted]
            with self._database.reading() as connection:
                known = changes.identities(connection, [key for key, _ in near])
            best: dict[str, tuple[float, str]] = {}
            for key, score in near:
                if key in known:
                    identity, metadata = known[key]
                    best.setdefault(identity, (score, metadata))
            if len(best) >= count or len(near) < wanted:
                return [_match(identity, *rest) for identity, rest in list(best.items())[:count]]
            wanted *= 8

    def _tend(self, gallery: Gallery) -> None:
        """Have the index of a gallery made, if that is due, while it is searched as it is."""
        if not self._upkeep.is_due(gallery):
            return
        with self._lock:
            if self._renewing is None or not self._renewing.is_alive():
                self._renewing = threading.Thread(
                    target=self._renew, args=(gallery.number,), name="imago-galleries-index", daemon=True
                )
                self._renewing.start()

    def _renew(self, number: int) -> None:
        try:
            self._upkeep.renew(number)
        except (ImagoError, OSError, RuntimeError, sqlite3.Error):
            logger.exception("gallery %d: no index could be made", number)


def _found_or_made(
    connection: sqlite3.Connection, who: Who, name: str, owner: str | None, source: Source | None
) -> Gallery:
    try:
        gallery = catalogue.find(connection, who, name, owner)
    except GalleryNotFound:
        if source is None or owner not in (None, who.owner):
            raise
        return catalogue.create(connection, who, name, source)
    if source is not None:
        catalogue.check_source(gallery, source)
    return gallery


def _match(identity: str, score: float, metadata: str) -> Match:
    return Match(identity, round(float(np.clip(score, -1, 1)), 4), json.loads(metadata))
