"""Drawings: where colour goes, and where it does not."""

import numpy as np
import pytest

from app.imaging.paint import Boxed, box_overlay, contact_sheet, default_palette, heat_overlay, label_overlay
from tests.imaging.memory import memory_of

GREY = np.full((6, 8, 3), 100, np.uint8)


def test_a_cold_heat_map_leaves_the_picture_as_it_is() -> None:
    assert np.array_equal(heat_overlay(GREY, np.zeros((2, 2), np.uint8), (0, 0, 8, 6)), GREY)


def test_heat_is_painted_inside_its_box_only_and_not_into_the_picture_given() -> None:
    painted = heat_overlay(GREY, np.full((2, 2), 255, np.uint8), (1, 2, 7, 5))
    inside = np.zeros((6, 8), bool)
    inside[2:5, 1:7] = True
    assert ((painted != GREY).any(-1) == inside).all()
    assert painted[3, 3].tolist() == [206, 209, 145]  # 30 % of 100, 70 % of the hottest colour
    assert (GREY == 100).all()


def test_the_hotter_the_brighter() -> None:
    ramp = np.arange(0, 256, 32, dtype=np.uint8)[np.newaxis]
    painted = heat_overlay(np.zeros((1, 8, 3), np.uint8), ramp, (0, 0, 8, 1))[0].astype(int).sum(-1)
    assert (np.diff(painted) > 0).all()


def test_a_label_overlay_is_half_picture_and_half_colour() -> None:
    labels = np.arange(48, dtype=np.uint8).reshape(6, 8) % 2
    painted = label_overlay(GREY, labels, [(0, 0, 0), (255, 0, 200)])
    assert (painted[labels == 0] == 50).all()
    assert (painted[labels == 1] == (178, 50, 150)).all()


def test_a_box_is_drawn_on_its_inner_edge_and_its_caption_stays_in_the_picture() -> None:
    white = np.full((100, 200, 3), 255, np.uint8)
    painted = box_overlay(white, [Boxed((150, 40, 199.6, 80), (200, 0, 0), "a long caption")])
    assert (painted[40, 150:199] == (200, 0, 0)).all()
    assert (painted[79, 150:199] == (200, 0, 0)).all()
    assert (painted[41:79, 151:198] == 255).all()
    above = (painted[:40] != 255).any(-1)
    assert above.any()
    assert not above[:20].any()
    assert (white == 255).all(), "the picture given stays as it is"


@pytest.mark.parametrize(
    "box", [(0, 0, 8, 6), (0.2, 0.2, 0.4, 0.4), (7.9, 5.9, 8, 6), (3, 0, 3.1, 6), (-0.0, 0, 8, 0.5)]
)
def test_boxes_of_any_size_are_drawn_into_any_picture(box: tuple[float, float, float, float]) -> None:
    for caption in ("", "a", "long " * 40, "\u8d64\u8840\u7403"):
        assert box_overlay(GREY, [Boxed(box, (0, 0, 0), caption)] * 2).shape == GREY.shape


def test_a_large_picture_is_painted_in_little_more_memory_than_its_own() -> None:
    image, labels = np.zeros((2500, 4000, 3), np.uint8), np.zeros((2500, 4000), np.uint8)  # 30 MB and 10 MB
    with memory_of(mebibytes=100, seconds=10):
        assert label_overlay(image, labels, [(9, 9, 9)])[-1, -1].tolist() == [5, 5, 5]
    with memory_of(mebibytes=100, seconds=10):
        assert box_overlay(image, [Boxed((0, 0, 4000, 2500), (9, 9, 9), "all")])[-1, -1].tolist() == [9, 9, 9]
    with memory_of(mebibytes=120, seconds=10):
        assert heat_overlay(image, np.full((8, 8), 255, np.uint8), (0, 0, 4000, 2500))[-1, -1].any()


def test_pictures_wider_than_a_band_are_painted_to_their_end() -> None:
    wide = np.zeros((3, 300_000, 3), np.uint8)
    assert (label_overlay(wide, np.ones((3, 300_000), np.uint8), [(0, 0, 0), (200, 100, 50)]) == (100, 50, 25)).all()


@pytest.mark.parametrize(
    ("count", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (3, 2, 2), (4, 2, 2), (5, 3, 2), (64, 8, 8)]
)
def test_a_contact_sheet_is_nearly_square_in_reading_order(count: int, columns: int, rows: int) -> None:
    sheet = contact_sheet([np.full((2, 3, 3), number, np.uint8) for number in range(count)])
    assert sheet.shape == (rows * 2, columns * 3, 3)
    seen = sheet[::2, ::3, 0].ravel().tolist()
    assert seen == [*range(count), *[255] * (columns * rows - count)]


@pytest.mark.parametrize("count", [1, 2, 3, 12, 32, 150, 256])
def test_default_colours_are_distinct(count: int) -> None:
    palette = default_palette(count)
    assert len(set(palette)) == len(palette) == count
    assert all(0 <= channel <= 255 for colour in palette for channel in colour)


def test_the_first_default_colours_are_far_apart() -> None:
    palette = np.array(default_palette(8))
    apart = np.abs(palette[:, None] - palette[None]).sum(-1) + 1000 * np.eye(8, dtype=int)
    assert apart.min() > 60
