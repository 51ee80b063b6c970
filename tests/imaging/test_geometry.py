"""The one resize: against Pillow's own, its box, labels without in-between, no size that breaks it."""

from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from app.imaging.codec import Decoder, encode_png
from app.imaging.geometry import fit, label_counts, resize_labels, resize_smooth, size_needed, visible_box
from app.manifest import ImageInput
from tests.imaging.pictures import noise, save

SIZES = [(1, 1), (1, 4096), (4096, 1), (3, 1), (32, 32), (33, 31), (100, 37), (480, 360)]
WANTED = [(32, 32), (8, 24), (61, 7), (1, 1)]


def fitted(image: np.ndarray, ask: ImageInput) -> np.ndarray:
    """An image, sent without loss and fitted."""
    return fit(Decoder().open(encode_png(image)), ask)


def want(width: int, height: int, **more: object) -> ImageInput:
    return ImageInput.model_validate({"width": width, "height": height, **more})


@pytest.mark.parametrize("wanted", WANTED)
@pytest.mark.parametrize("size", SIZES)
def test_stretch_is_the_bilinear_resize_of_pillow(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    image = noise(*size)
    expected = Image.fromarray(image).resize(wanted, Image.Resampling.BILINEAR)
    assert np.array_equal(fitted(image, want(*wanted)), np.asarray(expected))


@pytest.mark.parametrize("wanted", WANTED)
@pytest.mark.parametrize("size", SIZES)
def test_cover_is_the_bilinear_resize_of_its_box(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    image, ask = noise(*size), want(*wanted, fit="cover")
    box = visible_box(*size, ask)
    expected = Image.fromarray(image).resize(wanted, Image.Resampling.BILINEAR, box=box)
    assert np.array_equal(fitted(image, ask), np.asarray(expected))


def test_cover_leaves_out_what_lies_beside_its_box() -> None:
    image = np.zeros((10, 30, 3), np.uint8)
    image[:, 10:20] = 200
    assert (fitted(image, want(10, 10, fit="cover")) == 200).all()


@pytest.mark.parametrize("wanted", WANTED)
@pytest.mark.parametrize("size", SIZES)
def test_the_box_of_cover_is_central_and_as_large_as_its_shape_allows(
    size: tuple[int, int], wanted: tuple[int, int]
) -> None:
    (width, height), (left, top, right, bottom) = size, visible_box(*size, want(*wanted, fit="cover"))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    assert abs(left - (width - right)) <= 1
    assert abs(top - (height - bottom)) <= 1
    assert (left, right) == (0, width) or (top, bottom) == (0, height)
    exact = Fraction(wanted[0], wanted[1]) * (bottom - top)
    assert abs((right - left) - exact) <= max(1, Fraction(wanted[0], wanted[1]))


def test_the_box_of_stretch_is_the_whole_picture() -> None:
    assert visible_box(70, 30, want(32, 32)) == (0, 0, 70, 30)


def test_a_picture_of_the_right_size_is_not_touched() -> None:
    image = noise(32, 32)
    assert np.array_equal(fitted(image, want(32, 32)), image)


@pytest.mark.parametrize("size", [(32, 32), (60, 40)])
def test_a_grey_graph_gets_one_channel_weighed_as_in_bt_601(size: tuple[int, int]) -> None:
    image = np.full((size[1], size[0], 3), (200, 100, 50), np.uint8)
    found = fitted(image, want(32, 32, channels=1))
    assert found.shape == (32, 32, 1)
    assert set(found.ravel().tolist()) == {round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)}


@pytest.mark.parametrize("size", [(32, 32), (60, 40), (7, 90)])
def test_a_grey_picture_is_fitted_as_its_three_equal_channels_are(size: tuple[int, int]) -> None:
    grey, ask = noise(*size)[:, :, 0], want(32, 32, channels=1)
    assert np.array_equal(fitted(grey, ask), fitted(np.repeat(grey[:, :, None], 3, axis=2), ask))


@pytest.mark.parametrize("form", ["stretch", "cover"])
@pytest.mark.parametrize("size", [(640, 480), (481, 1000), (64, 64), (20, 300)])
def test_a_jpeg_decoded_to_the_size_needed_fits_as_the_whole_one_does(size: tuple[int, int], form: str) -> None:
    smooth = np.asarray(Image.fromarray(noise(4, 4)).resize(size, Image.Resampling.BICUBIC))
    ask = want(32, 32, fit=form)
    picture = Decoder().open(save(smooth, "JPEG", quality=95, subsampling=0))
    reduced = picture.decode(at_least=size_needed(*size, ask))
    assert min(reduced.shape[:2]) >= min(32, *size)
    assert np.abs(fit(picture, ask).astype(int) - fitted(picture.decode(), ask).astype(int)).mean() < 3


@pytest.mark.parametrize("size", SIZES)
def test_the_size_needed_holds_the_size_wanted_and_the_shape_of_the_picture(size: tuple[int, int]) -> None:
    width, height = size_needed(*size, want(32, 24, fit="cover"))
    assert width >= 32
    assert height >= 24
    assert abs(Fraction(width, height) / Fraction(*size) - 1) < Fraction(1, 10)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (64, 40), (500, 3)])
def test_labels_are_resized_without_in_between(size: tuple[int, int]) -> None:
    labels = np.uint8([[0, 7], [200, 9]])
    found = resize_labels(labels, *size)
    assert found.shape == size[::-1]
    assert set(found.ravel().tolist()) <= {0, 7, 200, 9}


def test_labels_doubled_are_labels_repeated() -> None:
    labels = noise(9, 6)[..., 0]
    assert np.array_equal(resize_labels(labels, 18, 12), labels.repeat(2, 0).repeat(2, 1))
    assert resize_labels(labels, 9, 6) is labels


def test_labels_are_counted() -> None:
    counts = label_counts(np.uint8([[0, 7, 7], [255, 7, 0]]))
    assert (len(counts), counts[0], counts[7], counts[255], counts.sum()) == (256, 2, 3, 1, 6)


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 3)])
def test_smooth_resizing_keeps_a_plain_image_plain(shape: tuple[int, ...]) -> None:
    found = resize_smooth(np.full(shape, 77, np.uint8), 9, 5)
    assert found.shape == (5, 9, *shape[2:])
    assert set(found.ravel().tolist()) == {77}
