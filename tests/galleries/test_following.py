"""Several processes on one folder: each sees at once what the others did, and none undoes it."""

import multiprocessing
import threading
from pathlib import Path

import pytest

from app.errors import GalleryNotFound
from app.galleries.galleries import Galleries
from tests.galleries.conftest import EXACT, ME, SOURCE, Open, exactly, fill, nearest, settled, some

VECTORS = some(EXACT + 100)


def test_what_one_puts_or_deletes_another_finds_or_misses_at_once(open_galleries: Open) -> None:
    one, other = open_galleries(), open_galleries()
    fill(one, VECTORS[:10])
    assert nearest(other, VECTORS[3])[0] == "id3"
    one.put(ME, "faces", None, SOURCE, "new", some(1, seed=4), {})
    assert nearest(other, some(1, seed=4)[0])[0] == "new"
    one.put(ME, "faces", None, SOURCE, "id3", some(1, seed=5), {"moved": True})
    assert nearest(other, some(1, seed=5)[0])[0] == "id3"
    other.delete_entry(ME, "faces", None, "new")
    assert "new" not in nearest(one, some(1, seed=4)[0], 20)
    one.delete(ME, "faces", None)
    with pytest.raises(GalleryNotFound):
        nearest(other, VECTORS[0])
    fill(other, VECTORS[10:12])
    assert sorted(nearest(one, VECTORS[0])) == ["id0", "id1"], "a new gallery of the same name is another"


def test_an_index_that_one_makes_is_used_by_the_others(open_galleries: Open) -> None:
    one, other = open_galleries(), open_galleries()
    fill(one, VECTORS[:50])
    assert nearest(other, VECTORS[3])[0] == "id3"
    fill(one, VECTORS)
    settled(one)
    other.delete_entry(ME, "faces", None, "id5")
    for number in (3, 60, EXACT + 99):
        assert nearest(other, VECTORS[number])[0] == f"id{number}"
    assert "id5" not in nearest(one, VECTORS[5], 20)
    assert "id5" not in nearest(other, VECTORS[5], 20)


def test_what_is_deleted_while_an_index_is_made_is_not_in_it(open_galleries: Open, folder: Path) -> None:
    one = open_galleries()
    fill(one, VECTORS)
    for number in range(20):
        one.delete_entry(ME, "faces", None, f"id{number}")
    settled(one)
    for path in folder.iterdir():
        assert not any(VECTORS[number].astype("<f2").tobytes() in path.read_bytes() for number in range(20))


def write(folder: Path, part: int, barrier: "multiprocessing.synchronize.Barrier") -> None:
    galleries = Galleries(folder, 5000, exact=EXACT)
    barrier.wait()
    for number in range(part, EXACT + 100, 3):
        galleries.put(ME, "faces", None, SOURCE, f"id{number}", VECTORS[number][None], {})
        if number % 2:
            galleries.delete_entry(ME, "faces", None, f"id{number}")
    settled(galleries)
    galleries.close()


def test_processes_that_write_at_once_lose_nothing(open_galleries: Open, folder: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(3)
    writers = [spawn.Process(target=write, args=(folder, part, barrier)) for part in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    galleries = open_galleries()
    gallery, entries = galleries.entries(ME, "faces", None, "", 1000)
    assert {entry.id for entry in entries} == {f"id{number}" for number in range(0, EXACT + 100, 2)}
    assert (gallery.entries, gallery.vectors) == (len(entries), len(entries))
    assert nearest(galleries, VECTORS[10])[0] == "id10"


def test_a_process_that_is_killed_loses_nothing_that_was_answered(open_galleries: Open, folder: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    told = spawn.Queue()
    writer = spawn.Process(target=write_for_ever, args=(folder, told))
    writer.start()
    answered = [told.get(timeout=30) for _ in range(20)]
    writer.kill()
    writer.join(30)
    galleries = open_galleries()
    galleries.resume()
    for number in answered:
        assert nearest(galleries, VECTORS[number])[0] == f"id{number}"
    galleries.put(ME, "faces", None, SOURCE, "after", some(1, seed=8), {})


def write_for_ever(folder: Path, told: "multiprocessing.Queue[int]") -> None:
    galleries = Galleries(folder, 5000, exact=EXACT)
    for number in range(EXACT):
        galleries.put(ME, "faces", None, SOURCE, f"id{number}", VECTORS[number][None], {})
        told.put(number)
    threading.Event().wait()


def test_threads_that_search_while_others_write_never_meet_a_deleted_id(galleries: Galleries) -> None:
    fill(galleries, VECTORS[:60])
    failures: list[str] = []
    stop = threading.Event()

    def search() -> None:
        while not stop.is_set():
            for number in range(60):
                known = {entry.id for entry in galleries.entries(ME, "faces", None, "", 1000)[1]}
                found = nearest(galleries, VECTORS[number], 60)
                failures.extend(identity for identity in found if identity not in known)

    searching = [threading.Thread(target=search) for _ in range(2)]
    for thread in searching:
        thread.start()
    for number in range(0, 60, 2):
        galleries.delete_entry(ME, "faces", None, f"id{number}")
    stop.set()
    for thread in searching:
        thread.join()
    assert failures == []
    assert (
        nearest(galleries, VECTORS[1], 3)
        == [identity for identity in exactly(VECTORS[:60], VECTORS[1], 60) if int(identity[2:]) % 2][:3]
    )
