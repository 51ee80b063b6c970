"""Vectors as they come and go, in the tables of `database`: how whoever holds some of them learns of it.

What was added is found by its key, which rises; of what was removed a row is left (`removals`) until the next epoch of
its gallery. Plain functions, inside a transaction of the caller.
"""

import json
from collections.abc import Iterable
from dataclasses import replace
from sqlite3 import Connection, Cursor

from app.galleries.records import Gallery


def remove(connection: Connection, gallery: Gallery, number: int) -> None:
    """Delete an entry, and leave word of its vectors for whoever holds them: index files and other processes."""
    keys = [key for (key,) in connection.execute("SELECT key FROM vectors WHERE entry = ?", (number,))]
    connection.executemany(
        "INSERT INTO removals (gallery, key, pending) VALUES (?, ?, ?)",
        [(gallery.number, key, key <= gallery.indexed) for key in keys],
    )
    connection.execute("DELETE FROM vectors WHERE entry = ?", (number,))
    connection.execute("DELETE FROM entries WHERE number = ?", (number,))
    connection.execute(
        "UPDATE galleries SET entries = entries - 1, vectors = vectors - ?, recent = recent - ?,"
        " forgotten = forgotten + ?, revision = revision + 1 WHERE number = ?",
        (len(keys), sum(key > gallery.indexed for key in keys), len(keys), gallery.number),
    )


def begin_epoch(connection: Connection, gallery: Gallery, indexed: int) -> Gallery:
    """Have all who hold something of a gallery read it anew: the index of the new epoch has the vectors up to a key."""
    (recent,) = connection.execute(
        "SELECT count(*) FROM vectors WHERE gallery = ? AND key > ?", (gallery.number, indexed)
    ).fetchone()
    connection.execute("DELETE FROM removals WHERE gallery = ?", (gallery.number,))
    connection.execute(
        "UPDATE galleries SET epoch = epoch + 1, revision = revision + 1, indexed = ?, recent = ?, forgotten = 0"
        " WHERE number = ?",
        (indexed, recent, gallery.number),
    )
    return replace(gallery, epoch=gallery.epoch + 1, indexed=indexed, recent=recent, forgotten=0)


def vectors_behind(connection: Connection, gallery: int, key: int) -> Cursor:
    """Key and bytes of the vectors with keys behind one, in their order."""
    return connection.execute(
        "SELECT key, vector FROM vectors WHERE gallery = ? AND key > ? ORDER BY key", (gallery, key)
    )


def removals_behind(connection: Connection, gallery: int, place: int) -> list[tuple[int, int]]:
    """Place and key of the vectors that were removed behind a place."""
    return connection.execute(
        "SELECT place, key FROM removals WHERE gallery = ? AND place > ? ORDER BY place", (gallery, place)
    ).fetchall()


def pending_removals(connection: Connection) -> list[tuple[int, int, int, int]]:
    """Gallery, epoch, place and key of what has to be overwritten in index files."""
    return connection.execute(
        "SELECT removals.gallery, galleries.epoch, removals.place, removals.key FROM removals"
        " JOIN galleries ON galleries.number = removals.gallery WHERE removals.pending"
    ).fetchall()


def settle_removals(connection: Connection, places: list[int]) -> None:
    """Note what was overwritten."""
    connection.executemany("UPDATE removals SET pending = 0 WHERE place = ?", [(place,) for place in places])


def last_removal(connection: Connection, gallery: int) -> int:
    """The place of the newest removal, 0 where there is none."""
    (place,) = connection.execute(
        "SELECT coalesce(max(place), 0) FROM removals WHERE gallery = ?", (gallery,)
    ).fetchone()
    return int(place)


def identities(connection: Connection, keys: Iterable[int]) -> dict[int, tuple[str, str]]:
    """Id and metadata (JSON) by the keys of vectors that are there."""
    rows = connection.execute(
        "SELECT vectors.key, entries.id, entries.metadata FROM vectors"
        " JOIN entries ON entries.number = vectors.entry WHERE vectors.key IN (SELECT value FROM json_each(?))",
        (json.dumps(list(keys)),),
    )
    return {key: (identity, metadata) for key, identity, metadata in rows}
