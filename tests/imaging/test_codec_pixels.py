"""The right pixels: every format and pixel type, orientation, reduced decoding."""

import io
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.imaging.codec import Decoder, encode_png, sniff
from app.settings import FORMATS
from tests.imaging.pictures import Pixels, chunk, corners, exif, jpeg, noise, oriented, png, save

ALL = Decoder(FORMATS)
UPRIGHT = corners()


def decode(data: bytes) -> Pixels:
    return ALL.open(data).decode()


def apart(left: Pixels, right: Pixels) -> int:
    """The largest difference of any channel; pictures of other sizes are as far apart as can be."""
    return int(np.abs(left.astype(int) - right.astype(int)).max()) if left.shape == right.shape else 255


@pytest.mark.parametrize("form", FORMATS)
def test_every_known_format_is_recognised_and_decoded(form: str) -> None:
    exact = {"lossless": True} if form == "webp" else {}
    data = save(UPRIGHT, form, **exact)
    picture = ALL.open(data)
    assert (sniff(data), picture.format, picture.width, picture.height) == (form, form, 32, 48)
    pixels = picture.decode()
    assert (pixels.dtype, pixels.shape) == (np.uint8, (48, 32, 3))
    assert apart(pixels[8::16, 8::16], UPRIGHT[8::16, 8::16]) <= (6 if form in ("jpeg", "avif") else 0)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture_comes_out_upright(orientation: int, form: str) -> None:
    picture = ALL.open(save(oriented(orientation, UPRIGHT), form, exif=exif(orientation)))
    assert (picture.width, picture.height) == (32, 48)
    assert apart(picture.decode()[8::16, 8::16], UPRIGHT[8::16, 8::16]) <= 6


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_none(value: int) -> None:
    assert apart(decode(save(UPRIGHT, exif=exif(value))), UPRIGHT) == 0


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
@pytest.mark.parametrize(
    "broken", [b"", b"\xff" * 60, b"II*\0\x08\0\0\0\xff\xff", b"MM\0*\0\0\0\x02", b"II*\0" + b"\xff" * 9]
)
def test_broken_exif_leaves_the_picture_as_it_is(broken: bytes) -> None:
    assert decode(save(UPRIGHT, "JPEG", exif=b"Exif\0\0" + broken)).shape == UPRIGHT.shape


def grey_ramp() -> Pixels:
    return np.arange(0, 256, 5, dtype=np.uint8).reshape(4, 13)


def see(*, alpha: int, colour: int) -> int:
    """A colour of this opacity over white."""
    return round((colour * alpha + 255 * (255 - alpha)) / 255)


def palette_image(pixels: Pixels, mode: str = "P") -> Image.Image:
    image = Image.fromarray(pixels).convert("RGB").quantize(16)
    return image.convert(mode)


GREY = Image.fromarray(grey_ramp())
TRANSPARENT = Image.fromarray(np.dstack([UPRIGHT, np.full(UPRIGHT.shape[:2], 128, np.uint8)]))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "BMP"])
def test_a_grey_picture_has_three_equal_channels(form: str) -> None:
    found = decode(save(GREY, form))
    assert apart(found, np.dstack([grey_ramp()] * 3)) <= (8 if form == "JPEG" else 0)
    assert (found[..., 0] == found[..., 1]).all()


@pytest.mark.parametrize("form", ["PNG", "TIFF", "BMP"])
def test_a_one_bit_picture_is_black_and_white(form: str) -> None:
    bits = np.indices((5, 9)).sum(0) % 2 == 0
    assert apart(decode(save(Image.fromarray(bits), form)), np.dstack([bits * 255] * 3).astype(np.uint8)) == 0


@pytest.mark.parametrize("form", ["PNG", "GIF", "BMP", "TIFF"])
def test_a_palette_picture_shows_its_colours(form: str) -> None:
    assert apart(decode(save(palette_image(UPRIGHT), form)), UPRIGHT) == 0


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_a_transparent_palette_entry_is_shown_on_white(form: str) -> None:
    image = palette_image(UPRIGHT)
    hidden = int(np.asarray(image)[0, 0])
    found = decode(save(image, form, transparency=hidden))
    assert (found[:16, :16] == 255).all()
    assert apart(found[16:], UPRIGHT[16:]) == 0


def test_a_palette_with_half_transparent_entries_is_mixed_with_white() -> None:
    found = decode(save(palette_image(UPRIGHT), "PNG", transparency=bytes([128] * 16)))
    assert apart(found, (UPRIGHT * (128 / 255) + 255 * (127 / 255)).round().astype(np.uint8)) <= 1


@pytest.mark.parametrize(("form", "options"), [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})])
def test_a_picture_with_alpha_is_shown_on_white(form: str, options: dict[str, Any]) -> None:
    expected = (UPRIGHT * (128 / 255) + 255 * (127 / 255)).round().astype(np.uint8)
    assert apart(decode(save(TRANSPARENT, form, **options)), expected) <= 1


