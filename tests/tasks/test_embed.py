"""Embedding on a real tiny graph: the mean of each channel in each quarter of the picture, at length 1."""

import numpy as np
import pytest
from pydantic import ValidationError

from app.errors import InferenceFailed, NotAcceptable
from app.runtime.function import FunctionSession
from app.tensors import Tensors
from tests.imaging.pictures import noise, save
from tests.make_models import embedding_of
from tests.tasks.asked import Asked


def test_the_answer_is_the_vector_of_the_graph_to_seven_decimals(embedder: Asked) -> None:
    picture = noise(8, 8)
    (result,) = embedder.answer(save(picture))
    assert result.keys() == {"embedding"}
    np.testing.assert_allclose(result["embedding"], embedding_of(picture), atol=1e-6)
    assert abs(np.linalg.norm(result["embedding"]) - 1) < 1e-6
    assert all(isinstance(value, float) and value == round(value, 7) for value in result["embedding"])


def test_like_pictures_have_vectors_that_lie_closer_than_those_of_others(embedder: Asked) -> None:
    picture, other = noise(8, 8) // 2, np.zeros((8, 8, 3), np.uint8)
    other[..., 0] = 255
    mine, near, far = (np.array(embedder.answer(save(one))[0]["embedding"]) for one in (picture, picture + 9, other))
    assert mine @ near > mine @ far


@pytest.mark.parametrize("value", [np.nan, 0.0, 3.0, np.inf])
def test_what_is_no_vector_of_length_one_is_not_answered(embedder: Asked, value: float) -> None:
    def say(tensors: Tensors) -> Tensors:
        return {"embedding": np.full((len(tensors["image"]), 12), value, np.float32)}

    broken = Asked(embedder.task, FunctionSession(say, embedder.session.inputs, embedder.session.outputs))
    with pytest.raises(InferenceFailed):
        broken.answer(save(noise(8, 8)))


def test_nothing_is_drawn(embedder: Asked) -> None:
    with pytest.raises(NotAcceptable, match="is not drawn: accept application/json"):
        embedder.drawing(save(noise(8, 8)))
    assert embedder.options().forms == ()


def test_there_are_no_options(embedder: Asked) -> None:
    with pytest.raises(ValidationError):
        embedder.options(top_k=3)
