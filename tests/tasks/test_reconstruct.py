"""Reconstruction on a real tiny graph, which knows pictures of one shade of grey."""

import base64

import numpy as np

from app.imaging.codec import Decoder
from app.runtime.function import FunctionSession
from tests.imaging.pictures import noise, save
from tests.tasks.asked import Asked

GREY = np.full((8, 8, 3), 90, np.uint8)


def picture(part: dict[str, str]) -> np.ndarray:
    return Decoder().open(base64.b64decode(part["data"])).decode()


def test_a_known_picture_comes_back_as_it_is(autoencoder: Asked) -> None:
    (result,) = autoencoder.answer(save(GREY))
    assert result["score"] == 0
    assert np.array_equal(picture(result["image"]), GREY)
    assert not picture(result["error"]).any()
    assert result["box"] == [0, 0, 8, 8]


def test_what_is_strange_is_shown_and_scored(autoencoder: Asked) -> None:
    strange = GREY.copy()
    strange[2:4, 5:7] = 250
    (result,) = autoencoder.answer(save(strange))
    error = picture(result["error"])[..., 0]
    assert error[2:4, 5:7].min() > 140 > 20 > error[5:, :3].max()
    assert result["score"] > 15


def test_they_cover_the_part_of_a_picture_that_the_model_sees(autoencoder: Asked) -> None:
    assert autoencoder.answer(save(noise(24, 12)))[0]["box"] == [0, 0, 24, 12]


def test_a_score_that_is_no_number_is_null(autoencoder: Asked) -> None:
    def broken(tensors: object) -> dict[str, np.ndarray]:
        blank = np.zeros((1, 8, 8, 3), np.uint8)
        return {"reconstruction": blank, "error": blank[..., 0], "score": np.float32([np.nan])}

    session = FunctionSession(broken, autoencoder.session.inputs, autoencoder.session.outputs)
    assert Asked(autoencoder.task, session).answer(save(GREY))[0]["score"] is None


def test_the_drawing_is_the_reconstruction_or_the_picture_with_its_errors(autoencoder: Asked) -> None:
    data = save(noise(24, 12))
    plain, heat = (Decoder().open(autoencoder.drawing(data, render=form)) for form in ("reconstruction", "error"))
    assert (plain.width, plain.height) == (8, 8)
    assert (heat.width, heat.height) == (24, 12)
    assert not np.array_equal(heat.decode(), noise(24, 12))
