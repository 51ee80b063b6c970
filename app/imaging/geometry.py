"""From an image of any size to the size that a graph takes: the one resize, for training and serving alike.

Resizing stays outside the graph because antialiasing differs between inference engines.
"""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.imaging.codec import ImageArray
from app.manifest import ImageInput

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom exclusive."""


def visible_box(width: int, height: int, want: ImageInput) -> Box:
    """The part of a `width` x `height` image that the graph sees: all of it, or for `cover` its largest centred part
    with the aspect ratio wanted."""
    if want.fit == "stretch":
        return (0, 0, width, height)
    scale = min(width / want.width, height / want.height)
    across, down = max(1, round(want.width * scale)), max(1, round(want.height * scale))
    left, top = (width - across) // 2, (height - down) // 2
    return (left, top, left + across, top + down)


def size_needed(width: int, height: int, want: ImageInput) -> tuple[int, int]:
    """The smallest (width, height) at which a picture may be decoded without losing detail that the graph sees."""
    if want.fit == "stretch":
        return (want.width, want.height)
    scale = min(width / want.width, height / want.height)
    return (math.ceil(width / scale), math.ceil(height / scale))


def fit(image: ImageArray, want: ImageInput) -> NDArray[np.uint8]:
    """Cut and resize an image (Pillow's antialiased bilinear filter) to uint8 [want.height, want.width, channels].

    Grey inputs weigh the channels as ITU-R BT.601 does.
    """
    height, width = image.shape[:2]
    if want.channels == 3 and (width, height) == (want.width, want.height):
        return image
    box = visible_box(width, height, want)
    seen = Image.fromarray(image).resize((want.width, want.height), Image.Resampling.BILINEAR, box=box)
    pixels = np.asarray(seen if want.channels == 3 else seen.convert("L"))
    return pixels.reshape(want.height, want.width, want.channels)


def resize_labels(labels: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Resize a label map uint8 [h, w] to [height, width] by the nearest label: labels have no in-between."""
    if labels.shape == (height, width):
        return labels
    return np.asarray(Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST))


def label_counts(labels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How many pixels have each of the 256 labels; `np.bincount` would copy the map into eight times its memory."""
    return np.array(Image.fromarray(labels).histogram(), dtype=np.int64)


def resize_smooth(values: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Resize uint8 [h, w] or [h, w, 3] to [height, width] with the bicubic filter, for heat maps and thumbnails."""
    return np.asarray(Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC))
