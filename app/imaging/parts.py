"""Counts the parts of a picture file before a decoder looks at each of them.

Parsers take about a microsecond for each segment, chunk or block, and some copy all they have with every one: 25 MiB of
parts that hold nothing would keep a core busy for seconds, or minutes.
"""

import re
from typing import Final

SMALL: Final = 2**14
"""Bytes of a file whose parts, however many, take some milliseconds."""
_MOST_SEGMENTS: Final = 500
"""Segments of a JPEG before its first scan: a large colour profile has 255 at most, cameras write some twenty."""
_MOST_JUNK: Final = 2**16
"""Bytes between segments that belong to none."""
_MOST_PARTS: Final = 1000
_PART_BYTES: Final = {"png": 1024, "gif": 64}
"""Encoders make chunks of PNG of 8 KiB and more, and blocks of GIF of up to 255 bytes: longer files may have one more
for as many bytes."""
_MARKER: Final = re.compile(rb"\xff([\x01-\xfe])")
_ALONE: Final = frozenset((0x01, *range(0xD0, 0xDA)))
"""Markers without a length behind them (ITU-T T.81, B.1.1.3)."""
_SCAN: Final = 0xDA
_IMAGE, _EXTENSION, _TRAILER = 0x2C, 0x21, 0x3B
_STRIPS: Final = frozenset((273, 279, 324, 325))
"""TIFF tags that hold a number for each strip or tile."""
_MOST_STRIPS: Final = 2**17


def has_too_many_parts(data: bytes, kind: str) -> bool:
    """Whether a file of this format has more parts than any encoder would make."""
    if len(data) <= SMALL:
        return False
    if kind == "jpeg":
        return _jpeg(data)
    if kind == "tiff":
        return _tiff(data)
    if kind in _PART_BYTES:
        most = _MOST_PARTS + len(data) // _PART_BYTES[kind]
        return (_png if kind == "png" else _gif)(data, most)
    return False  # the parsers of the others are written in C, and a thousand times as fast


def _jpeg(data: bytes) -> bool:
    place, junk = 2, 0
    for _ in range(_MOST_SEGMENTS):
        found = _MARKER.search(data, place, place + _MOST_JUNK)
        if found is None:
            return len(data) - place > _MOST_JUNK
        if data[found.start() + 1] == _SCAN:
            return False
        junk += found.start() - place
        if junk > _MOST_JUNK:
            return True
        place = found.end()
        if data[place - 1] not in _ALONE:
            place += max(2, int.from_bytes(data[place : place + 2], "big"))
    return True


def _png(data: bytes, most: int) -> bool:
    place = 8
    for _ in range(most):
        if place >= len(data) or data[place + 4 : place + 8] == b"IEND":
            return False
        place += 12 + int.from_bytes(data[place : place + 4], "big")
    return True


def _gif(data: bytes, most: int) -> bool:
    """Blocks up to the first image (GIF89a, section 15)."""
    place = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    inside = False
    for _ in range(most):
        if place >= len(data) or (not inside and data[place] in (_IMAGE, _TRAILER)):
            return False
        if inside:
            inside = data[place] > 0
            place += 1 + data[place]
        else:
            inside = data[place] == _EXTENSION
            place += 1 + inside
    return True


def _tiff(data: bytes) -> bool:
    """Strips or tiles of the first image (TIFF 6.0, section 2)."""
    order: Final = "little" if data.startswith(b"II") else "big"

    def number(place: int, size: int) -> int:
        return int.from_bytes(data[place : place + size], order)

    first = number(4, 4)
    entries = range(first + 2, first + 2 + 12 * number(first, 2), 12)
    return any(number(entry, 2) in _STRIPS and number(entry + 4, 4) > _MOST_STRIPS for entry in entries)
