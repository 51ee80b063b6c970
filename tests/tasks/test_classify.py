"""Classification on a real tiny graph whose answer can be computed by hand."""

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from app.errors import InvalidOption, NotAcceptable
from app.imaging.codec import Decoder
from app.tasks import Task
from tests.imaging.pictures import noise, save
from tests.make_models import COLOURS, SHARPNESS, make_classifier
from tests.tasks.asked import Asked, opened

REDDISH = np.full((20, 30, 3), (220, 40, 90), np.uint8)


def pixels(png: bytes) -> np.ndarray[Any, Any]:
    return Decoder().open(png).decode()


def test_labels_come_best_first_with_the_probabilities_of_the_graph(classifier: Asked) -> None:
    (result,) = classifier.answer(save(REDDISH))
    powers = np.exp(SHARPNESS * np.array([220, 40, 90]) / 255)
    expected = powers / powers.sum()
    assert [(score["label"], score["index"]) for score in result["labels"]] == [("red", 0), ("blue", 2), ("green", 1)]
    assert [score["probability"] for score in result["labels"]] == pytest.approx(expected[[0, 2, 1]], abs=2e-6)
    assert "heatmap" not in result


@pytest.mark.parametrize(("top_k", "count"), [(1, 1), (2, 2), (3, 3), (1000, 3)])
def test_as_many_labels_come_as_were_asked_for_and_there_are(classifier: Asked, top_k: int, count: int) -> None:
    (result,) = classifier.answer(save(REDDISH), top_k=top_k)
    assert [score["label"] for score in result["labels"]] == ["red", "blue", "green"][:count]


def test_five_labels_come_where_none_were_counted(tmp_path: Path) -> None:
    asked = opened(make_classifier(tmp_path, labels=tuple("abcdefgh")))
    assert len(asked.answer(save(noise(9, 9)))[0]["labels"]) == 5


def test_the_size_of_the_picture_does_not_matter_to_a_plain_one(classifier: Asked) -> None:
    sizes = [(1, 1), (8, 8), (1, 300), (640, 480)]
    answers = [classifier.answer(save(np.full((*size, 3), 99, np.uint8))) for size in sizes]
    assert answers == [answers[0]] * 4


def test_a_large_jpeg_is_decoded_no_larger_than_the_graph_needs(classifier: Asked) -> None:
    data = save(noise(64, 64), "JPEG")
    prepared, _, _ = classifier.run(data)
    assert np.array_equal(prepared.tensors["image"][0], Decoder().open(data).decode(at_least=(8, 8)))


def test_a_heat_map_is_a_grey_png_of_the_evidence_and_says_where_it_lies(classifier: Asked) -> None:
    (result,) = classifier.answer(save(REDDISH), explain=True)
    heat = result["heatmap"]
    assert (heat["encoding"], heat["width"], heat["height"], heat["box"]) == ("png", 8, 8, [0, 0, 30, 20])
    assert (pixels(base64.b64decode(heat["data"])) == 220).all()


def test_a_heat_map_of_a_model_that_covers_lies_on_the_middle(tmp_path: Path) -> None:
    asked = opened(make_classifier(tmp_path, image={"width": 8, "height": 8, "fit": "cover"}))
    (result,) = asked.answer(save(REDDISH), explain=True)
    assert result["heatmap"]["box"] == [5, 0, 25, 20]


def test_the_drawing_has_the_size_of_the_picture_and_is_hot_where_the_label_is(classifier: Asked) -> None:
    half = np.zeros((20, 32, 3), np.uint8)
    half[:, :16, 0] = 255
    drawing = pixels(classifier.drawing(save(half)))
    assert drawing.shape == (20, 32, 3)
    assert drawing[:, :8].mean() > drawing[:, 24:].mean() + 50


def test_a_turned_picture_is_drawn_upright(classifier: Asked) -> None:
    data = Image.Exif()
    data[0x0112] = 6
    assert pixels(classifier.drawing(save(REDDISH, "JPEG", exif=data))).shape == (30, 20, 3)


