"""Encoded pictures to arrays, for readers: colour pictures through the server's own codec, label maps as they are."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.errors import ServiceError
from app.imaging.codec import Decoder
from training.data.errors import BrokenData

_DECODER = Decoder()
_BIT_DEPTH = 24
"""Where it stands in a PNG (ISO/IEC 15948, section 11.2.2)."""
OWN_PICTURES = Decoder(formats=("jpeg", "png", "webp", "gif", "tiff", "bmp", "avif"), max_pixels=89_478_485)
"""Takes all that a trainer may have lying around, up to what Pillow opens at all: nobody sends pictures here."""


def decode(data: bytes, name: Path | str, decoder: Decoder = _DECODER) -> NDArray[np.uint8]:
    """Bytes of a picture as uint8 [H,W,3] RGB; BrokenData names `name`."""
    try:
        return decoder.open(data).decode()
    except ServiceError as error:
        raise BrokenData(name, f"no readable picture ({error})") from error


def decode_labels(data: bytes, name: Path | str) -> NDArray[np.uint8]:
    """Bytes of a PNG of at most 8 bits a pixel as the numbers in it, uint8 [H,W]: palette indices stay indices."""
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            if picture.mode not in ("1", "L", "P"):
                raise BrokenData(
                    name, f"has pixels of type {picture.mode}; a label map has one number of at most 8 bits"
                )
            found = np.array(picture, dtype=np.uint8)
            # Pillow stretches grey of 2 and 4 bits to 0..255.
            return found // (255 // ((1 << data[_BIT_DEPTH]) - 1)) if picture.mode == "L" else found
    except (OSError, ValueError, SyntaxError) as error:
        raise BrokenData(name, f"no readable label map ({error})") from error
