"""What no picture should do: damage, strangers, bombs. Every answer is an error of `app.errors`, or a picture."""

import ast
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from app.errors import CorruptImage, EmptyBody, ImageTooLarge, ServiceError, UnsupportedImage
from app.imaging.codec import Decoder, sniff
from app.settings import FORMATS
from tests.hostile.damaged import flipped
from tests.hostile.files import BOMBS, STRANGERS, TEXTS
from tests.imaging import pictures
from tests.imaging.memory import memory_of
from tests.imaging.pictures import Pixels, corners, noise, png, save

ALL = Decoder(FORMATS)
APP = Path(__file__).parents[2] / "app"


def decode(data: bytes, decoder: Decoder = ALL) -> Pixels:
    return decoder.open(data).decode()


def test_no_bytes_are_an_empty_body() -> None:
    with pytest.raises(EmptyBody):
        ALL.open(b"")


@pytest.mark.parametrize("name", STRANGERS)
def test_a_file_that_is_no_picture_taken_here_is_unsupported(name: str) -> None:
    with pytest.raises(UnsupportedImage, match="no picture in a known format: send JPEG, PNG, WEBP, BMP"):
        ALL.open(STRANGERS[name])


@pytest.mark.parametrize("form", FORMATS)
def test_a_format_that_is_switched_off_is_named_and_refused(form: str) -> None:
    others = [other for other in FORMATS if other != form]
    with pytest.raises(UnsupportedImage, match=f"a {form.upper()} picture: send "):
        Decoder(others).open(save(corners(), form))


def test_by_default_three_formats_are_taken() -> None:
    assert Decoder().formats == ("jpeg", "png", "webp")
    with pytest.raises(UnsupportedImage, match="send JPEG, PNG or WEBP"):
        Decoder().open(save(corners(), "GIF"))


