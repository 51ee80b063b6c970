"""Galleries and their entries in the tables of `database`: plain functions, inside a transaction of the caller."""

import json
import time
from collections.abc import Mapping
from sqlite3 import Connection
from typing import Any, Final

from app.errors import GalleryConflict, GalleryFull, GalleryNotFound, InvalidOption
from app.galleries import changes
from app.galleries.records import MAX_GALLERIES, MAX_OWN_GALLERIES, Entry, Gallery, Halves, Source, Who

_GALLERY: Final = (
    "SELECT number, owner, name, model, version, digest, dimensions, threshold, entries, vectors, created, revision,"
    " epoch, indexed, recent, forgotten FROM galleries"
)
_DELETED_AT_ONCE: Final = 5000
"""Entries in one transaction: others may write between two."""


def find(connection: Connection, who: Who, name: str, owner: str | None = None) -> Gallery:
    """A gallery by its name: one's own, or as an administrator any; of several of one name `owner` says which.

    Raises:
        GalleryNotFound: there is none, or it is somebody else's.
        InvalidOption: an administrator has to say whose.
    """
    if not who.admin and owner not in (None, who.owner):
        raise GalleryNotFound(name)
    if not who.admin or owner is not None:
        chosen = who.owner if owner is None else owner
        rows = connection.execute(f"{_GALLERY} WHERE name = ? AND owner = ?", (name, chosen)).fetchall()
    else:
        rows = connection.execute(f"{_GALLERY} WHERE name = ?", (name,)).fetchall()
        rows = [row for row in rows if row[1] == who.owner] or rows
    if not rows:
        raise GalleryNotFound(name)
    if len(rows) > 1:
        raise InvalidOption(f"owner: {len(rows)} keys have a gallery of this name: say which by the id of its key.")
    return _gallery(rows[0])


def listed(connection: Connection, who: Who) -> list[Gallery]:
    """The galleries that exist for somebody, by name."""
    rows = connection.execute(
        f"{_GALLERY} WHERE name IS NOT NULL AND (? OR owner = ?) ORDER BY name, owner", (who.admin, who.owner)
    )
    return [_gallery(row) for row in rows]


def create(connection: Connection, who: Who, name: str, source: Source) -> Gallery:
    """An empty gallery. Raises `GalleryFull` where there are too many already."""
    everybody, own = connection.execute(
        "SELECT count(*), coalesce(sum(owner = ?), 0) FROM galleries", (who.owner,)
    ).fetchone()
    if everybody >= MAX_GALLERIES or (who.owner and own >= MAX_OWN_GALLERIES):
        raise GalleryFull(f"There are {own} galleries of yours, {everybody} of all keys, and no room: delete some.")
    values = (who.owner, name, source.model, source.version, source.digest, time.time())
    connection.execute(
        "INSERT INTO galleries (owner, name, model, version, digest, created) VALUES (?, ?, ?, ?, ?, ?)", values
    )
    return find(connection, Who(who.owner), name)


def set_threshold(connection: Connection, gallery: Gallery, threshold: float | None) -> None:
    """From which score on somebody is known, where a search does not say."""
    connection.execute("UPDATE galleries SET threshold = ? WHERE number = ?", (threshold, gallery.number))


def check_source(gallery: Gallery, source: Source) -> None:
    """Raises GalleryConflict where a gallery holds other embeddings than these."""
    kept = gallery.source
    if kept == source:
        return
    if (kept.model, kept.version) == (source.model, source.version):
        raise GalleryConflict(
            f"Gallery {gallery.name!r} was filled by another file of {kept.model} version {kept.version}: put that file"
            " back, or delete the gallery and put its pictures anew."
        )
    raise conflict(gallery, f"not of {source.model} version {source.version}")


def conflict(gallery: Gallery, but: str) -> GalleryConflict:
    """What is answered where a gallery cannot be asked as it is meant to be."""
    kept = gallery.source
    return GalleryConflict(
        f"Gallery {gallery.name!r} holds embeddings of {kept.model} version {kept.version}, {but}: have that version"
        " loaded (versions in serving.toml), or put the pictures into a new gallery."
    )


def entry(connection: Connection, gallery: Gallery, identity: str) -> Entry:
    """One id. Raises `GalleryNotFound`."""
    row = connection.execute(
        "SELECT id, vectors, metadata, created, changed FROM entries WHERE gallery = ? AND id = ?",
        (gallery.number, identity),
    ).fetchone()
    if row is None:
        raise GalleryNotFound(gallery.name, identity)
    return _entry(row)


