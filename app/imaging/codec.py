"""From the bytes of a picture to an image, and back: formats, limits, orientation, pixel types.

A picture is recognised by its first bytes, never by what its sender calls it, and its size is checked from the
header before a pixel is decoded. Transparent pixels are shown on white, as a browser shows them.
"""

import io
import struct
import warnings
import zlib
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, PngImagePlugin

from app.errors import CorruptImage, EmptyBody, ImageTooLarge, UnsupportedImage
from app.imaging.budget import Budget
from app.imaging.parts import has_too_many_parts

ImageArray = NDArray[np.uint8]
"""An image: uint8, height x width x 3, RGB."""

DEFAULT_FORMATS: Final = ("jpeg", "png", "webp")

# Pillow only warns between one and two times its ceiling; its security page asks to make that an error.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
# What else it warns of is damage in pictures of strangers, who would write lines into the operator's log.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

# Texts beside the pixels are read by nobody here, and inflate to a thousand times their size.
PngImagePlugin.MAX_TEXT_MEMORY = 4 * 2**20

# Decoders run parsers over bytes from strangers, and these are what Pillow's raise when the bytes make no sense.
_BROKEN = (
    OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, OverflowError, RuntimeError,
    AttributeError, struct.error, zlib.error,
)  # fmt: skip
_ORIENTATION = 0x0112
_MAX_SCANS = 1000
"""Encoders write at most a dozen scans of a progressive JPEG. Each takes up to a millisecond of decoding for some 20
bytes, so that 25 MiB of them would keep a core busy for ten minutes."""
_STRIP: Final = 2**20
"""Pixels that are shown on white at once."""
_BYTES: Final = {"webp": 20}
_USUAL_BYTES: Final = 10
"""Memory that decoding a pixel takes at most: several copies of four bytes each, which WebP has more of."""
_UNCOUNTED_PIXELS: Final = 2**15
"""Pixels that take less than a mebibyte whatever they are in: they are decoded on the event loop's thread, which may
not wait."""
_COEFFICIENT_BYTES: Final = 6
"""What libjpeg keeps of every pixel of a progressive JPEG, at whatever scale it is decoded."""
_TRANSPOSE: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def sniff(data: bytes) -> str | None:
    """The format that the first bytes announce (jpeg, png, webp, gif, tiff, avif or bmp), or None."""
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if data.startswith((b"II*\0", b"MM\0*")):
        return "tiff"
    if data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"avis", b"mif1"):
        return "avif"
    return "bmp" if data.startswith(b"BM") else None


class Picture:
    """A picture whose header was read and found within the limits; its pixels are decoded on request."""

    def __init__(self, data: bytes, kind: str, opened: ImageFile.ImageFile, budget: Budget) -> None:
        self._data = data
        self._budget = budget
        self._opened: ImageFile.ImageFile | None = opened
        self.format = kind
        self._orientation = _orientation(opened)
        self.is_progressive = "progressive" in opened.info
        sides = opened.size
        self.width, self.height = sides[::-1] if self._orientation >= 5 else sides

    def __repr__(self) -> str:
        return f"<Picture {self.format} {self.width}x{self.height}>"

    @property
    def pixels(self) -> int:
        """Width times height."""
        return self.width * self.height

    def decode(self, at_least: tuple[int, int] | None = None) -> ImageArray:
        """Decode to uint8 [height, width, 3] RGB, upright; `at_least` and errors as in `raster`."""
        return np.asarray(self.raster(at_least))

    def raster(self, at_least: tuple[int, int] | None = None, keep_grey: bool = False) -> Image.Image:
        """Decode to a Pillow image, upright: of mode RGB, or L with `keep_grey` where the picture is grey itself.

        With `at_least` (width, height) a JPEG may come out smaller than it is, at 1/2, 1/4 or 1/8 of its sides but
        not below that size: libjpeg then skips most of the work (ITU-T T.81 coefficients are scaled, not pixels).

        Raises:
            CorruptImage: the data end early or make no sense.
            UnsupportedImage: the pixels are floating point numbers.
            Overloaded: so much is being decoded that there was no room for this picture in time.
        """
        opened, self._opened = self._opened or _open(self._data, self.format), None
        try:
            if at_least is not None and self.format == "jpeg":
                opened.draft(None, at_least[::-1] if self._orientation >= 5 else at_least)
            if self.pixels <= _UNCOUNTED_PIXELS:
                return self._upright(opened, keep_grey)
            with self._budget.take(self.bytes_needed(*opened.size)):
                return self._upright(opened, keep_grey)
        except _BROKEN as error:
            raise CorruptImage(
                f"The {self.format.upper()} picture cannot be decoded: it is damaged or cut short."
            ) from error

    def _upright(self, opened: ImageFile.ImageFile, keep_grey: bool) -> Image.Image:
        if self.format == "png":
            _scale_transparent(opened, depth=self._data[24])
        image = _to_rgb(opened, keep_grey)
        turn = _TRANSPOSE.get(self._orientation)
        return image if turn is None else image.transpose(turn)

    def bytes_needed(self, width: int, height: int) -> int:
        """Memory that it takes at most to decode to so many pixels."""
        kept = self.pixels * _COEFFICIENT_BYTES if self.is_progressive else 0
        return width * height * _BYTES.get(self.format, _USUAL_BYTES) + kept


