"""Good pictures that are rare: depths, modes, orientations, frames, and whatever else a file may carry."""

import io
import zipfile
import zlib
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image, ImageCms

from tests.hostile.damaged import segment
from tests.imaging.pictures import chunk, corners, exif, oriented, png, save

RED = (230, 20, 25)


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("picture.png", save(corners()))
    return buffer.getvalue()


def red(mode: str = "RGB", width: int = 16, height: int = 12) -> Image.Image:
    """A red picture of this mode, light grey where there are no colours."""
    image = Image.new("RGB", (width, height), RED)
    return image.quantize(4) if mode == "P" else image.convert(mode)


def turned(orientation: int) -> bytes:
    """A picture that is red when it stands upright."""
    image = Image.fromarray(oriented(orientation if 1 <= orientation <= 8 else 1, np.asarray(red())))
    return save(image, "JPEG", exif=exif(orientation), quality=95)


def frames(form: str, count: int) -> bytes:
    """An animation whose first frame is red, and all others blue."""
    others = [Image.new("RGB", (16, 12), (10, 10, 100 + number)) for number in range(count)]
    return save(red(), form, save_all=True, append_images=others)


def transparent() -> Image.Image:
    """A red spot on nothing: shown on white."""
    image = Image.new("RGBA", (16, 12), (0, 0, 255, 0))
    image.paste((*RED, 255), (0, 0, 12, 12))
    return image


def profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


SIXTEEN = np.full((12, 16, 3), (60_000, 4000, 5000), ">u2")
SIXTEEN_ROWS = zlib.compress(b"".join(b"\0" + row.tobytes() for row in SIXTEEN))
RED_PNG, RED_JPEG, RED_WEBP = (save(red(), form) for form in ("PNG", "JPEG", "WEBP"))

ODD: Mapping[str, Mapping[str, Callable[[], bytes] | bytes]] = {
    "png": {
        "of one pixel": lambda: save(red(width=1, height=1)),
        "of 3 x 1": lambda: save(red(width=3, height=1)),
        "of 1 x 3": lambda: save(red(width=1, height=3)),
        "of 3 x 3": lambda: save(red(width=3, height=3)),
        "of 1 x 4096": lambda: save(red(width=1, height=4096)),
        "of 65535 x 1": lambda: save(red(width=65_535, height=1)),
        "with a palette": lambda: save(red("P")),
        "with a palette and transparency": lambda: save(red("P"), transparency=3),
        "with transparency": lambda: save(transparent()),
        "of sixteen bits a colour": png(16, 12, 16, 2, SIXTEEN_ROWS),
        "in two directions": lambda: save(red(), interlace=True),
        "animated": lambda: frames("PNG", 9),
        "with four hundred frames": lambda: frames("PNG", 400),
        "with a colour profile": lambda: save(red(), icc_profile=profile()),
        "with no colour profile": lambda: save(red(), icc_profile=b"x" * 5000),
        "with EXIF that is none": lambda: save(red(), exif=b"Exif\0\0" + b"\xff" * 500),
        "with other bytes behind it": RED_PNG + b"<script>alert(1)</script>" * 99,
        "with a zip behind it": RED_PNG + zipped(),
        "with another picture behind it": RED_PNG + save(corners()),
        "with a chunk of text": RED_PNG[:33] + chunk(b"tEXt", b"Comment\0<script>") + RED_PNG[33:],
    },
    "jpeg": {
        "progressive": lambda: save(red(), "JPEG", progressive=True),
        "with a quarter of its colours": lambda: save(red(), "JPEG", subsampling=2),
        "with all of its colours": lambda: save(red(), "JPEG", subsampling=0),
        "of four inks": lambda: save(red("CMYK"), "JPEG"),
        "of bad quality": lambda: save(red(), "JPEG", quality=1),
        "of 65500 x 1": lambda: save(red(width=65_500, height=1), "JPEG"),
        "with restarts": lambda: save(red(), "JPEG", restart_marker_blocks=1),
        "with fill bytes": RED_JPEG[:2] + b"\xff" * 500 + RED_JPEG[2:],
        "with a comment": lambda: save(red(), "JPEG", comment=b"'; DROP TABLE models; --" * 99),
        "with a colour profile": lambda: save(red(), "JPEG", icc_profile=profile()),
        "with no colour profile": lambda: save(red(), "JPEG", icc_profile=b"\0" * 200_000),
        "with EXIF that is none": RED_JPEG[:2] + segment(0xE1, b"Exif\0\0" + b"\xff" * 500) + RED_JPEG[2:],
        "with an unknown orientation": lambda: turned(9),
        "with no orientation": lambda: turned(0),
        "with the largest orientation": lambda: turned(65_535),
        "with four hundred segments": RED_JPEG[:2] + segment(0xE2, bytes(99)) * 400 + RED_JPEG[2:],
        "with php behind it": RED_JPEG + b"<?php system($_GET[0]); ?>",
        "with php in a comment": lambda: save(red(), "JPEG", comment=b"<?php system($_GET[0]); ?>"),
        "with a zip behind it": RED_JPEG + zipped(),
        "with zeros behind it": RED_JPEG + bytes(100_000),
        "of several pictures": lambda: frames("MPO", 2),
        **{f"stored as {number}": lambda number=number: turned(number) for number in range(1, 9)},  # type: ignore[misc]
    },
    "webp": {
        "without loss": lambda: save(red(), "WEBP", lossless=True),
        "with transparency": lambda: save(transparent(), "WEBP"),
        "animated": lambda: frames("WEBP", 9),
        "with three hundred frames": lambda: frames("WEBP", 300),
        "with EXIF": lambda: save(red(), "WEBP", exif=exif(1)),
        "with XMP that is none": lambda: save(red(), "WEBP", xmp=b"\xff" * 50_000),
        "with other bytes behind it": RED_WEBP + b"<script>" * 99,
    },
    "gif": {
        "plain": lambda: save(red(), "GIF"),
        "animated": lambda: frames("GIF", 9),
        "with scripts behind it": lambda: save(red(), "GIF") + b"/*<script>alert(1)</script>*/",
        "with a comment of scripts": lambda: save(red(), "GIF", comment=b"*/=1;alert(1)//"),
    },
    "bmp": {"plain": lambda: save(red(), "BMP"), "with a palette": lambda: save(red("P"), "BMP")},
    "tiff": {
        "plain": lambda: save(red(), "TIFF"),
        "of four inks": lambda: save(red("CMYK"), "TIFF"),
        "compressed": lambda: save(red(), "TIFF", compression="tiff_lzw"),
        "of many pages": lambda: frames("TIFF", 100),
    },
    "avif": {"plain": lambda: save(red(), "AVIF"), "animated": lambda: frames("AVIF", 3)},
}
"""Good pictures, all of them red, by format."""

PALE: Mapping[str, Callable[[], bytes]] = {
    "grey": lambda: save(red("L")),
    "of one bit": lambda: save(red("1")),
    "grey with transparency": lambda: save(red("LA")),
    "of sixteen bits": lambda: save(Image.fromarray(np.full((12, 16), 40_000, np.uint16))),
    "grey JPEG": lambda: save(red("L"), "JPEG"),
    "one colour": lambda: save(Image.new("P", (16, 12))),
}
"""Good pictures without colours: of equal probabilities the first label is the best."""