def entries(connection: Connection, gallery: Gallery, after: str, count: int) -> list[Entry]:
    """The ids behind one, in their order, so many of them."""
    rows = connection.execute(
        "SELECT id, vectors, metadata, created, changed FROM entries WHERE gallery = ? AND id > ? ORDER BY id LIMIT ?",
        (gallery.number, after, count),
    )
    return [_entry(row) for row in rows]


def put(
    connection: Connection, gallery: Gallery, identity: str, vectors: Halves, metadata: Mapping[str, Any], room: int
) -> bool:
    """Set the vectors of an id, in the place of those that it had; whether it had some.

    Raises:
        GalleryConflict: the gallery holds vectors of another length.
        GalleryFull: all galleries together would hold more than `room` vectors.
    """
    if gallery.dimensions not in (0, vectors.shape[1]):
        raise GalleryConflict(f"Gallery {gallery.name!r} holds vectors of {gallery.dimensions} numbers.")
    old = connection.execute(
        "SELECT number, vectors, created FROM entries WHERE gallery = ? AND id = ?", (gallery.number, identity)
    ).fetchone()
    if total(connection) + len(vectors) - (old[1] if old else 0) > room:
        raise GalleryFull(f"All galleries together hold at most {room} vectors: delete some.")
    now = time.time()
    if old:
        changes.remove(connection, gallery, old[0])
    number = connection.execute(
        "INSERT INTO entries (gallery, id, vectors, metadata, created, changed) VALUES (?, ?, ?, ?, ?, ?)",
        (gallery.number, identity, len(vectors), json.dumps(metadata), old[2] if old else now, now),
    ).lastrowid
    connection.executemany(
        "INSERT INTO vectors (gallery, entry, vector) VALUES (?, ?, ?)",
        [(gallery.number, number, row.tobytes()) for row in vectors],
    )
    connection.execute(
        "UPDATE galleries SET dimensions = ?, entries = entries + 1, vectors = vectors + ?, recent = recent + ?,"
        " revision = revision + 1 WHERE number = ?",
        (vectors.shape[1], len(vectors), len(vectors), gallery.number),
    )
    return old is not None


def delete_entry(connection: Connection, gallery: Gallery, identity: str) -> None:
    """Delete an id. Raises `GalleryNotFound`."""
    row = connection.execute(
        "SELECT number FROM entries WHERE gallery = ? AND id = ?", (gallery.number, identity)
    ).fetchone()
    if row is None:
        raise GalleryNotFound(gallery.name, identity)
    changes.remove(connection, gallery, row[0])


def hide(connection: Connection, gallery: Gallery) -> None:
    """Begin to delete a gallery: from now on nobody finds it."""
    connection.execute("UPDATE galleries SET name = NULL, revision = revision + 1 WHERE number = ?", (gallery.number,))


def hidden(connection: Connection) -> list[Gallery]:
    """Galleries whose deletion has begun."""
    return [_gallery(row) for row in connection.execute(f"{_GALLERY} WHERE name IS NULL")]


def all_of_them(connection: Connection) -> list[Gallery]:
    """Every gallery, also one whose deletion has begun."""
    return [_gallery(row) for row in connection.execute(_GALLERY)]


def numbered(connection: Connection, number: int) -> Gallery | None:
    """A gallery by its number; None where it was deleted, or that has begun."""
    row = connection.execute(f"{_GALLERY} WHERE number = ? AND name IS NOT NULL", (number,)).fetchone()
    return None if row is None else _gallery(row)


def delete_some(connection: Connection, gallery: int) -> bool:
    """Delete a part of a gallery that is hidden; whether there is more of it."""
    chosen = (gallery, _DELETED_AT_ONCE)
    connection.execute(
        "DELETE FROM vectors WHERE entry IN (SELECT number FROM entries WHERE gallery = ? ORDER BY number LIMIT ?)",
        chosen,
    )
    found = connection.execute(
        "DELETE FROM entries WHERE number IN (SELECT number FROM entries WHERE gallery = ? ORDER BY number LIMIT ?)",
        chosen,
    ).rowcount
    if found:
        return True
    connection.execute("DELETE FROM removals WHERE gallery = ?", (gallery,))
    connection.execute("DELETE FROM galleries WHERE number = ?", (gallery,))
    return False


def total(connection: Connection) -> int:
    """Vectors of all galleries."""
    (count,) = connection.execute("SELECT coalesce(sum(vectors), 0) FROM galleries").fetchone()
    return int(count)


def _gallery(row: tuple[Any, ...]) -> Gallery:
    number, owner, name, model, version, digest, *rest = row
    return Gallery(number, owner, name, Source(model, version, digest), *rest)


def _entry(row: tuple[Any, ...]) -> Entry:
    identity, vectors, metadata, created, changed = row
    return Entry(identity, vectors, json.loads(metadata), created, changed)
