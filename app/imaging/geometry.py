"""From an image of any size to the size that a graph takes: the one resize, for training and serving alike.

Resizing stays outside the graph because antialiasing differs between inference engines.
"""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.imaging.codec import Picture
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


def fit(picture: Picture, want: ImageInput) -> NDArray[np.uint8]:
    """Decode a picture, cut and resize it (Pillow's antialiased bilinear filter) to uint8
    [want.height, want.width, channels].

    A large JPEG is decoded small. Grey inputs weigh the channels as ITU-R BT.601 does; a grey picture stays grey for
    them: three equal channels would come out of resizing and weighing as the one that they were.

    Raises:
        CorruptImage, UnsupportedImage: as `Picture.raster`.
    """
    image = picture.raster(size_needed(picture.width, picture.height, want), keep_grey=want.channels == 1)
    size = (want.width, want.height)
    if image.size != size:
        image = image.resize(size, Image.Resampling.BILINEAR, box=visible_box(*image.size, want))
    if want.channels == 1 and image.mode != "L":
        image = image.convert("L")
    # `np.asarray` comes to the same by a longer way through the image's array interface.
    return np.frombuffer(image.tobytes(), np.uint8).reshape(want.height, want.width, want.channels)


def boxes_in_picture(boxes: NDArray[np.float64], width: int, height: int, want: ImageInput) -> NDArray[np.float64]:
    """Boxes [n,4] (left, top, right, bottom in pixels of what `fit` made), in pixels of the `width` x `height` picture
    that it made it of; what lies beyond the picture is cut off."""
    left, top, right, bottom = visible_box(width, height, want)
    scale = np.array([(right - left) / want.width, (bottom - top) / want.height] * 2)
    moved: NDArray[np.float64] = boxes * scale + np.array([left, top, left, top])
    return moved.clip(0, [width, height, width, height])


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
