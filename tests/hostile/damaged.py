"""Files that begin as pictures do and are none: no decoder can make anything of them."""

import struct
import zlib
from collections.abc import Mapping

from tests.imaging import pictures
from tests.imaging.pictures import animated_webp, chunk, corners, gif, noise, png, save

ROW = zlib.compress(bytes(13))
"""The pixels of a PNG of 4 x 1."""


def chunks(*parts: bytes) -> bytes:
    """A PNG of these chunks."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def header(*, depth: int = 8, colour: int = 2, compression: int = 0, filters: int = 0, interlace: int = 0) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 1, depth, colour, compression, filters, interlace))


DATA, END = chunk(b"IDAT", ROW), chunk(b"IEND", b"")


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]


def segment(marker: int, data: bytes) -> bytes:
    """A segment of a JPEG."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


JPEG = save(corners(), "JPEG")
FRAME, SCAN = JPEG.index(b"\xff\xc0"), JPEG.index(b"\xff\xda")


def edited(place: int, new: bytes) -> bytes:
    """The JPEG with other bytes at one place."""
    return JPEG[:place] + new + JPEG[place + len(new) :]


def riff(*parts: tuple[bytes, bytes]) -> bytes:
    """A WebP of these chunks."""
    body = b"".join(name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for name, data in parts)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def tags(*entries: tuple[int, int, int, int], order: str = "<") -> bytes:
    """A TIFF of these entries: tag, type, count and value."""
    first = b"II*\0\x08\0\0\0" if order == "<" else b"MM\0*\0\0\0\x08"
    packed = b"".join(struct.pack(order + "HHII", *entry) for entry in entries)
    return first + struct.pack(order + "H", len(entries)) + packed + bytes(4)


def bitmap(depth: int = 24, compression: int = 0, size: int = 40, colours: int = 0) -> bytes:
    """A BMP of 4 x 1 pixels with these header values."""
    info = struct.pack("<IiiHHIIiiII", size, 4, 1, 1, depth, compression, 12, 0, 0, colours, 0)
    return b"BM" + struct.pack("<IHHI", 66, 0, 0, 54) + info + bytes(12)


def strip(**other: int) -> bytes:
    """A TIFF of one pixel with some other values."""
    known = {"width": 1, "height": 1, "bits": 8, "compression": 1, "colours": 1, "place": 8, "samples": 1, "bytes": 1}
    values = known | other
    numbers = {"width": 256, "height": 257, "bits": 258, "compression": 259, "colours": 262, "place": 273,
               "samples": 277, "bytes": 279}  # fmt: skip
    return tags(*((numbers[name], 4, 1, value) for name, value in values.items()))