@pytest.mark.parametrize("percent", [1, 10, 50, 99])
@pytest.mark.parametrize("form", FORMATS)
def test_a_picture_cut_short_is_corrupt(form: str, percent: int) -> None:
    whole = save(noise(120, 90), form)
    with pytest.raises(CorruptImage, match=f"{form.upper()} picture"):
        decode(whole[: len(whole) * percent // 100])


@pytest.mark.filterwarnings("ignore:.*:UserWarning:PIL")
@pytest.mark.parametrize("form", FORMATS)
def test_every_length_of_a_cut_file_is_a_picture_or_an_error_of_ours(form: str) -> None:
    whole = save(noise(12, 9), form)
    outcomes = [outcome(whole[:length]) for length in range(len(whole))]
    assert set(outcomes) <= {"empty-body", "unsupported-image", "corrupt-image", "image-too-large", (9, 12, 3)}
    assert "corrupt-image" in outcomes


@pytest.mark.filterwarnings("ignore:.*:UserWarning:PIL")
@pytest.mark.parametrize("form", FORMATS)
def test_flipped_bytes_give_a_picture_or_an_error_of_ours(form: str) -> None:
    random = np.random.default_rng(FORMATS.index(form))
    whole = np.frombuffer(save(noise(24, 17), form), np.uint8)
    small = Decoder(FORMATS, max_pixels=1_000_000)
    for _ in range(150):
        broken = whole.copy()
        places = random.integers(0, min(len(broken), random.choice([40, 400, 4000])), 4)
        broken[places] = random.integers(0, 256, 4)
        assert outcome(broken.tobytes(), small)


def outcome(data: bytes, decoder: Decoder = ALL) -> object:
    """The shape of what was decoded, or the code of the error; anything else is a failure of the codec."""
    try:
        return decode(data, decoder).shape
    except ServiceError as error:
        return error.code


def test_a_png_header_with_a_wrong_checksum_is_corrupt() -> None:
    data = save(noise(40, 40))
    with pytest.raises(CorruptImage):
        decode(flipped(data, data.index(b"IHDR") + 17))


@pytest.mark.parametrize("place", [2, 60, 1000, -1])
def test_a_png_with_a_wrong_byte_among_its_pixels_is_corrupt(place: int) -> None:
    data = save(noise(40, 40))
    first, behind = data.index(b"IDAT") + 4, data.index(b"IEND") - 8
    with pytest.raises(CorruptImage):
        decode(flipped(data, (first if place >= 0 else behind) + place))


def test_a_png_whose_rows_do_not_inflate_is_corrupt() -> None:
    with pytest.raises(CorruptImage, match="damaged or cut short"):
        decode(png(8, 8, rows=b"no deflate stream"))


@pytest.mark.parametrize("data", [png(0, 5), png(5, 0), pictures.bmp(0, 0), pictures.tiff(0, 0), pictures.jpeg(0, 0)])
def test_a_header_of_no_pixels_is_corrupt(data: bytes) -> None:
    with pytest.raises(CorruptImage):
        decode(data)


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_by_its_header_with_flat_memory(name: str) -> None:
    with (
        memory_of(mebibytes=16, seconds=0.2),
        pytest.raises(ImageTooLarge, match="at most 50000000 pixels are decoded"),
    ):
        ALL.open(BOMBS[name])


def test_the_memory_limit_of_these_tests_is_felt() -> None:
    with memory_of(mebibytes=16, seconds=1), pytest.raises(MemoryError):
        bytearray(64 << 20)


def test_a_picture_too_large_is_told_its_size() -> None:
    with pytest.raises(ImageTooLarge, match="7072 x 7072"):
        ALL.open(BOMBS["png barely too large"])


@pytest.mark.parametrize("form", FORMATS)
def test_the_pixel_limit_itself_is_allowed_and_one_row_more_is_not(form: str) -> None:
    decoder = Decoder(FORMATS, max_pixels=64 * 48)
    assert decode(save(noise(64, 48), form), decoder).shape == (48, 64, 3)
    with pytest.raises(ImageTooLarge, match="64 x 49"):
        decoder.open(save(noise(64, 49), form))


@pytest.mark.parametrize("name", TEXTS)
def test_a_small_png_with_megabytes_of_text_is_little_work(name: str) -> None:
    data = png(4, 1, rows=zlib.compress(bytes(13)), extra=TEXTS[name])
    with memory_of(mebibytes=64, seconds=1):
        assert outcome(data) in {(1, 4, 3), "corrupt-image"}


def test_a_progressive_jpeg_of_endless_scans_is_refused_before_decoding() -> None:
    assert decode(pictures.many_scans(500)).shape == (48, 32, 3)
    with memory_of(mebibytes=16, seconds=0.2), pytest.raises(CorruptImage, match="more than 1000 scans"):
        ALL.open(pictures.many_scans(100_000))


def test_an_avif_beyond_what_its_own_library_takes_is_refused() -> None:
    with memory_of(mebibytes=16, seconds=0.2), pytest.raises(ServiceError):
        ALL.open(pictures.avif(60_000, 60_000))


def test_a_tiff_that_points_to_itself_ends() -> None:
    loop = b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 330, 4, 1, 8) + struct.pack("<I", 8)
    assert outcome(loop) == "corrupt-image"


@pytest.mark.filterwarnings("ignore:.*:UserWarning:PIL")
@pytest.mark.parametrize(
    "front", [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"RIFF\0\0\0\0WEBP", b"II*\0"]
)
def test_a_signature_before_nonsense_is_corrupt(front: bytes) -> None:
    assert outcome(front + b"<?php system($_GET[0]); ?>" * 20) in {"corrupt-image", "image-too-large"}


@pytest.mark.parametrize("name", ["pdf", "html", "zip", "elf"])
def test_a_picture_behind_something_else_is_not_looked_for(name: str) -> None:
    with pytest.raises(UnsupportedImage):
        ALL.open(STRANGERS[name] + save(corners()))


def test_what_is_recognised_is_a_format_that_can_be_switched() -> None:
    seen = {sniff(save(corners(), form)) for form in FORMATS} | {sniff(data) for data in STRANGERS.values()}
    assert seen == {*FORMATS, None}


def test_pillow_is_told_the_format_wherever_it_opens_a_file() -> None:
    calls = [
        call
        for path in APP.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and ast.unparse(call.func) in {"Image.open", "PIL.Image.open"}
    ]
    assert calls
    assert all("formats" in {keyword.arg for keyword in call.keywords} for call in calls)
