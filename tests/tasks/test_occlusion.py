"""Explaining an answer from outside, by hiding a part of the picture after another."""

import base64
from typing import Any

import numpy as np
import pytest

from app.imaging.codec import Decoder
from app.runtime.function import FunctionSession
from app.tasks.occlusion import GRID, Occlusion
from app.tensors import Tensors
from tests.imaging.pictures import noise, save
from tests.tasks.asked import Asked


def heat(result: dict[str, Any]) -> np.ndarray:
    return Decoder().open(base64.b64decode(result["heatmap"]["data"])).decode()[..., 0]


def spot(down: slice, across: slice, ground: int = 0) -> np.ndarray:
    image = np.full((8, 8, 3), ground, np.uint8)
    image[down, across, 0] = 255
    return image


def test_the_parts_of_a_picture_are_hidden_one_after_the_other() -> None:
    image = noise(20, 15)
    parts = Occlusion(image, lambda outputs, whole, hidden: 1.0)
    assert len(parts) == 1 + GRID**2
    rows = parts.rows(0, len(parts))["image"]
    assert np.array_equal(rows[0], image)
    changed = (rows[1:] != image).any(3).sum(0)
    assert changed.max() == 1
    assert changed.mean() > 0.95


@pytest.mark.parametrize("size", [(1, 1), (3, 9), (6, 6)])
def test_a_small_picture_has_fewer_parts(size: tuple[int, int]) -> None:
    parts = Occlusion(noise(*size), lambda outputs, whole, hidden: 0.0)
    parts.take(0, {"score": np.zeros(len(parts), np.float32)})
    assert parts.heat().shape == (min(size[1], GRID), min(size[0], GRID))
    assert parts.heat().min() == 255


def test_rows_may_come_back_in_any_order() -> None:
    def left(outputs: Tensors, whole: Tensors, hidden: object) -> float:
        return float(outputs["score"][0] / whole["score"][0])

    scores = np.linspace(1, 0, 1 + GRID**2, dtype=np.float32)
    parts = Occlusion(noise(14, 14), left)
    for start in (20, 0, 40, 10, 30):
        parts.take(start, {"score": scores[start : start + 10]})
    assert parts.outputs() == {"score": np.float32([1])}
    assert (np.diff(parts.heat().ravel().astype(int)) >= 0).all()
    assert parts.heat().max() == 255


def test_an_answer_that_nothing_changes_rests_on_nothing() -> None:
    parts = Occlusion(noise(14, 14), lambda outputs, whole, hidden: float("nan"))
    parts.take(0, {"score": np.zeros(len(parts), np.float32)})
    assert not parts.heat().any()


def test_a_detection_rests_on_what_it_found(detector: Asked) -> None:
    (result,) = detector.answer(save(spot(slice(2, 3), slice(5, 6))), explain=True)
    assert [one["label"] for one in result["objects"]] == ["red"]
    found = heat(result)
    assert found.shape == (7, 7)
    assert np.argwhere(found).tolist() == [[2, 4]]
    assert found.max() == 255
    assert result["heatmap"]["box"] == [0, 0, 8, 8]


def test_a_score_rests_on_what_is_strange(autoencoder: Asked) -> None:
    (result,) = autoencoder.answer(save(spot(slice(0, 1), slice(0, 1), ground=90)), explain=True)
    assert np.unravel_index(heat(result).argmax(), (7, 7)) == (0, 0)
    assert (heat(result) > 128).sum() == 1


def test_a_label_map_rests_on_what_changes_labels_elsewhere(segmenter: Asked) -> None:
    """Here on the left upper pixel, whose shade all pixels are labelled after."""

    def answer(tensors: Tensors) -> Tensors:
        image = tensors["image"]
        mask = np.broadcast_to((image[:, :1, :1, 0] > 200).astype(np.uint8), image.shape[:3])
        return {"mask": mask, "confidence": mask}

    asked = Asked(segmenter.task, FunctionSession(answer, segmenter.session.inputs, segmenter.session.outputs))
    (result,) = asked.answer(save(spot(slice(0, 1), slice(0, 1))), explain=True)
    assert (heat(result) == 255).sum() == 1
    assert heat(result)[0, 0] == 255


def test_the_explanation_is_drawn_over_the_picture(detector: Asked) -> None:
    data = save(noise(40, 30))
    drawn = Decoder().open(detector.drawing(data, explain=True))
    assert (drawn.width, drawn.height) == (40, 30)
    assert detector.drawing(data, explain=True) != detector.drawing(data)


def test_without_being_asked_for_nothing_is_explained(detector: Asked) -> None:
    assert "heatmap" not in detector.answer(save(noise(8, 8)))[0]