def test_what_lies_under_full_transparency_is_never_seen() -> None:
    hidden = Image.fromarray(np.dstack([noise(8, 8), np.zeros((8, 8), np.uint8)]))
    assert (decode(save(hidden)) == 255).all()


def test_a_grey_alpha_png_is_shown_on_white() -> None:
    image = Image.merge("LA", (GREY, Image.new("L", GREY.size, 51)))
    expected = np.vectorize(lambda grey: see(alpha=51, colour=int(grey)))(grey_ramp()).astype(np.uint8)
    assert apart(decode(save(image)), np.dstack([expected] * 3)) <= 1


def test_one_transparent_colour_of_an_rgb_png_is_shown_on_white() -> None:
    red, green, blue = (int(channel) for channel in UPRIGHT[0, 0])
    found = decode(save(UPRIGHT, "PNG", transparency=(red, green, blue)))
    assert (found[:16, :16] == 255).all()
    assert apart(found[16:], UPRIGHT[16:]) == 0


def test_one_transparent_grey_is_shown_on_white() -> None:
    assert decode(save(GREY, "PNG", transparency=0))[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("depth", "colour", "row", "marked", "seen"),
    [
        (1, 0, b"\x80", b"\0\0", [255, 255]), (1, 0, b"\x80", b"\0\1", [255, 0]),
        (2, 0, b"\x60", b"\0\1", [255, 170]), (4, 0, b"\x5f", b"\0\5", [255, 255]), (4, 0, b"\x45", b"\0\5", [68, 255]),
        (8, 0, b"\5\6", b"\0\5", [255, 6]), (4, 0, b"\x5f", b"\1\5", [255, 255]),
        (16, 2, b"\0\1\0\2\0\3\x30\1\x30\2\x30\3", b"\x30\1\x30\2\x30\3", [0, 255]),
    ],
)  # fmt: skip
def test_what_a_png_of_any_depth_marks_transparent_is_shown_on_white(
    depth: int, colour: int, row: bytes, marked: bytes, seen: list[int]
) -> None:
    found = decode(png(2, 1, depth, colour, zlib.compress(b"\0" + row), chunk(b"tRNS", marked)))
    assert found[0, :, 0].tolist() == seen


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bit_grey_keeps_its_high_byte(form: str) -> None:
    values = np.array([[0, 255, 256, 0x1234, 0x7FFF, 0x8000, 0xFFFF]], dtype=np.uint16)
    assert decode(save(Image.fromarray(values), form))[0, :, 0].tolist() == [0, 0, 1, 0x12, 0x7F, 0x80, 0xFF]


def test_a_big_endian_sixteen_bit_tiff_is_read_in_its_own_order() -> None:
    values = np.array([[0x0100, 0xFF00]], dtype=">u2")
    image = Image.frombytes("I;16B", (2, 1), values.tobytes())
    assert decode(save(image, "TIFF"))[0, :, 0].tolist() == [1, 255]


def test_sixteen_bit_rgb_keeps_its_high_bytes() -> None:
    rows = zlib.compress(b"\0" + bytes([0x12, 0x99, 0x80, 0, 0xFF, 0xFF]))
    assert decode(png(1, 1, 16, 2, rows)).tolist() == [[[0x12, 0x80, 0xFF]]]


def test_sixteen_bit_transparency_is_shown_on_white() -> None:
    rows = zlib.compress(b"\0" + bytes([0x40, 0, 0x80, 0]))
    assert abs(int(decode(png(1, 1, 16, 4, rows))[0, 0, 0]) - see(alpha=128, colour=64)) <= 1


def test_a_sixteen_bit_grey_level_marked_transparent_is_shown_on_white() -> None:
    rows = zlib.compress(b"\0" + bytes([0x12, 0x34, 0x56, 0x78]))
    found = decode(png(2, 1, 16, 0, rows, extra=chunk(b"tRNS", b"\x12\x34")))
    assert found[0, :, 0].tolist() == [255, 0x56]


def test_a_cmyk_jpeg_has_the_colours_of_its_inks() -> None:
    image = Image.fromarray(UPRIGHT).convert("CMYK")
    found = decode(save(image, "JPEG", quality=95))
    assert apart(found[8::16, 8::16], UPRIGHT[8::16, 8::16]) <= 8


def test_a_cmyk_tiff_has_the_colours_of_its_inks() -> None:
    assert apart(decode(save(Image.fromarray(UPRIGHT).convert("CMYK"), "TIFF")), UPRIGHT) == 0


@pytest.mark.parametrize(
    "options", [{"subsampling": 0}, {"subsampling": 2}, {"progressive": True}, {"restart_marker_rows": 1}]
)
def test_every_kind_of_jpeg_has_the_right_colours(options: dict[str, Any]) -> None:
    assert apart(decode(save(UPRIGHT, "JPEG", quality=95, **options))[8::16, 8::16], UPRIGHT[8::16, 8::16]) <= 4