def test_a_model_without_heat_maps_answers_labels_and_refuses_to_explain(tmp_path: Path) -> None:
    asked = opened(make_classifier(tmp_path, without=("cam",)))
    (result,) = asked.answer(save(REDDISH))
    assert [score["label"] for score in result["labels"]] == ["red", "blue", "green"]
    with pytest.raises(InvalidOption, match=r"has no heat maps .*: leave explain out"):
        asked.answer(save(REDDISH), explain=True)
    with pytest.raises(NotAcceptable, match="has no heat maps to draw"):
        asked.drawing(save(REDDISH))


CONFORMAL = {"count": 99, "least": {"0.50": 0.6, "0.90": 0.2, "0.99": 0.0}}


@pytest.mark.parametrize(
    ("coverage", "labels"), [(0.5, ["red"]), (0.9, ["red", "blue"]), (0.99, ["red", "blue", "green"])]
)
def test_a_label_set_holds_all_that_are_probable_enough(coverage: float, labels: list[str], tmp_path: Path) -> None:
    asked = opened(make_classifier(tmp_path, conformal=CONFORMAL))
    colour = np.full((8, 8, 3), (130, 80, 100), np.uint8)
    (result,) = asked.answer(save(colour), top_k=1, set=coverage)
    assert result["set"]["coverage"] == coverage
    assert [score["label"] for score in result["set"]["labels"]] == labels
    assert len(result["labels"]) == 1


def test_a_label_set_is_never_empty(tmp_path: Path) -> None:
    asked = opened(make_classifier(tmp_path, conformal={"count": 9, "least": {"0.50": 0.99}}))
    (result,) = asked.answer(save(np.full((8, 8, 3), 99, np.uint8)), set=0.5)
    assert len(result["set"]["labels"]) == 1


@pytest.mark.parametrize("coverage", [0.3, 0.905, 0.95])
def test_a_coverage_that_was_not_calibrated_is_refused_with_those_that_were(coverage: float, tmp_path: Path) -> None:
    asked = opened(make_classifier(tmp_path, conformal=CONFORMAL))
    with pytest.raises(InvalidOption, match=r"was not calibrated; the levels are 0\.50 to 0\.99"):
        asked.answer(save(REDDISH), set=coverage)


def test_a_model_without_calibration_refuses_label_sets(classifier: Asked) -> None:
    with pytest.raises(InvalidOption, match=r"was not calibrated for label sets .*: leave set out"):
        classifier.answer(save(REDDISH), set=0.9)


def test_the_energy_is_told_where_the_graph_has_it(classifier: Asked, tmp_path: Path) -> None:
    (result,) = classifier.answer(save(REDDISH))
    logits = SHARPNESS * np.array([220, 40, 90]) / 255
    assert result["energy"] == pytest.approx(-np.log(np.exp(logits).sum()), abs=1e-3)
    assert "energy" not in opened(make_classifier(tmp_path, without=("energy",))).answer(save(REDDISH))[0]


@pytest.mark.parametrize(
    "values", [{"set": 0}, {"set": 1}, {"set": "most"},
               {"top_k": 0}, {"top_k": 1001}, {"top_k": 1.5}, {"top_k": None}, {"top_k": "many"}, {"top_k": "9" * 5000},
               {"explain": "perhaps"}, {"explain": 2}, {"threshold": 0.5}, {"": ""}],
)  # fmt: skip
def test_options_that_are_unknown_or_out_of_range_are_refused(classifier: Asked, values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        classifier.options(**values)


def test_tiny_models_speak_of_colours(classifier: Asked) -> None:
    assert classifier.task.labels == COLOURS


def test_answers_agree_by_their_best_labels(classifier: Asked) -> None:
    task = classifier.task
    mine, theirs = (np.float32(rows) for rows in ([[0.9, 0.1, 0], [0, 0, 1]], [[0.5, 0.3, 0.2], [0, 1, 0]]))
    assert task.agreement({"probabilities": mine}, task, {"probabilities": theirs}) == 0.5


def test_where_a_task_has_no_measure_of_its_own_numbers_agree_within_a_hundredth(classifier: Asked) -> None:
    task = classifier.task
    mine = {"a": np.float32([1, 2, 3]), "b": np.float32([1]), "c": np.float32([[1]])}
    theirs = {"a": np.float32([1.001, 2, 9]), "b": np.float32([1]), "c": np.float32([1])}
    assert Task.agreement(task, mine, task, theirs) == pytest.approx(3 / 4)
    assert Task.agreement(task, {}, task, theirs) == 0
