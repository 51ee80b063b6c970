"""Enhancement on real tiny graphs: a mean of nine pixels, and a picture of twice the size."""

import base64
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from app.errors import EmptyBody, ImageTooLarge, InvalidModel, InvalidOption, InvalidRequest
from app.imaging.codec import Decoder
from app.tasks.enhance import MAX_PIXELS
from tests.imaging.pictures import noise, save
from tests.make_models import make_denoiser, make_upscaler
from tests.tasks.asked import Asked, opened


def decoded(result: dict[str, dict[str, str]]) -> np.ndarray:
    return Decoder().open(base64.b64decode(result["image"]["data"])).decode()


def smoothed(image: np.ndarray, strength: float) -> np.ndarray:
    """What the tiny denoiser makes of a picture that it is given whole."""

    def around(values: np.ndarray) -> np.ndarray:
        padded = np.pad(values.astype(np.float32), [(1, 1), (1, 1), (0, 0)])
        return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (0, 1)).sum((-2, -1)))

    sums, counts = around(image), around(np.ones_like(image))
    return np.rint(image + (sums / counts - image) * strength / 75).astype(np.uint8)


@pytest.fixture(scope="module")
def upscaler(tmp_path_factory: pytest.TempPathFactory) -> Asked:
    return opened(make_upscaler(tmp_path_factory.mktemp("upscaler")))


@pytest.mark.parametrize("strength", [0, 30, 75])
def test_noise_is_taken_out_as_strongly_as_asked(denoiser: Asked, strength: float) -> None:
    image = noise(12, 10)
    (result,) = denoiser.answer(save(image), strength=strength)
    assert result["strength"] == strength
    assert (result["image"]["width"], result["image"]["height"]) == (12, 10)
    assert np.abs(decoded(result).astype(int) - smoothed(image, strength)).max() <= 1


def test_without_a_strength_it_is_found_in_the_picture(denoiser: Asked) -> None:
    plain = np.full((12, 12, 3), 120, np.uint8)
    noisy = np.clip(plain + np.random.default_rng(0).normal(0, 20, plain.shape), 0, 255).astype(np.uint8)
    (clean_result,), (noisy_result,) = denoiser.answer(save(plain)), denoiser.answer(save(noisy))
    assert clean_result["strength"] < 1
    assert 15 < noisy_result["strength"] < 25


def test_an_odd_side_comes_back_as_it_was_sent(denoiser: Asked) -> None:
    (result,) = denoiser.answer(save(noise(7, 5)), strength=0)
    assert np.array_equal(decoded(result), noise(7, 5))


def test_a_picture_comes_back_twice_as_large(upscaler: Asked) -> None:
    image = noise(5, 4)
    (result,) = upscaler.answer(save(image), scale=2)
    assert result["strength"] is None
    assert np.array_equal(decoded(result), image.repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize(("encoding", "starts"), [("png", b"\x89PNG"), ("jpeg", b"\xff\xd8\xff"), ("webp", b"RIFF")])
def test_the_answer_is_encoded_as_asked(denoiser: Asked, encoding: str, starts: bytes) -> None:
    image = np.asarray(noise(2, 2).repeat(8, 0).repeat(8, 1))
    (result,) = denoiser.answer(save(image), strength=0, encoding=encoding)
    assert result["image"]["encoding"] == encoding
    assert base64.b64decode(result["image"]["data"]).startswith(starts)
    assert denoiser.drawing(save(image), strength=0, encoding=encoding).startswith(starts)


def test_lower_quality_is_fewer_bytes(denoiser: Asked) -> None:
    sizes = [len(denoiser.drawing(save(noise(16, 16)), strength=0, encoding="jpeg", quality=q)) for q in (95, 20)]
    assert sizes[1] < sizes[0]


@pytest.mark.parametrize(
    "options", [{"strength": -1}, {"strength": 76}, {"scale": 5}, {"encoding": "gif"}, {"quality": 0}, {"size": 2}]
)
def test_options_out_of_range_are_refused(denoiser: Asked, options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        denoiser.options(**options)


def test_what_a_model_is_not_able_to_is_refused(denoiser: Asked, upscaler: Asked) -> None:
    with pytest.raises(InvalidOption, match="this model's is 1"):
        denoiser.run(save(noise(4, 4)), scale=2)
    with pytest.raises(InvalidOption, match="takes no noise out"):
        upscaler.run(save(noise(4, 4)), strength=10)
    with pytest.raises(EmptyBody):
        denoiser.run(None)


def test_a_result_beyond_the_limit_is_refused_before_a_pixel_is_decoded(upscaler: Asked) -> None:
    class Large:
        width, height, pixels = 10_000, 5_000, MAX_PIXELS // 2

    with pytest.raises(ImageTooLarge, match=f"at most {MAX_PIXELS // 4} pixels"):
        upscaler.task.prepare(Large(), upscaler.options())  # type: ignore[arg-type]


@pytest.mark.parametrize(("encoding", "longest"), [("webp", 16_383), ("jpeg", 65_500)])
def test_a_side_that_an_encoding_does_not_hold_is_refused(denoiser: Asked, encoding: str, longest: int) -> None:
    data = save(np.zeros((1, longest, 3), np.uint8))
    assert len(denoiser.drawing(data, strength=0, encoding=encoding))
    with pytest.raises(InvalidOption, match=f"at most {longest} pixels a side"):
        denoiser.run(save(np.zeros((1, longest + 1, 3), np.uint8)), encoding=encoding)


def test_tensors_of_other_sizes_are_refused(denoiser: Asked) -> None:
    for height, width in ((4, 18), (5, 4), (0, 4)):
        with pytest.raises(InvalidRequest, match="multiples of 2, up to 16"):
            denoiser.task.check({"image": np.zeros((1, height, width, 3), np.uint8)})


def test_a_model_that_does_not_say_how_to_cut_pictures_is_broken(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match="needs 'tiling'"):
        opened(make_denoiser(tmp_path, tiling=None))
