"""Files that are no pictures, broken ones, bombs, and good ones that are odd: what they are, and the right answer.

Those that announce a size they do not have are made by `tests.imaging.pictures`.
"""

import base64
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image

from app.settings import FORMATS
from tests.hostile.damaged import DAMAGED, ROW
from tests.hostile.odd import ODD, PALE, zipped
from tests.imaging import pictures
from tests.imaging.pictures import animated_webp, chunk, corners, gif, noise, png, save

UNSUPPORTED = "415 unsupported-image"
CORRUPT = "422 corrupt-image"
TOO_LARGE = "413 image-too-large"
SOLID = zlib.compress(bytes(1 << 20), 9)


class File(NamedTuple):
    """A file in one format, or in none, and what a service answers that takes this format."""

    form: str
    what: str
    data: bytes
    expected: str

    def expected_by(self, formats: tuple[str, ...]) -> str:
        """What a service answers that takes these formats."""
        return self.expected if self.form in (*formats, "") else UNSUPPORTED


LAUGHS = '<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY a "ha">' + "".join(
    f'<!ENTITY {after} "{f"&{before};" * 10}">' for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)
STRANGERS = {
    "random": np.random.default_rng(1).bytes(5000),
    "zeros": bytes(5000),
    "text": "Grüße, dies ist kein Bild.\n".encode() * 40,
    "zip": b"PK\x03\x04" + bytes(60),
    "zip around a picture": zipped(),
    "elf": b"\x7fELF\x02\x01\x01" + bytes(60),
    "exe": b"MZ\x90\0" + bytes(200),
    "java class": b"\xca\xfe\xba\xbe\0\0\0\x34" + bytes(60),
    "script": b"#!/bin/sh\nrm -rf /\n",
    "pickle": b"\x80\x04\x95\x1c\0\0\0\0\0\0\0\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x02id\x94\x85\x94R\x94.",
    "html": b"<!doctype html><html><img src=x onerror=alert(1)>",
    "svg": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "svg of a billion laughs": f"{LAUGHS}]><svg>&i;</svg>".encode(),
    "pdf": b"%PDF-1.7\n1 0 obj <</Type /Catalog>> endobj\n%%EOF",
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nquit\n",
    "eps with a preview": b"\xc5\xd0\xd3\xc6" + bytes(60),
    "psd": b"8BPS\0\x01" + bytes(6) + struct.pack(">HIIHH", 3, 4, 4, 8, 3) + bytes(40),
    "ico": save(Image.new("RGB", (16, 16)), "ICO"),
    "cursor": b"\0\0\x02\0\x01\0" + bytes(60),
    "icns": save(Image.new("RGBA", (16, 16)), "ICNS"),
    "tga": save(Image.new("RGB", (4, 4)), "TGA"),
    "ppm": save(Image.new("RGB", (4, 4)), "PPM"),
    "pfm": b"PF\n4 4\n-1.0\n" + bytes(192),
    "dds": save(Image.new("RGB", (4, 4)), "DDS"),
    "pcx": save(Image.new("RGB", (4, 4)), "PCX"),
    "sgi": save(Image.new("RGB", (4, 4)), "SGI"),
    "im": b"Image type: RGB\r\nImage size (x*y): 4*4\r\n" + bytes(600),
    "spider": save(Image.new("F", (4, 4)), "SPIDER"),
    "qoi": b"qoif" + struct.pack(">IIBB", 4, 4, 3, 0) + bytes(30),
    "blp": b"BLP2\x01\0\0\0" + bytes(200),
    "fli": b"\x80\0\0\0\x11\xaf\x01\0" + bytes(200),
    "gd": b"\xff\xfe\0\x04\0\x04\x01" + bytes(60),
    "wmf": b"\xd7\xcd\xc6\x9a" + bytes(60),
    "emf": b"\x01\0\0\0" + bytes(36) + b" EMF" + bytes(60),
    "jpeg 2000": save(Image.new("RGB", (4, 4)), "JPEG2000"),
    "jpeg xl": b"\xff\x0a" + bytes(60),
    "heic": b"\0\0\0\x18ftypheic" + bytes(40),
    "mng": b"\x8aMNG\r\n\x1a\n" + bytes(60),
    "fits": b"SIMPLE  =                    T".ljust(80) + b"BITPIX  =                    8".ljust(80),
    "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(60),
    "numpy": b"\x93NUMPY\x01\0" + bytes(60),
    "onnx": b"\x08\x08\x12\x07pytorch" + bytes(60),
    "xbm": b"#define x_width 8\n#define x_height 8\nstatic char x_bits[] = {0};",
    "xpm": b"/* XPM */\nstatic char *x[] = {};",
    "one byte": b"\xff",
    "riff of sound": b"RIFF\x24\0\0\0WAVEfmt " + bytes(40),
    "ogg": b"OggS" + bytes(60),
    "video": b"\0\0\0\x18ftypmp42" + bytes(40),
    "gzip around a picture": zlib.compress(save(corners()), wbits=31),
    "base64 of a picture": base64.b64encode(save(corners())),
    "data url": b"data:image/png;base64,iVBORw0KGgo=",
    "path": b"/etc/passwd",
    "url": b"http://169.254.169.254/latest/meta-data/",
    "a mark of unicode before a picture": b"\xef\xbb\xbf" + save(corners()),
    "a blank before a picture": b"\n" + save(corners()),
    "pdf before a picture": b"%PDF-1.7\n%%EOF\n" + save(corners(), "JPEG"),
    "png of other line ends": save(corners()).replace(b"\r\n\x1a\n", b"\n\x1a\n", 1),
    "gif of another year": b"GIF88a" + gif(4, 4)[6:],
    "bigtiff": b"II+\0\x08\0\0\0" + bytes(60),
}
"""Files in no format that is known."""

