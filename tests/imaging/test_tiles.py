"""Cutting a picture into tiles and putting results together: what is kept of each was seen with all that it needs."""

import numpy as np
import pytest
from pydantic import ValidationError

from app.imaging.tiles import Tiles, cut
from app.manifest import Tiling
from tests.imaging.pictures import noise

SIZES = [1, 2, 15, 16, 17, 31, 32, 33, 40, 63, 100, 257]
TILINGS = [Tiling(side=16, overlap=4, multiple=2), Tiling(side=17, overlap=3), Tiling(side=32, overlap=8, multiple=8)]


@pytest.mark.parametrize("tiling", TILINGS, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_parts_of_a_side_cover_it_with_all_that_each_pixel_needs(size: int, tiling: Tiling) -> None:
    found = cut(size, tiling)
    assert found.length <= tiling.side
    assert all(number % tiling.multiple == 0 for number in (found.length, *found.starts))
    begin = 0
    for number, start in enumerate(found.starts):
        first, last = found.kept(number, size)
        assert first == begin
        assert start == 0 if first == 0 else start + tiling.overlap <= first
        assert last == size or last + tiling.overlap <= start + found.length
        assert last <= start + found.length
        begin = last
    assert begin == size


def test_a_side_that_fits_is_one_part_no_longer_than_needed() -> None:
    tiling = Tiling(side=16, overlap=4, multiple=2)
    assert [cut(size, tiling).length for size in (1, 2, 7, 15, 16)] == [2, 2, 8, 16, 16]
    assert [len(cut(size, tiling).starts) for size in (16, 17, 24, 25)] == [1, 2, 2, 3]


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("size", [(9, 7), (16, 16), (40, 33), (100, 17)], ids=str)
def test_what_looks_at_its_surroundings_comes_out_as_from_the_whole_picture(size: tuple[int, int], scale: int) -> None:
    image = noise(*size)
    tiles = Tiles(image, Tiling(side=16, overlap=4, multiple=2, scale=scale))
    for start in range(0, len(tiles), 3):
        stop = min(len(tiles), start + 3)
        tiles.take(start, np.stack([_looked_around(part, scale) for part in tiles.rows(start, stop)]))
    height, width = image.shape[:2]
    continued = np.pad(image, [(0, height % 2), (0, width % 2), (0, 0)], mode="edge")
    assert np.array_equal(tiles.enhanced, _looked_around(continued, scale)[: height * scale, : width * scale])


def _looked_around(image: np.ndarray, scale: int) -> np.ndarray:
    """The largest value within four pixels, every pixel repeated."""
    reach = 4
    padded = np.pad(image, [(reach, reach), (reach, reach), (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * reach + 1, 2 * reach + 1), (0, 1))
    return np.asarray(windows.max((-2, -1)).repeat(scale, 0).repeat(scale, 1))


@pytest.mark.parametrize(
    "wrong",
    [{"side": 16, "overlap": 8}, {"side": 17, "overlap": 2, "multiple": 2}, {"side": 16, "overlap": 3, "multiple": 2}],
)
def test_a_tiling_that_leaves_nothing_or_fits_no_multiple_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValidationError, match="more than twice overlap"):
        Tiling(**wrong)
