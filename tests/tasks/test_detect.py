"""Detection on a real tiny graph: one box around all pixels in which a channel is above a half."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from app.imaging.codec import Decoder
from app.imaging.paint import default_palette
from app.runtime.function import FunctionSession
from app.tensors import Tensors
from tests.imaging.pictures import save
from tests.make_models import make_detector
from tests.tasks.asked import Asked, opened

Boxes = list[list[float]]


def scene(width: int = 8, height: int = 8) -> np.ndarray[Any, Any]:
    """A red block in the second quarter of both sides, and a dimmer green one that fills the last quarter."""
    image = np.zeros((height, width, 3), np.uint8)
    image[height // 4 : height // 2, width // 4 : width // 2, 0] = 255
    image[height * 3 // 4 :, width * 3 // 4 :, 1] = 204
    return image


def giving(asked: Asked, rows: Boxes) -> Asked:
    """The same task, with a session that says these rows of every picture."""

    def say(tensors: Tensors) -> Tensors:
        return {"boxes": np.array([rows] * len(tensors["image"]), np.float32)}

    return Asked(asked.task, FunctionSession(say, asked.session.inputs, asked.session.outputs))


def found(result: dict[str, Any]) -> dict[str, list[float]]:
    return {one["label"]: one["box"] for one in result["objects"]}


def test_things_are_answered_best_first_with_their_boxes(detector: Asked) -> None:
    assert detector.answer(save(scene())) == [
        {
            "width": 8,
            "height": 8,
            "objects": [
                {"label": "red", "index": 0, "score": 1.0, "box": [2.0, 2.0, 4.0, 4.0]},
                {"label": "green", "index": 1, "score": 0.8, "box": [6.0, 6.0, 8.0, 8.0]},
            ],
        }
    ]


@pytest.mark.parametrize("size", [(8, 8), (16, 16), (64, 32), (24, 400)])
def test_boxes_are_in_pixels_of_the_picture_sent(detector: Asked, size: tuple[int, int]) -> None:
    (result,) = detector.answer(save(scene(*size)))
    width, height = size
    assert (result["width"], result["height"]) == size
    assert found(result) == {
        "red": [width / 4, height / 4, width / 2, height / 2],
        "green": [width * 3 / 4, height * 3 / 4, width, height],
    }


def test_boxes_of_a_turned_picture_are_those_of_the_picture_as_it_is_seen(detector: Asked) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the picture is to be turned to the right
    sent = np.ascontiguousarray(np.rot90(scene(64, 32), 1))
    (result,) = detector.answer(save(Image.fromarray(sent), exif=exif))
    assert (result["width"], result["height"]) == (64, 32)
    assert found(result)["red"] == [16.0, 8.0, 32.0, 16.0]


@pytest.mark.parametrize(("size", "offset"), [((32, 16), (8, 0)), ((16, 32), (0, 8)), ((16, 16), (0, 0))])
def test_a_model_that_sees_the_middle_answers_where_it_lies_in_the_whole(
    tmp_path: Path, size: tuple[int, int], offset: tuple[int, int]
) -> None:
    image = {"width": 8, "height": 8, "fit": "cover"}
    asked = opened(make_detector(tmp_path, image=image))
    whole = np.zeros((size[1], size[0], 3), np.uint8)
    left, top = offset
    whole[top : top + 16, left : left + 16] = scene(16, 16)
    (result,) = asked.answer(save(whole))
    assert found(result) == {
        "red": [left + 4, top + 4, left + 8, top + 8],
        "green": [left + 12, top + 12, left + 16, top + 16],
    }


def test_only_what_scores_enough_is_answered(detector: Asked) -> None:
    data = save(scene())
    assert list(found(detector.answer(data, threshold=0.9)[0])) == ["red"]
    assert list(found(detector.answer(data, threshold=0.8)[0])) == ["red", "green"]
    assert list(found(detector.answer(data, threshold=0)[0])) == ["red", "green"], "blue scores 0: it is no object"
    assert detector.answer(save(np.zeros((8, 8, 3), np.uint8)), threshold=0)[0]["objects"] == []


def test_no_more_are_answered_than_were_asked_for_and_these_are_the_best(detector: Asked) -> None:
    assert list(found(detector.answer(save(scene()), max_count=1)[0])) == ["red"]


def test_of_equal_scores_the_first_row_comes_first(detector: Asked) -> None:
    rows = [[0, 0, 2, 2, 0.7, 2], [0, 0, 3, 3, 0.9, 0], [0, 0, 4, 4, 0.7, 1]]
    (result,) = giving(detector, rows).answer(save(scene()))
    assert [one["index"] for one in result["objects"]] == [0, 2, 1]


@pytest.mark.parametrize(
    "row",
    [
        [9, 9, 12, 12, 0.9, 0],
        [-5, 0, -1, 4, 0.9, 0],
        [4, 4, 2, 6, 0.9, 0],
        [4, 4, 4, 6, 0.9, 0],
        [0, 0, 4, 4, 0.9, -1],
        [0, 0, 4, 4, 0.0, 0],
        [0, 0, 4, 4, -0.9, 0],
        [0, 0, 4, 4, np.nan, 0],
        [np.nan, 0, 4, 4, 0.9, 0],
        [0, 0, 4, 4, np.inf, 0],
        [0, 0, 4, 4, 0.9, np.inf],
        [0, 0, 4, 4, 0.9, np.nan],
    ],
)
def test_rows_that_are_no_object_in_the_picture_are_left_out(detector: Asked, row: list[float]) -> None:
    (result,) = giving(detector, [row, [1, 1, 2, 2, 0.6, 1]]).answer(save(scene()), threshold=0)
    assert found(result) == {"green": [1.0, 1.0, 2.0, 2.0]}


def test_what_reaches_beyond_the_picture_is_cut_at_its_border(detector: Asked) -> None:
    (result,) = giving(detector, [[-3, -np.inf, 5, 99, 0.9, 0]]).answer(save(scene(16, 8)))
    assert found(result) == {"red": [0.0, 0.0, 10.0, 8.0]}


def test_a_class_without_a_label_is_answered_by_its_number(detector: Asked) -> None:
    (result,) = giving(detector, [[0, 0, 4, 4, 0.9, 7]]).answer(save(scene()))
    assert (result["objects"][0]["label"], result["objects"][0]["index"]) == ("7", 7)
    giving(detector, [[0, 0, 4, 4, 0.9, 700]]).drawing(save(scene()))


def test_a_drawing_is_the_picture_with_the_boxes_in_the_colours_of_their_labels(detector: Asked) -> None:
    drawn = Decoder().open(detector.drawing(save(scene(64, 64)))).decode()
    red, green, _ = default_palette(3)
    assert drawn.shape == (64, 64, 3)
    assert tuple(drawn[24, 16]) == tuple(drawn[31, 31]) == red
    assert tuple(drawn[56, 48]) == tuple(drawn[63, 63]) == green
    assert tuple(drawn[28, 24]) == (255, 0, 0), "inside, the picture shows"
    assert not drawn[60, :40].any(), "where nothing is drawn, the picture shows"


def test_a_drawing_uses_the_colours_of_the_model(tmp_path: Path) -> None:
    palette = ((9, 8, 7), (0, 250, 0), (1, 2, 3))
    drawn = Decoder().open(opened(make_detector(tmp_path, palette=palette)).drawing(save(scene(64, 64)))).decode()
    assert tuple(drawn[24, 16]) == palette[0]


def test_a_drawing_shows_no_more_than_the_answer(detector: Asked) -> None:
    data = save(scene(64, 64))
    plain = Decoder().open(detector.drawing(data, threshold=1, max_count=1)).decode()
    assert np.array_equal(plain[40:], scene(64, 64)[40:])


@pytest.mark.parametrize(
    "values",
    [
        *({"threshold": value} for value in (-0.1, 1.1, "nan", None, "high")),
        *({"max_count": value} for value in (0, 1001, 2.5, None)),
        {"treshold": 0.5},
    ],
)
def test_options_that_are_unknown_or_out_of_range_are_refused(detector: Asked, values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        detector.options(**values)


def agreement(asked: Asked, mine: Boxes, theirs: Boxes) -> float:
    one, two = ({"boxes": np.float32(rows).reshape(1, -1, 6)} for rows in (mine, theirs))
    return asked.task.agreement(one, asked.task, two)


def test_objects_agree_by_label_and_place(detector: Asked) -> None:
    red, green, blue = [0, 0, 4, 4, 0.9, 0], [4, 4, 8, 8, 0.8, 1], [0, 4, 4, 8, 0.7, 2]
    assert agreement(detector, [red, green], [green, red]) == 1
    assert agreement(detector, [red], [[1, 0, 4, 4, 0.6, 0]]) == 1  # 12 of 16 pixels
    assert agreement(detector, [red], [[2.5, 0, 6, 4, 0.6, 0]]) == 0
    assert agreement(detector, [red], [[*red[:5], 1]]) == 0
    assert agreement(detector, [red, green], [red, blue]) == 0.5
    assert agreement(detector, [red], []) == 0
    assert agreement(detector, [[*red[:4], 0.1, 0]], []) == 1  # none is answered
