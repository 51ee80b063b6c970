"""Distances between sets of features, on sets whose answer is known."""

import numpy as np
import pytest

from training.likeness import frechet_distance, nearest, overlap

RANDOM = np.random.default_rng(0)
POINTS = RANDOM.standard_normal((400, 4)).astype(np.float32)


def test_a_set_is_at_no_distance_from_itself() -> None:
    assert frechet_distance(POINTS, POINTS) == pytest.approx(0, abs=1e-5)


def test_a_shift_is_its_squared_length() -> None:
    shift = np.array([3, 0, 4, 0], np.float32)
    assert frechet_distance(POINTS, POINTS + shift) == pytest.approx(25, rel=1e-4)


def test_a_scaling_of_independent_axes_is_the_squared_difference_of_their_deviations() -> None:
    many = np.random.default_rng(1).standard_normal((200_000, 2))
    assert frechet_distance(many, many * [1, 3]) == pytest.approx(4, rel=0.02)


def test_a_set_covers_itself() -> None:
    found = overlap(POINTS, POINTS)
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)
    assert found.density == pytest.approx(1.2)  # five neighbours and the point itself


def test_sets_far_apart_cover_nothing() -> None:
    assert overlap(POINTS, POINTS + 100) == (0, 0, 0, 0)


def test_one_picture_over_and_over_is_precise_and_covers_nothing() -> None:
    found = overlap(POINTS, np.repeat(POINTS[:1], 400, 0))
    assert found.precision == 1
    assert found.recall < 0.1
    assert found.coverage < 0.1


def test_neighbours_come_nearest_first() -> None:
    real = np.array([[0.0], [5.0], [1.0], [9.0]], np.float32)
    assert nearest(np.array([[0.9], [8.0]], np.float32), real, 2).tolist() == [[2, 0], [3, 1]]
