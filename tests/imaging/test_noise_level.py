"""How noisy a picture is found to be."""

import numpy as np
import pytest

from app.imaging.noise import noise_level


def spoilt(strength: float, width: int = 200, height: int = 150) -> np.ndarray:
    """A smooth picture in the middle of the range with white noise."""
    across = np.linspace(90, 160, width)[None, :, None] + np.linspace(-20, 20, height)[:, None, None]
    noise = np.random.default_rng(0).normal(0, strength, (height, width, 3)) if strength else 0
    return np.clip(np.rint(across + noise), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("strength", [2, 5, 10, 20, 30])
def test_white_noise_is_found_as_strong_as_it_is(strength: float) -> None:
    assert noise_level(spoilt(strength)) == pytest.approx(strength, rel=0.05, abs=0.2)


def test_a_smooth_picture_has_next_to_none() -> None:
    assert noise_level(spoilt(0)) < 0.6
    assert noise_level(np.full((40, 40, 3), 77, np.uint8)) < 0.6


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (2, 2), (3, 5)])
def test_the_smallest_pictures_have_a_level(size: tuple[int, int]) -> None:
    assert noise_level(np.zeros((*size, 3), np.uint8)) >= 0


def test_of_a_large_picture_some_rows_are_enough() -> None:
    assert noise_level(spoilt(20, 3000, 1200)) == pytest.approx(20, rel=0.02)
