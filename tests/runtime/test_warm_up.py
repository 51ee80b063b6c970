"""Warm-up refuses what cannot be served, and finds the batch size that pays."""

import time
from collections.abc import Callable

import numpy as np
import pytest

from app.errors import InvalidModel
from app.runtime.function import FunctionSession
from app.runtime.warm_up import best_batch, warm_up
from app.tensors import Tensors, TensorSpec

SPEC = TensorSpec("x", np.dtype(np.float32), (None, 2))


def session_of(function: Callable[[np.ndarray], np.ndarray]) -> FunctionSession:
    return FunctionSession(lambda tensors: {"y": function(tensors["x"])}, (SPEC,), (SPEC,))


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (lambda x: np.full((len(x), 1), np.nan, np.float32), "finite"),
        (lambda x: np.zeros((len(x) + 1, 1), np.float32), "finite rows"),
        (lambda x: 1 / 0, "fails on noise: division by zero"),
    ],
)
def test_a_session_whose_answers_to_noise_are_useless_is_not_served(
    answer: Callable[[np.ndarray], np.ndarray], sentence: str
) -> None:
    with pytest.raises(InvalidModel, match=sentence):
        warm_up(session_of(answer), 4)


def busy(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


def test_a_thrifty_warm_up_ends_where_batches_stop_paying() -> None:
    seen: list[int] = []

    def cubic(x: np.ndarray) -> np.ndarray:
        seen.append(len(x))
        busy(0.002 * len(x) ** 3)
        return x

    assert max(warm_up(session_of(cubic), 64, thrifty=True)) < 64
    assert max(seen) < 64


def test_what_the_operator_chose_is_measured_to_its_end() -> None:
    def run(tensors: Tensors) -> Tensors:
        busy(0.001 * len(tensors["x"]) ** 2)
        return {"y": tensors["x"]}

    assert list(warm_up(FunctionSession(run, (SPEC,), (SPEC,)), 8)) == [1, 2, 4, 8]


@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        ({1: 1.0, 2: 1.1, 4: 1.3, 8: 1.8}, 8),
        ({1: 1.0, 2: 2.05, 4: 4.8, 8: 12.0}, 4),
        ({1: 1.0, 2: 3.0}, 1),
    ],
)
def test_the_best_batch_is_the_largest_whose_rows_are_about_as_quick(seconds: dict[int, float], best: int) -> None:
    assert best_batch(seconds) == best
