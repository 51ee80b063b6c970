"""Files of very many parts: what no encoder makes is refused soon, what encoders make is decoded."""

import struct
import zlib

import pytest
from PIL import Image, PngImagePlugin

from app.errors import CorruptImage
from app.imaging.codec import Decoder
from app.settings import FORMATS
from tests.imaging.memory import memory_of
from tests.imaging.pictures import chunk, corners, noise, save

ALL = Decoder(FORMATS)
LENGTH = 8 << 20
JPEG, PNG, GIF = (save(corners(), form) for form in ("JPEG", "PNG", "GIF"))
PIXELS = PNG.index(b"IDAT") - 4
END = PNG.index(b"IEND") - 4
FRAME = GIF.index(b"\x2c\0\0\0\0")


def segment(marker: int, body: bytes = b"") -> bytes:
    """A segment of a JPEG (ITU-T T.81, B.1.1.4)."""
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body


def repeated(part: bytes) -> bytes:
    return part * (LENGTH // len(part))


def strips(count: int) -> bytes:
    """A TIFF one pixel wide, with a strip for each row."""
    offsets = 8 + 2 + 8 * 12 + 4
    tags = [(256, 3, 1, 1), (257, 4, 1, count), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1),
            (273, 4, count, offsets), (278, 3, 1, 1), (279, 4, count, offsets + 4 * count)]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    numbers = struct.pack("<I", 8) * count + struct.pack("<I", 1) * count
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + bytes(4) + numbers


FLOODS = {
    "JPEG: empty segments": JPEG[:2] + repeated(segment(0xE0)) + JPEG[2:],
    "JPEG: EXIF again and again": JPEG[:2] + repeated(segment(0xE1, b"Exif\0\0" + bytes(20))) + JPEG[2:],
    "JPEG: restart markers": JPEG[:2] + repeated(b"\xff\xd0") + JPEG[2:],
    "JPEG: fill bytes": JPEG[:2] + b"\xff" * LENGTH + JPEG[2:],
    "JPEG: zeros behind fill bytes": JPEG[:2] + repeated(b"\xff\0") + JPEG[2:],
    "JPEG: bytes between segments": JPEG[:20] + bytes([7]) * LENGTH + JPEG[20:],
    "JPEG: all of these": JPEG[:20] + repeated(segment(0xFE) + b"\xff\0\xff\xff" + b"7" * 1000) + JPEG[20:],
    "PNG: unknown chunks": PNG[:PIXELS] + repeated(chunk(b"abCd", b"")) + PNG[PIXELS:],
    "PNG: texts": PNG[:PIXELS] + repeated(chunk(b"tEXt", b"k\0v")) + PNG[PIXELS:],
    "PNG: empty pixels": PNG[:PIXELS] + repeated(chunk(b"IDAT", b"")) + PNG[PIXELS:],
    "PNG: chunks behind the pixels": PNG[:END] + repeated(chunk(b"abCd", b"")) + PNG[END:],
    "GIF: short blocks": GIF[:FRAME] + b"\x21\xfe" + repeated(b"\x01a") + b"\0" + GIF[FRAME:],
    "GIF: extensions": GIF[:FRAME] + repeated(b"\x21\xfe\x01a\0") + GIF[FRAME:],
    "GIF: bytes between blocks": GIF[:FRAME] + bytes([1]) * LENGTH + GIF[FRAME:],
    "TIFF: strips of one pixel": strips(1_000_000),
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_file_of_parts_that_hold_nothing_is_refused_soon(name: str) -> None:
    with memory_of(mebibytes=16, seconds=0.2), pytest.raises(CorruptImage, match="more parts than any encoder makes"):
        ALL.open(FLOODS[name])


def text_of(kibibytes: int) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", "x" * (kibibytes << 10))
    return info


USUAL = {
    "JPEG: a profile of many segments": save(corners(), "JPEG", icc_profile=noise(2000, 2000).tobytes()),
    "JPEG: a long text": JPEG[:2] + segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + bytes(65_000)) * 100 + JPEG[2:],
    "JPEG: some bytes between segments": JPEG[:20] + b"7" * 20_000 + JPEG[20:],
    "JPEG: an archive behind it": JPEG + b"PK\x03\x04" + repeated(segment(0xE0)),
    "PNG: many chunks of pixels": save(noise(700, 700)),
    "PNG: a long text": save(corners(), pnginfo=text_of(1000)),
    "PNG: zeros behind it": PNG + bytes(1 << 20),
    "GIF: a long comment": save(corners(), "GIF", comment=b"x" * 100_000),
    "TIFF: a strip for each of many rows": strips(100_000),
}


@pytest.mark.parametrize("name", USUAL)
def test_a_file_of_as_many_parts_as_encoders_make_is_decoded(name: str) -> None:
    assert ALL.open(USUAL[name]).decode().size


def test_texts_that_inflate_together_take_no_memory() -> None:
    texts = b"".join(chunk(b"zTXt", b"k%d\0\0" % number + zlib.compress(bytes(1 << 20), 9)) for number in range(60))
    with memory_of(mebibytes=16, seconds=0.5), pytest.raises(CorruptImage):
        ALL.open(PNG[:PIXELS] + texts + PNG[PIXELS:])


@pytest.mark.filterwarnings("ignore:.*:UserWarning:PIL")
def test_tags_that_all_point_to_the_same_data_take_no_memory() -> None:
    tags = b"".join(struct.pack("<HHII", 1000 + tag, 7, 1 << 20, 8) for tag in range(60_000))
    exif = b"II*\0" + struct.pack("<IH", 8, 60_000) + tags + bytes(1 << 20)
    data = PNG[:PIXELS] + chunk(b"eXIf", exif) + PNG[PIXELS:]
    with memory_of(mebibytes=64, seconds=2):
        assert ALL.open(data).decode().shape == (48, 32, 3)


def test_frames_behind_the_first_are_not_looked_at() -> None:
    frames = [Image.fromarray(noise(64, 64, seed)) for seed in range(60)]
    for form in ("GIF", "WEBP", "PNG", "TIFF", "AVIF"):
        data = save(frames[0], form, save_all=True, append_images=frames[1:])
        cut = data[: len(data) // 2]
        assert ALL.open(data).decode().shape == (64, 64, 3)
        if form in ("GIF", "PNG"):  # the others say at their beginning how long they are
            assert ALL.open(cut).decode().shape == (64, 64, 3)