BOMBS = {
    "png of one colour": png(50_000, 50_000, rows=SOLID),
    "png of one bit": png(30_000, 30_000, 1, 0, SOLID),
    "png of sixteen bits": png(30_000, 30_000, 16, 0, SOLID),
    "png of all 31 bits": png(2**31 - 1, 2**31 - 1),
    "png of a negative width": png(2**32 - 5, 9),
    "png one row high": png(2**31 - 1, 1),
    "gif screen": gif(65_535, 65_535),
    "gif screen and frame": gif(65_535, 65_535, (65_535, 65_535)),
    "gif frame outside its screen": gif(1, 1, (65_535, 65_535)),
    "webp lossless": pictures.webp(16_383, 16_383),
    "webp canvas": animated_webp(16_383, 16_383),
    "webp canvas of 24 bits": animated_webp(65_535, 65_535),
    "bmp": pictures.bmp(60_000, 60_000),
    "bmp upside down": pictures.bmp(60_000, -60_000),
    "bmp of a negative width": pictures.bmp(-60_000, 60_000),
    "jpeg": pictures.jpeg(65_500, 65_500),
    "tiff": pictures.tiff(2**32 - 1, 2**32 - 1),
    "avif": pictures.avif(9_000, 9_000),
    "png barely too large": png(7072, 7072, rows=SOLID),
    "png above Pillow's own ceiling": png(10_000, 10_000, rows=SOLID),
    "png above twice Pillow's own ceiling": png(14_000, 14_000, rows=SOLID),
}
"""Files of a few bytes that announce more pixels than are decoded; the first word is the format."""

TEXTS: Mapping[str, bytes] = {
    "one that inflates": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(64 << 20), 9)),
    "many": b"".join(chunk(b"tEXt", b"k%d\0value" % number) for number in range(20_000)),
    "a colour profile that inflates": chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(50 << 20), 9)),
    "zeros for EXIF": chunk(b"eXIf", bytes(5 << 20)),
}
"""Chunks of PNG that are much work for whoever reads them."""


def catalogue() -> Iterator[File]:
    """Every file, and the answer to it."""
    yield File("", "empty", b"", "400 empty-body")
    yield from (File("", what, data, UNSUPPORTED) for what, data in STRANGERS.items())
    yield from (File(what.split()[0], f"announcing {what}", data, TOO_LARGE) for what, data in BOMBS.items())
    for what, extra in TEXTS.items():
        answer = "200 red" if what == "zeros for EXIF" else CORRUPT
        yield File("png", f"with texts, {what}", png(4, 1, rows=ROW, extra=extra), answer)
    yield from _broken()
    yield from _good()


def _broken() -> Iterator[File]:
    for form in FORMATS:
        whole = save(noise(120, 90), form)
        for percent in (1, 10, 50, 99):
            yield File(form, f"cut at {percent} %", whole[: len(whole) * percent // 100], CORRUPT)
        for what, data in DAMAGED[form].items():
            yield File(form, what, data, CORRUPT)


def _good() -> Iterator[File]:
    for form, odd in ODD.items():
        for what, made in odd.items():
            yield File(form, what, made if isinstance(made, bytes) else made(), "200 red")
    for what, pale in PALE.items():
        yield File("jpeg" if "JPEG" in what else "png", what, pale(), "200 red")
