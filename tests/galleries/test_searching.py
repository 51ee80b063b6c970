"""Searching: exact where a gallery is small, by an index and exactly beside it where it is large."""

from pathlib import Path

import numpy as np
import pytest

from app.errors import GalleryConflict, GalleryFull, InvalidSettings
from app.galleries import records
from app.galleries.galleries import Galleries
from app.galleries.records import Source, Who
from tests.galleries.conftest import EXACT, ME, SOURCE, Open, exactly, fill, nearest, settled, some, unit

VECTORS = some(300)
ASKED = some(20, seed=1)


def recall(galleries: Galleries, known: np.ndarray) -> float:
    """Share of the ten nearest of each question that is found."""
    hits = [len({*nearest(galleries, vector, 10)} & {*exactly(known, vector, 10)}) for vector in ASKED]
    return sum(hits) / (10 * len(ASKED))


def test_a_small_gallery_is_searched_exactly(galleries: Galleries, folder: Path) -> None:
    fill(galleries, VECTORS[:EXACT])
    settled(galleries)
    assert not list(folder.glob("*.index"))
    for vector in ASKED:
        assert nearest(galleries, vector) == exactly(VECTORS[:EXACT], vector)


def test_a_large_gallery_has_an_index_and_what_came_since_is_found_beside_it(galleries: Galleries) -> None:
    fill(galleries, VECTORS[: EXACT + 1])
    settled(galleries)
    gallery = galleries.gallery(ME, "faces")
    assert (gallery.epoch, gallery.recent, gallery.vectors) == (1, 0, EXACT + 1)
    galleries.put(ME, "faces", None, SOURCE, "late", ASKED[:1], {})
    assert galleries.gallery(ME, "faces").recent == 1
    assert nearest(galleries, ASKED[0])[0] == "late"
    galleries.delete_entry(ME, "faces", None, "late")
    assert recall(galleries, VECTORS[: EXACT + 1]) > 0.9


def test_the_index_is_made_anew_when_much_came_and_when_much_went(galleries: Galleries, folder: Path) -> None:
    fill(galleries, VECTORS)
    settled(galleries)
    galleries.search(ME, "faces", None, SOURCE, ASKED[:1], 1)
    settled(galleries)
    grown = galleries.gallery(ME, "faces")
    assert grown.epoch >= 2
    assert grown.recent <= EXACT
    for number in range(EXACT + 1):
        galleries.delete_entry(ME, "faces", None, f"id{number}")
    assert recall(galleries, np.where(np.arange(300)[:, None] > EXACT, VECTORS, -ASKED[:1])) > 0.9
    settled(galleries)
    shrunk = galleries.gallery(ME, "faces")
    assert (shrunk.epoch, shrunk.forgotten) == (grown.epoch + 1, 0)
    assert [path.name for path in folder.glob("*.index")] == [f"{shrunk.number}-{shrunk.epoch}.index"]


def test_a_gallery_that_has_become_small_needs_no_index(galleries: Galleries, folder: Path) -> None:
    fill(galleries, VECTORS[: 2 * EXACT])
    settled(galleries)
    for number in range(EXACT + 1):
        galleries.delete_entry(ME, "faces", None, f"id{number}")
    nearest(galleries, ASKED[0])
    settled(galleries)
    assert galleries.gallery(ME, "faces").indexed == 0
    assert not list(folder.glob("*.index"))
    left = [f"id{number}" for number in range(EXACT + 1, 2 * EXACT)]
    order = np.argsort(-(VECTORS[EXACT + 1 : 2 * EXACT] @ ASKED[0]), kind="stable")[:5]
    assert nearest(galleries, ASKED[0]) == [left[row] for row in order]


@pytest.mark.parametrize("spoil", [lambda path: path.unlink(), lambda path: path.write_bytes(b"no index")])
def test_an_index_that_is_missing_or_broken_is_made_again_and_meanwhile_nothing_is_missed(
    open_galleries: Open, folder: Path, spoil: object
) -> None:
    first = open_galleries()
    fill(first, VECTORS[: EXACT + 50])
    settled(first)
    (index,) = folder.glob("*.index")
    assert callable(spoil)
    spoil(index)
    restarted = open_galleries()
    for vector in ASKED:
        assert nearest(restarted, vector) == exactly(VECTORS[: EXACT + 50], vector)
    settled(restarted)
    nearest(restarted, ASKED[0])
    settled(restarted)
    assert [path.name for path in folder.glob("*.index")] == ["1-2.index"]
    assert recall(restarted, VECTORS[: EXACT + 50]) > 0.9


def test_an_id_counts_once_however_many_of_its_vectors_are_near(galleries: Galleries) -> None:
    near = unit(ASKED[:1] + 0.01 * some(32, seed=5))
    galleries.put(ME, "faces", None, SOURCE, "many", near, {})
    fill(galleries, VECTORS[:50])
    assert nearest(galleries, ASKED[0], 5) == ["many", *exactly(VECTORS[:50], ASKED[0], 4)]


def test_fewer_are_answered_where_there_are_no_more(galleries: Galleries) -> None:
    fill(galleries, VECTORS[:3])
    assert sorted(nearest(galleries, ASKED[0], 10)) == ["id0", "id1", "id2"]


def test_scores_are_cosines_that_half_precision_hardly_changes(galleries: Galleries) -> None:
    fill(galleries, VECTORS[:20])
    _, (matches,) = galleries.search(ME, "faces", None, SOURCE, ASKED[:1], 20)
    found = {match.id: match.score for match in matches}
    for number in range(20):
        assert found[f"id{number}"] == pytest.approx(float(VECTORS[number] @ ASKED[0]), abs=1e-3)


def test_vectors_of_another_source_or_length_are_refused(galleries: Galleries) -> None:
    fill(galleries, VECTORS[:1])
    with pytest.raises(GalleryConflict, match="not of tiny-embedder version 2"):
        galleries.put(ME, "faces", None, Source("tiny-embedder", 2, SOURCE.digest), "x", VECTORS[:1], {})
    with pytest.raises(GalleryConflict, match="another file"):
        galleries.search(ME, "faces", None, Source("tiny-embedder", 1, "1" * 64), VECTORS[:1], 1)
    with pytest.raises(GalleryConflict, match="vectors of 16 numbers"):
        galleries.put(ME, "faces", None, SOURCE, "x", unit(np.ones((1, 8))), {})


def test_galleries_of_one_key_are_bounded(galleries: Galleries, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(records.MAX_OWN_GALLERIES):
        galleries.configure(ME, f"g{number}", None, SOURCE, None)
    with pytest.raises(GalleryFull, match="100 galleries of yours"):
        galleries.configure(ME, "another", None, SOURCE, None)
    galleries.configure(Who("22222222"), "of another key", None, SOURCE, None)


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InvalidSettings, match=r"galleries: .* cannot be used"):
        Galleries(tmp_path / "file", 10)
    (tmp_path / "galleries.sqlite3").write_bytes(b"no database" * 100)
    with pytest.raises(InvalidSettings, match=r"galleries: .* cannot be used"):
        Galleries(tmp_path, 10)
