"""Picture files for tests, made by Pillow where it can and by hand where it would refuse."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

Pixels = np.ndarray[Any, np.dtype[np.uint8]]

# Four corners, no two alike, in blocks wide enough for JPEG's 16-pixel units to leave their middle alone.
CORNERS = np.array([[(200, 30, 40), (30, 180, 60)], [(50, 60, 210), (220, 210, 40)], [(20, 20, 20), (240, 240, 240)]])


def corners(block: int = 16) -> Pixels:
    """An image of 2 x 3 plain blocks: no turn and no mirroring leaves it as it is."""
    return CORNERS.astype(np.uint8).repeat(block, axis=0).repeat(block, axis=1)


def noise(width: int, height: int, seed: int = 0) -> Pixels:
    """An image that no encoder can make small."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(image: Image.Image | Pixels, form: str = "PNG", **options: Any) -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, form, **options)
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    """A PNG chunk with its right checksum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, depth: int = 8, colour: int = 2, rows: bytes = b"", extra: bytes = b"") -> bytes:
    """A PNG of these header values around whatever compressed rows are given (W3C PNG 3, section 5)."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def gif(width: int, height: int, frame: tuple[int, int] = (1, 1)) -> bytes:
    """A GIF whose logical screen has one size and whose only frame another."""
    screen = struct.pack("<6sHHBBB", b"GIF89a", width, height, 0x80, 0, 0) + bytes(6)
    return screen + struct.pack("<BHHHHB", 0x2C, 0, 0, *frame, 0) + b"\x02\x02\x4c\x01\x00;"


def webp(width: int, height: int) -> bytes:
    """A lossless WebP header (RFC 9649, section 3.4) with nothing behind it that could be decoded."""
    bits = (width - 1) | (height - 1) << 14
    stream = b"\x2f" + struct.pack("<I", bits) + bytes(20)
    return b"RIFF" + struct.pack("<I", 12 + len(stream)) + b"WEBPVP8L" + struct.pack("<I", len(stream)) + stream


def animated_webp(width: int, height: int) -> bytes:
    """A WebP whose canvas (RFC 9649, section 2.7) has this size and whose only frame is one pixel."""
    small = save(np.zeros((1, 1, 3), np.uint8), "WEBP", lossless=True)[12:]
    canvas = b"\x02\0\0\0" + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    frame = bytes(6) + bytes(6) + bytes(3) + b"\0" + small
    chunks = [(b"VP8X", canvas), (b"ANIM", bytes(6)), (b"ANMF", frame)]
    body = b"".join(name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for name, data in chunks)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def bmp(width: int, height: int) -> bytes:
    """A 24-bit BMP header without pixels."""
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + info


def jpeg(width: int, height: int) -> bytes:
    """A baseline JPEG whose frame header (ITU-T T.81, B.2.2) names this size over the data of a small one."""
    small = bytearray(save(corners(), "JPEG"))
    place = small.index(b"\xff\xc0")
    small[place + 5 : place + 9] = struct.pack(">HH", height, width)
    return bytes(small)


def many_scans(count: int) -> bytes:
    """A progressive JPEG (ITU-T T.81, G.1) whose last scan is there `count` more times."""
    whole = save(corners(), "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:-2] + whole[last:-2] * count + whole[-2:]


def avif(width: int, height: int) -> bytes:
    """A small AVIF whose `ispe` property (ISO/IEC 23008-12, 6.5.3) names this size."""
    small = bytearray(save(corners(), "AVIF"))
    place = small.index(b"ispe") + 8
    small[place : place + 8] = struct.pack(">II", width, height)
    return bytes(small)


def tiff(width: int, height: int) -> bytes:
    """A one-strip TIFF whose only pixel is declared to be of this size."""
    tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1)]
    tags += [(278, 4, height), (279, 4, 1)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + bytes(4)


def oriented(orientation: int, upright: Pixels) -> Pixels:
    """How a camera that writes `orientation` stores an image that should be seen `upright` (CIPA DC-008, 4.6.5)."""
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }
    return np.ascontiguousarray(stored[orientation])


def exif(orientation: int) -> Image.Exif:
    """EXIF data with nothing but an orientation."""
    data = Image.Exif()
    data[0x0112] = orientation
    return data