class Decoder:
    """Opens pictures in the formats allowed, of at most `max_pixels` pixels; all of them share a `budget` of memory."""

    def __init__(
        self, formats: Iterable[str] = DEFAULT_FORMATS, max_pixels: int = 50_000_000, budget: Budget | None = None
    ) -> None:
        self.formats = tuple(formats)
        self.max_pixels = max_pixels
        self._budget = budget or Budget()

    def open(self, data: bytes) -> Picture:
        """Recognise a picture by its first bytes and check its header; no pixel is decoded yet.

        Raises:
            EmptyBody: there are no bytes.
            UnsupportedImage: not a picture, or a format that is not allowed here.
            CorruptImage: the header makes no sense, or no encoder would write so many parts or scans.
            ImageTooLarge: the header announces more than `max_pixels` pixels.
        """
        if not data:
            raise EmptyBody
        kind = sniff(data)
        if kind not in self.formats:
            found = "no picture in a known format" if kind is None else f"a {kind.upper()} picture"
            raise UnsupportedImage(f"The bytes are {found}: send {_spoken(self.formats)}.")
        if has_too_many_parts(data, kind):
            raise CorruptImage(f"The {kind.upper()} picture has more parts than any encoder makes.")
        try:
            opened = _open(data, kind)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise ImageTooLarge(self.max_pixels) from None
        width, height = opened.size
        if width * height > self.max_pixels:
            raise ImageTooLarge(self.max_pixels, (width, height))
        picture = Picture(data, kind, opened, self._budget)
        if picture.is_progressive and data.count(b"\xff\xda") > _MAX_SCANS:
            raise CorruptImage(f"The JPEG picture has more than {_MAX_SCANS} scans.")
        return picture


def encode_png(pixels: NDArray[np.uint8], palette: Sequence[tuple[int, int, int]] | None = None) -> bytes:
    """Encode uint8 [height, width] (grey, or indices into `palette`) or [height, width, 3] RGB as PNG (W3C PNG 3)."""
    image = Image.fromarray(pixels)
    if palette is not None:
        image.putpalette([channel for colour in palette for channel in colour])
    buffer = io.BytesIO()
    # Level 1 and not zlib's default: an overlay of 480x360 takes 11 ms instead of 43 for a tenth more bytes, a label
    # map 1.0 ms instead of 1.7 for a third more (`benchmarks/png_level.py`).
    image.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


LONGEST_SIDE: Final = {"jpeg": 65_500, "webp": 16_383}
"""Pixels of a side that an encoder writes: libjpeg's `JPEG_MAX_DIMENSION`, libwebp's `WEBP_MAX_DIMENSION`."""


def encode_as(pixels: ImageArray, encoding: str, quality: int) -> bytes:
    """Encode uint8 [height, width, 3] RGB as `png`, or as `jpeg` or `webp` of a quality from 1 to 100, within
    `LONGEST_SIDE`."""
    if encoding == "png":
        return encode_png(pixels)
    buffer = io.BytesIO()
    # WebP's quicker methods, since a caller waits; JPEG has no such choice and passes over it.
    Image.fromarray(pixels).save(buffer, format=encoding.upper(), quality=quality, method=1)
    return buffer.getvalue()


def _open(data: bytes, kind: str) -> ImageFile.ImageFile:
    try:
        return Image.open(io.BytesIO(data), formats=[kind.upper()])
    except _BROKEN as error:
        raise CorruptImage(f"The header of the {kind.upper()} picture makes no sense: it is damaged.") from error


def _orientation(opened: ImageFile.ImageFile) -> int:
    """The EXIF orientation (CIPA DC-008, tag 0x0112), 1 where there is none, it cannot be read or is not ours to apply:
    Pillow turns TIFF pictures itself."""
    if opened.format == "TIFF" or not opened.info.keys() & {"exif", "Raw profile type exif"}:
        return 1
    try:
        value = opened.getexif().get(_ORIENTATION, 1)
    except _BROKEN:
        return 1
    return value if value in _TRANSPOSE else 1


def _scale_transparent(image: Image.Image, depth: int) -> None:
    """Bring the grey or colour that a PNG marks as transparent (W3C PNG 3, section 11.3.1.1) to the 8 bits that its
    pixels are decoded to: Pillow leaves it in those of the file."""
    marked = image.info.get("transparency")
    if isinstance(marked, int) and image.mode == "L" and depth < 8:
        most = 2**depth - 1
        image.info["transparency"] = (marked & most) * 255 // most
    elif isinstance(marked, tuple) and depth == 16:
        image.info["transparency"] = tuple(value >> 8 for value in marked)


def _to_rgb(image: Image.Image, keep_grey: bool = False) -> Image.Image:
    image.load()
    if (image.mode == "RGB" or (keep_grey and image.mode == "L")) and "transparency" not in image.info:
        return image
    if image.mode == "F":
        raise UnsupportedImage("Pictures of floating point pixels have no defined range: send 8 or 16 bits a channel.")
    if image.mode.startswith("I"):
        return _from_sixteen_bits(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return _on_white(image)
    return image.convert("RGB")


def _from_sixteen_bits(image: Image.Image) -> Image.Image:
    """16-bit grey to 8 bits by its high byte, as libpng's `png_set_strip_16` does; Pillow's own `convert` clips."""
    values = np.clip(np.asarray(image), 0, 65535)
    values[values == image.info.get("transparency", -1)] = 65535
    return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    """Strip by strip: a large picture as a whole would take five times its memory."""
    width, height = image.size
    rows = max(1, _STRIP // width)
    if height <= rows:
        return _strip_on_white(image)
    shown = Image.new("RGB", image.size)
    for top in range(0, height, rows):
        shown.paste(_strip_on_white(image.crop((0, top, width, min(top + rows, height)))), (0, top))
    return shown


def _strip_on_white(image: Image.Image) -> Image.Image:
    seen = image.convert("RGBA")
    white = Image.new("RGBA", seen.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, seen).convert("RGB")


def _spoken(formats: Sequence[str]) -> str:
    names = [name.upper() for name in formats]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