def adam7(pixels: Pixels) -> bytes:
    """An interlaced PNG (W3C PNG 3, section 8.2): Pillow reads them and does not write them."""
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    rows = b"".join(b"\0" + row.tobytes() for x, y, dx, dy in passes for row in pixels[y::dy, x::dx] if row.size)
    height, width = pixels.shape[:2]
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 1])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(1, 1), (13, 7), (32, 48)])
def test_an_interlaced_png_is_put_together(size: tuple[int, int]) -> None:
    pixels = noise(*size)
    assert apart(decode(adam7(pixels)), pixels) == 0


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_is_seen(form: str) -> None:
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("#ff0000", "#00ff00", "#0000ff")]
    options = {"lossless": True} if form == "WEBP" else {}
    found = decode(save(frames[0], form, save_all=True, append_images=frames[1:], **options))
    assert (found == np.uint8([255, 0, 0])).all()


def test_of_a_multi_picture_jpeg_the_first_is_seen() -> None:
    pair = save(Image.new("RGB", (6, 4), "#ff0000"), "MPO", save_all=True, append_images=[Image.new("RGB", (6, 4))])
    picture = ALL.open(pair)
    assert (picture.format, picture.decode()[0, 0].tolist()) == ("jpeg", [254, 0, 0])


@pytest.mark.parametrize("form", ["png", "jpeg", "webp", "bmp", "gif", "tiff", "avif"])
@pytest.mark.parametrize("size", [(1, 1), (1, 4096), (4096, 1), (3, 1), (1, 3), (3, 3)])
def test_odd_sizes_keep_their_shape(size: tuple[int, int], form: str) -> None:
    width, height = size
    assert decode(save(np.full((height, width, 3), 200, np.uint8), form)).shape == (height, width, 3)


def test_bytes_behind_the_picture_are_left_alone() -> None:
    for form in ("PNG", "JPEG", "GIF", "WEBP", "BMP"):
        data = save(UPRIGHT, form)
        assert apart(decode(data + b"<script>alert(1)</script>PK\x03\x04" * 9), decode(data)) == 0


def test_a_picture_can_be_decoded_again() -> None:
    picture = ALL.open(save(noise(64, 64), "JPEG"))
    reduced, whole = picture.decode(at_least=(8, 8)), picture.decode()
    assert (reduced.shape, whole.shape) == ((8, 8, 3), (64, 64, 3))
    assert apart(whole, picture.decode()) == 0


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("asked", [(1, 1), (20, 30), (50, 50), (75, 100), (80, 101), (100, 20), (200, 200)])
def test_reduced_decoding_never_falls_below_the_size_asked(asked: tuple[int, int], orientation: int) -> None:
    data = save(oriented(orientation, noise(150, 200)), "JPEG", exif=exif(orientation))
    height, width = ALL.open(data).decode(at_least=asked).shape[:2]
    assert width >= min(asked[0], 150)
    assert height >= min(asked[1], 200)


def test_reduced_decoding_skips_work_where_it_may() -> None:
    assert ALL.open(save(noise(800, 400), "JPEG")).decode(at_least=(100, 50)).shape == (50, 100, 3)


def test_a_reduced_jpeg_is_the_mean_of_its_pixels() -> None:
    found = ALL.open(save(UPRIGHT, "JPEG", quality=95)).decode(at_least=(4, 6))
    assert apart(found[::2, ::2], UPRIGHT[8::16, 8::16]) <= 6


def test_a_floating_point_tiff_is_refused_with_what_to_send() -> None:
    image = Image.fromarray(np.ones((2, 2), np.float32))
    with pytest.raises(Exception, match="8 or 16 bits") as refused:
        decode(save(image, "TIFF"))
    assert getattr(refused.value, "code", None) == "unsupported-image"


def test_encoded_pictures_come_back_as_they_were() -> None:
    for pixels in (noise(5, 7), noise(5, 7)[..., 0]):
        assert apart(np.asarray(Image.open(io.BytesIO(encode_png(pixels)), formats=["PNG"])), pixels) == 0


def test_an_encoded_label_map_keeps_its_indices_and_shows_its_palette() -> None:
    labels = np.uint8([[0, 2], [1, 1]])
    found = Image.open(io.BytesIO(encode_png(labels, [(1, 2, 3), (4, 5, 6), (7, 8, 9)])), formats=["PNG"])
    assert np.asarray(found).tolist() == labels.tolist()
    assert np.asarray(found.convert("RGB"))[0].tolist() == [[1, 2, 3], [7, 8, 9]]


def test_a_header_that_announces_more_than_the_data_hold_still_gives_that_size() -> None:
    assert decode(jpeg(64, 96)).shape == (96, 64, 3)


@pytest.mark.parametrize("form", ["png", "jpeg", "gif"])
def test_a_picture_says_what_it_is(form: str) -> None:
    assert repr(ALL.open(save(UPRIGHT, form))) == f"<Picture {form} 32x48>"
