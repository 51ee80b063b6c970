"""Deleting really deletes: no file holds a byte of what was, in any way that deleting may be interrupted."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from app.galleries.galleries import Galleries
from tests.galleries.conftest import EXACT, ME, SOURCE, Open, fill, nearest, settled, some

VECTORS = some(EXACT + 50)
GONE = 7
Delete = Callable[[Galleries], None]


def traces(folder: Path, vector: np.ndarray, words: tuple[bytes, ...] = ()) -> list[str]:
    """The files that hold a vector, in half or single precision, or one of these words."""
    looked_for = (vector.astype("<f2").tobytes(), vector.astype("<f4").tobytes(), *words)
    return [path.name for path in folder.iterdir() if any(part in path.read_bytes() for part in looked_for)]


def replace(galleries: Galleries) -> None:
    galleries.put(ME, "faces", None, SOURCE, f"id{GONE}", some(1, seed=9), {})


DELETES: dict[str, Delete] = {
    "id": lambda galleries: galleries.delete_entry(ME, "faces", None, f"id{GONE}"),
    "gallery": lambda galleries: galleries.delete(ME, "faces", None),
    "replaced": replace,
}


@pytest.mark.parametrize("delete", DELETES.values(), ids=list(DELETES))
@pytest.mark.parametrize("count", [20, EXACT + 50], ids=["exact", "indexed"])
def test_the_bytes_of_a_deleted_vector_are_in_no_file(
    folder: Path, open_galleries: Open, count: int, delete: Delete
) -> None:
    galleries, other = open_galleries(), open_galleries()
    fill(galleries, VECTORS[:count])
    settled(galleries)
    galleries.put(ME, "faces", None, SOURCE, f"id{GONE}", VECTORS[GONE][None], {"secret": "Anna Berta"})
    nearest(galleries, VECTORS[GONE])
    settled(galleries)
    assert nearest(other, VECTORS[GONE])[0] == f"id{GONE}", "another process has the files open"
    assert traces(folder, VECTORS[GONE], (b"Anna Berta",))
    delete(galleries)
    assert traces(folder, VECTORS[GONE], (b"Anna Berta",)) == []


def test_a_vector_in_an_index_file_is_overwritten_there_and_its_neighbours_stay(
    galleries: Galleries, folder: Path
) -> None:
    fill(galleries, VECTORS)
    settled(galleries)
    gallery = galleries.gallery(ME, "faces")
    assert gallery.vectors - gallery.recent > GONE
    (index,) = folder.glob("*.index")
    before = index.read_bytes()
    half = VECTORS[GONE].astype("<f2").tobytes()
    assert before.count(half) == 1
    galleries.delete_entry(ME, "faces", None, f"id{GONE}")
    after = index.read_bytes()
    assert len(after) == len(before)
    changed = np.flatnonzero(np.frombuffer(after, np.uint8) != np.frombuffer(before, np.uint8))
    assert 0 < len(changed) <= len(half) + 8
    for number in (GONE - 1, GONE + 1):
        assert nearest(galleries, VECTORS[number])[0] == f"id{number}"


def test_two_ids_with_the_same_vector_are_deleted_one_by_one(galleries: Galleries) -> None:
    fill(galleries, VECTORS)
    settled(galleries)
    galleries.put(ME, "faces", None, SOURCE, "twin", VECTORS[GONE][None], {})
    galleries.delete_entry(ME, "faces", None, f"id{GONE}")
    assert nearest(galleries, VECTORS[GONE])[0] == "twin"


def test_a_deletion_that_was_killed_is_finished_by_whoever_starts_next(open_galleries: Open, folder: Path) -> None:
    killed = open_galleries()
    fill(killed, VECTORS)
    settled(killed)
    with killed._database.writing() as connection:  # as far as a process came that was killed: the rows are gone
        connection.execute("INSERT INTO removals (gallery, key, pending) VALUES (1, ?, 1)", (GONE + 1,))
        connection.execute("DELETE FROM vectors WHERE key = ?", (GONE + 1,))
        connection.execute("DELETE FROM entries WHERE id = ?", (f"id{GONE}",))
    (folder / "1-99.index").write_bytes(b"left by a process that was killed")
    (folder / "1.draft").write_bytes(b"the same")
    assert traces(folder, VECTORS[GONE])
    restarted = open_galleries()
    restarted.resume()
    assert traces(folder, VECTORS[GONE]) == []
    assert [path.name for path in folder.glob("1*")] == ["1-1.index"]


def test_a_gallery_whose_deletion_failed_half_way_is_deleted_with_the_next_one(
    galleries: Galleries, folder: Path
) -> None:
    fill(galleries, VECTORS[:30])
    fill(galleries, VECTORS[30:60], "others")
    with galleries._database.writing() as connection:  # as where the disk was full after that
        connection.execute("UPDATE galleries SET name = NULL WHERE name = 'faces'")
    galleries.delete(ME, "others", None)
    assert traces(folder, VECTORS[GONE]) == []
    assert galleries.total() == 0


def test_a_gallery_that_was_half_deleted_is_deleted_by_whoever_starts_next(open_galleries: Open, folder: Path) -> None:
    killed = open_galleries()
    fill(killed, VECTORS[:30])
    with killed._database.writing() as connection:
        connection.execute("UPDATE galleries SET name = NULL")
    assert killed.listed(ME) == []
    open_galleries().resume()
    assert traces(folder, VECTORS[GONE]) == []
    assert killed.total() == 0
