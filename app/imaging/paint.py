"""Drawing answers: heat maps, label maps and boxes over a picture, contact sheets. Knows colours, not models."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from app.imaging.codec import ImageArray
from app.imaging.geometry import Box, resize_smooth

Palette = Sequence[tuple[int, int, int]]

# Anchor colours of the "inferno" map (matplotlib, CC0), dark to bright, equally spaced.
_HEAT = np.array(
    [(0, 0, 4), (51, 10, 95), (120, 28, 109), (187, 55, 84), (237, 105, 37), (252, 181, 25), (252, 255, 164)],
    dtype=np.float32,
)


_BAND_PIXELS = 1 << 18
"""Pixels that are painted at once: as floats, a whole picture of 50 MP would take 4 GB."""


def heat_overlay(image: ImageArray, heat: NDArray[np.uint8], box: Box) -> ImageArray:
    """Lay a heat map uint8 [h, w] over the part `box` of an image; the hotter, the more it covers (at most 70 %)."""
    left, top, right, bottom = box
    levels = np.linspace(0, 1, 256, dtype=np.float32)
    painted = image.copy()
    _blend(
        painted[top:bottom, left:right], resize_smooth(heat, right - left, bottom - top), _colour(levels), 0.7 * levels
    )
    return painted


def label_overlay(image: ImageArray, labels: NDArray[np.uint8], palette: Palette, strength: float = 0.5) -> ImageArray:
    """Tint an image with the colour of each pixel's label; `labels` is uint8 [height, width] of the image's size."""
    colours = np.asarray(palette, dtype=np.float32)
    painted = image.copy()
    _blend(painted, labels, colours, np.full(len(colours), strength, dtype=np.float32))
    return painted


class Boxed(NamedTuple):
    """A box (left, top, right, bottom in pixels) to be drawn in a colour, with a caption."""

    box: tuple[float, float, float, float]
    colour: tuple[int, int, int]
    caption: str


def box_overlay(image: ImageArray, boxes: Sequence[Boxed]) -> ImageArray:
    """Draw boxes over an image, the last on top; lines and captions are the larger the larger the image is."""
    painted = Image.fromarray(image)
    pen = ImageDraw.Draw(painted)
    side = max(painted.size)
    font, line = _font(min(200, max(10, side // 50))), max(1, side // 400)
    for (left, top, right, bottom), colour, caption in boxes:
        pen.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=colour, width=line)
        _, _, across, down = map(math.ceil, font.getbbox(caption))
        x, y = max(0, min(left, painted.width - across)), top - down if top >= down else top
        pen.rectangle((x, y, x + across, y + down), fill=colour)
        pen.text((x, y), caption, fill="black" if sum(colour) > 3 * 127 else "white", font=font)
    return np.asarray(painted)


@lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font that Pillow brings along."""
    return ImageFont.load_default(size)


def contact_sheet(images: Sequence[ImageArray]) -> ImageArray:
    """Images of one size in rows, as near to a square as their number allows; free places stay white."""
    height, width = images[0].shape[:2]
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    sheet = np.full((rows * height, columns * width, 3), 255, dtype=np.uint8)
    for place, image in enumerate(images):
        top, left = place // columns * height, place % columns * width
        sheet[top : top + height, left : left + width] = image
    return sheet


def default_palette(count: int) -> list[tuple[int, int, int]]:
    """`count` colours that differ in hue by the golden angle, for models that name none."""
    hues = (np.arange(count) * 0.618034) % 1
    channels = np.abs((hues[:, None] * 6 + np.array([0, 4, 2])) % 6 - 3) - 1
    return [(int(r), int(g), int(b)) for r, g, b in (np.clip(channels, 0, 1) * 255).round()]


def _blend(
    image: ImageArray, values: NDArray[np.uint8], colours: NDArray[np.float32], cover: NDArray[np.float32]
) -> None:
    """Paint over an image, in place: the value of each pixel looks up its colour, and how much of it is covered."""
    keep, tint = 1 - cover, colours * cover[:, None] + np.float32(0.5)
    rows = max(1, _BAND_PIXELS // values.shape[1])
    for top in range(0, len(values), rows):
        seen, chosen = image[top : top + rows], values[top : top + rows]
        seen[...] = (seen * keep[chosen][..., None] + tint[chosen]).astype(np.uint8)


def _colour(values: NDArray[np.float32]) -> NDArray[np.float32]:
    place = values * (len(_HEAT) - 1)
    low = np.clip(place.astype(np.int64), 0, len(_HEAT) - 2)
    part = (place - low)[..., None]
    return np.asarray(_HEAT[low] * (1 - part) + _HEAT[low + 1] * part, dtype=np.float32)
