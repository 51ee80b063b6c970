"""Segmentation on a real tiny graph: each pixel's label is its largest channel."""

import base64
import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from app.tasks.segment import run_lengths
from tests.imaging.pictures import noise, save
from tests.make_models import make_segmenter
from tests.tasks.asked import Asked, opened


def painted(labels: list[list[int]], block: int = 4) -> np.ndarray[Any, Any]:
    """A picture whose pixels have these labels, in blocks."""
    return (np.eye(3)[labels] * 200).astype(np.uint8).repeat(block, 0).repeat(block, 1)


QUARTERS = painted([[0, 1], [2, 0]])
EXPECTED = np.uint8([[0, 1], [2, 0]]).repeat(4, 0).repeat(4, 1)


def read(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png), formats=["PNG"])


def mask_of(result: dict[str, Any]) -> np.ndarray[Any, Any]:
    image = read(base64.b64decode(result["mask"]["data"]))
    assert image.mode == "L"
    return np.asarray(image)


def test_every_pixel_has_its_label(segmenter: Asked) -> None:
    (result,) = segmenter.answer(save(QUARTERS))
    assert (result["width"], result["height"]) == (8, 8)
    assert np.array_equal(mask_of(result), EXPECTED)


def test_shares_are_counted_largest_first_without_what_is_not_there(segmenter: Asked) -> None:
    (result,) = segmenter.answer(save(painted([[1, 1], [1, 0]])))
    assert result["classes"] == [
        {"label": "green", "index": 1, "share": 0.75}, {"label": "red", "index": 0, "share": 0.25},
    ]  # fmt: skip


@pytest.mark.parametrize("size", [(1, 1), (3, 1), (16, 16), (50, 20), (7, 300)])
def test_the_mask_has_the_size_of_the_picture_sent(segmenter: Asked, size: tuple[int, int]) -> None:
    data = save(noise(*size))
    (as_png,), (as_runs,) = segmenter.answer(data), segmenter.answer(data, mask="rle")
    assert (as_png["width"], as_png["height"]) == size
    assert mask_of(as_png).shape == size[::-1]
    assert sum(entry["share"] for entry in as_png["classes"]) == pytest.approx(1, abs=1e-5)
    runs = as_runs["mask"]["data"]
    assert sum(length for _, length in runs) == size[0] * size[1]
    assert np.array_equal(np.repeat(*np.array(runs).T).reshape(size[::-1]), mask_of(as_png))


@pytest.mark.parametrize(
    ("labels", "runs"),
    [
        ([[5]], [[5, 1]]),
        ([[0, 0], [0, 0]], [[0, 4]]),
        ([[0, 1], [1, 0]], [[0, 1], [1, 2], [0, 1]]),
        ([[255, 0, 255]], [[255, 1], [0, 1], [255, 1]]),
    ],
)
def test_runs_go_row_by_row(labels: list[list[int]], runs: list[list[int]]) -> None:
    assert run_lengths(np.uint8(labels)) == runs


def test_runs_put_together_are_the_mask() -> None:
    labels = noise(37, 23)[..., 0] // 100
    runs = run_lengths(labels)
    assert all(left[0] != right[0] for left, right in itertools.pairwise(runs))
    assert np.array_equal(np.repeat(*np.array(runs).T).reshape(labels.shape), labels)


def test_the_drawing_is_the_label_map_with_the_colours_of_the_model(tmp_path: Path) -> None:
    palette = ((9, 8, 7), (0, 250, 0), (1, 2, 3))
    image = read(opened(make_segmenter(tmp_path, palette=palette)).drawing(save(QUARTERS)))
    assert (image.mode, image.size) == ("P", (8, 8))
    assert np.array_equal(np.asarray(image), EXPECTED)
    assert np.array_equal(np.asarray(image.convert("RGB")), np.uint8(palette)[EXPECTED])


def test_a_model_without_colours_is_drawn_in_distinct_ones(segmenter: Asked) -> None:
    colours = np.asarray(read(segmenter.drawing(save(QUARTERS))).convert("RGB"))
    assert len(np.unique(colours.reshape(-1, 3), axis=0)) == 3


def test_an_overlay_is_the_picture_tinted(tmp_path: Path) -> None:
    asked = opened(make_segmenter(tmp_path, palette=((0, 0, 0), (100, 0, 0), (0, 0, 100))))
    overlay = np.asarray(read(asked.drawing(save(QUARTERS), render="overlay")))
    assert overlay[0, 0].tolist() == [100, 0, 0]
    assert overlay[0, 7].tolist() == [50, 100, 0]
    assert overlay[7, 0].tolist() == [0, 0, 150]


@pytest.mark.parametrize(
    "values", [{"mask": "svg"}, {"mask": None}, {"render": "PNG"}, {"top_k": 1}, {"mask": ["png"]}]
)
def test_options_that_are_unknown_are_refused(segmenter: Asked, values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        segmenter.options(**values)


def test_masks_agree_by_their_pixels(segmenter: Asked) -> None:
    task = segmenter.task
    one, two = np.zeros((2, 4, 4), np.uint8), np.zeros((2, 4, 4), np.uint8)
    two[0, 0] = 1
    assert task.agreement({"mask": one}, task, {"mask": two}) == pytest.approx(28 / 32)
    assert task.agreement({"mask": one}, task, {"mask": two[:, :2]}) == 0