DAMAGED: Mapping[str, Mapping[str, bytes]] = {
    "png": {
        "nothing but its signature": chunks(),
        "no header": chunks(DATA, END),
        "no pixels": chunks(header(), END),
        "pixels before the header": chunks(DATA, header(), END),
        "a header cut short": chunks(chunk(b"IHDR", bytes(12)), DATA, END),
        "a wrong checksum in its header": flipped(save(noise(40, 40)), 29),
        "a wrong byte among its pixels": flipped(save(noise(40, 40)), 100),
        "rows that do not inflate": png(8, 8, rows=b"no deflate stream"),
        "too few rows": png(8, 8, rows=ROW),
        "no width": png(0, 5),
        "no height": png(5, 0),
        "three bits": chunks(header(depth=3), DATA, END),
        "an unknown colour type": chunks(header(colour=5), DATA, END),
        "an unknown filter of rows": chunks(header(), chunk(b"IDAT", zlib.compress(b"\x09" + bytes(12))), END),
        "an unknown critical chunk": chunks(header(), chunk(b"ABCD", b"x"), DATA[:-8], END),
        "a chunk longer than the file": chunks(header(), struct.pack(">I", 2**31 - 1) + b"IDAT" + ROW[:5]),
        "a chunk that is all bits": chunks(header(), struct.pack(">I", 2**32 - 1) + b"tEXt" + ROW),
        "a name that is no letters": chunks(header(), chunk(b"\0\0\0\0", b""), DATA, END),
        "php": b"\x89PNG\r\n\x1a\n<?php system($_GET[0]); ?>" + bytes(99),
    },
    "jpeg": {
        "its start alone": b"\xff\xd8\xff",
        "start and end": b"\xff\xd8\xff\xd9",
        "no frame": JPEG[:FRAME] + JPEG[SCAN:],
        "no scan": JPEG[:SCAN] + b"\xff\xd9",
        "no tables": JPEG[:2] + JPEG[FRAME:],
        "no width": pictures.jpeg(0, 9),
        "no height": pictures.jpeg(9, 0),
        "no component": edited(FRAME + 9, b"\0"),
        "five components": edited(FRAME + 9, b"\5"),
        "twelve bits": edited(FRAME + 4, b"\x0c"),
        "no samples": edited(FRAME + 11, b"\0"),
        "fifteen samples": edited(FRAME + 11, b"\xff"),
        "lossless frames": edited(FRAME + 1, b"\xc3"),
        "a segment of no length": JPEG[:2] + b"\xff\xe1\0\0" + JPEG[2:20],
        "Huffman codes beyond their table": JPEG[:2] + segment(0xC4, b"\0" + b"\xff" * 16 + bytes(9)) + JPEG[2:],
        "a table number beyond the last": edited(SCAN + 6, b"\xff"),
        "php": b"\xff\xd8\xff<?php system($_GET[0]); ?>" + bytes(99),
        "endless scans": pictures.many_scans(100_000),
        "endless segments": JPEG[:2] + segment(0xE1, b"") * 20_000 + JPEG[2:],
    },
    "webp": {
        "nothing in it": riff(),
        "a length of nothing": b"RIFF\0\0\0\0WEBP",
        "a length of everything": b"RIFF\xff\xff\xff\xffWEBPVP8 \xff\xff\xff\xff" + bytes(20),
        "an unknown chunk": riff((b"ABCD", bytes(20))),
        "a broken lossy stream": riff((b"VP8 ", b"\x30\x01\0\x9d\x01\x2a\x04\0\x04\0" + bytes(9))),
        "a broken lossless stream": riff((b"VP8L", b"\x2f\x03\0\0\0" + b"\xff" * 30)),
        "a canvas without a picture": riff((b"VP8X", b"\0\0\0\0\x09\0\0\x09\0\0")),
        "a frame outside its canvas": animated_webp(1, 1).replace(b"ANMF", b"ANMG"),
        "zeros behind its signature": b"RIFF\x24\0\0\0WEBP" + bytes(40),
    },
    "gif": {
        "nothing but its signature": b"GIF89a",
        "no frame": gif(4, 4)[:19] + b";",
        "codes of 255 bits": gif(4, 4).replace(b"\x02\x02\x4c\x01", b"\xff\x02\x4c\x01"),
        "a frame of nothing": gif(4, 4, (0, 0)),
        "blocks without end": gif(4, 4)[:19] + b"!\xfe" + b"\xff" + bytes(100),
    },
    "bmp": {
        "nothing but its signature": b"BM",
        "no pixels": pictures.bmp(0, 0),
        "seven bits": bitmap(7),
        "an unknown compression": bitmap(compression=99),
        "a header of no bytes": bitmap(size=0),
        "a header of a million bytes": bitmap(size=1_000_000),
        "a palette of all colours": bitmap(8, colours=2**31),
        "runs beyond its end": bitmap(8, compression=1, colours=1),
    },
    "tiff": {
        "nothing but its signature": b"II*\0",
        "no entries": tags(),
        "a directory at its own start": b"II*\0\0\0\0\0" + bytes(20),
        "a directory beyond its end": b"II*\0\xff\xff\xff\x7f",
        "a directory in itself": b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 330, 4, 1, 8) + struct.pack("<I", 8),
        "more entries than bytes": b"MM\0*\0\0\0\x08\xff\xff" + bytes(60),
        "no pixels": pictures.tiff(0, 0),
        "a strip beyond its end": strip(place=2**31, bytes=2**31),
        "an unknown compression": strip(compression=60_000),
        "no bits": strip(bits=0),
        "a thousand samples": strip(samples=1000),
    },
    "avif": {
        "a box alone": b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf",
        "a box of nothing": b"\0\0\0\0ftypavif" + bytes(40),
        "zeros for boxes": b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + bytes(200),
        "places beyond its end": save(corners(), "AVIF").replace(b"iloc\0\0\0\0\x44", b"iloc\0\0\0\0\xff"),
    },
}
"""What no decoder can make a picture of, by format."""
