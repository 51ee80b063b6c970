"""The pictures that are sent, made from the sample pictures that come with scikit-learn (no download).

A decoder's time depends on what a picture holds, so that they are photographs and not noise; the one of 12 megapixels
gets the grain of a sensor, without which an enlarged photograph would be too easy.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PICTURES = ("grey28.png", "rgb32.jpg", "photo500.jpg", "photo480.jpg", "photo12mp.jpg")

_BICUBIC = Image.Resampling.BICUBIC


def write_pictures(folder: Path) -> None:
    """Write all pictures into a folder."""
    from sklearn.datasets import load_digits, load_sample_image  # scikit-learn comes with the extra `bench`

    photo = Image.fromarray(load_sample_image("china.jpg"))
    wide = photo.crop((35, 0, 604, 427))  # 4:3 of its 640x427
    digit = Image.fromarray((load_digits().images[3] / 16 * 255).astype(np.uint8)).resize((28, 28), _BICUBIC)
    digit.save(folder / "grey28.png")
    photo.resize((32, 32), _BICUBIC).save(folder / "rgb32.jpg", quality=90)
    (folder / "photo500.jpg").write_bytes(_jpeg(wide.resize((500, 375), _BICUBIC), at_least=60_000))
    (folder / "photo480.jpg").write_bytes(_jpeg(wide.resize((480, 360), _BICUBIC), at_least=60_000))
    (folder / "photo12mp.jpg").write_bytes(_jpeg(_grainy(wide.resize((4000, 3000), _BICUBIC)), at_least=3_000_000))


def _jpeg(picture: Image.Image, at_least: int) -> bytes:
    """The JPEG of the lowest quality that is so many bytes long."""
    data = b""
    for quality in range(75, 97):
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality)
        data = buffer.getvalue()
        if len(data) >= at_least:
            break
    return data


def _grainy(picture: Image.Image) -> Image.Image:
    """Grey noise of one pixel, and half as much again of four: shot noise and demosaicing."""
    random = np.random.default_rng(0)
    width, height = picture.size
    fine = random.normal(0, 5, (height, width))
    coarse = _enlarged(random.normal(128, 25, (height // 4, width // 4)), width, height) - 128
    pixels = np.asarray(picture, np.float32) + (fine + 0.5 * coarse).astype(np.float32)[..., None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _enlarged(values: NDArray[np.float64], width: int, height: int) -> NDArray[Any]:
    small = Image.fromarray(values.clip(0, 255).astype(np.uint8))
    return np.asarray(small.resize((width, height), _BICUBIC), np.float64)
