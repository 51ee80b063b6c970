"""MNIST in its own IDX files (LeCun et al. 1998), gzipped or not; or scikit-learn's bundled digits, for a first run
without a download."""

import gzip
import struct
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.data.errors import BrokenData

CLASSES = tuple("0123456789")
SIDE = 28
FACTS: dict[str, str | int] = {
    "name": "MNIST",
    "pictures": "60,000 for training, 10,000 for testing, 28x28 grey",
    "source": "LeCun et al. 1998, Gradient-based learning applied to document recognition",
    "terms": "no explicit licence",
}
DIGITS_FACTS: dict[str, str | int] = {
    "name": "Optical recognition of handwritten digits, as bundled with scikit-learn",
    "pictures": "1,797 of 8x8 grey, enlarged to 28x28; every fifth of each class held out for testing",
    "source": "Alpaydin and Kaynak 1998, UCI Machine Learning Repository",
    "terms": "CC BY 4.0",
}
Split = Literal["train", "test"]
_PREFIX = {"train": "train", "test": "t10k"}


def present(folder: Path | None) -> bool:
    """Whether a folder holds the images of the training split."""
    return folder is not None and _find(folder, "train-images-idx3-ubyte") is not None


def arrays(folder: Path | None, split: Split) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images uint8 [N,28,28,1] and labels int64 [N]: MNIST where the folder holds it, the bundled digits elsewhere.

    Raises BrokenData for a file that is missing or damaged.
    """
    if folder is None or not present(folder):
        return digits(split)
    images = read(_must_find(folder, f"{_PREFIX[split]}-images-idx3-ubyte"))
    labels = read(_must_find(folder, f"{_PREFIX[split]}-labels-idx1-ubyte"))
    if images.ndim != 3 or images.shape[1:] != (SIDE, SIDE) or labels.shape != images.shape[:1]:
        raise BrokenData(folder, f"{split}: images {images.shape} and labels {labels.shape} are not those of MNIST")
    if labels.max(initial=0) >= len(CLASSES):
        raise BrokenData(folder, f"{split}: label {labels.max()} is out of range; MNIST has 0 to {len(CLASSES) - 1}")
    return images[..., None], labels.astype(np.int64)


def digits(split: Split) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The bundled digits, enlarged as the server enlarges pictures; every fifth of each class is a test picture."""
    from sklearn.datasets import load_digits  # a second to import, and needed here alone

    small, labels = load_digits(return_X_y=True)
    order = np.argsort(labels, kind="stable")
    place = np.empty(len(labels), np.int64)
    place[order] = np.concatenate([np.arange(count) for count in np.bincount(labels)])
    rows = np.flatnonzero((place % 5 == 4) == (split == "test"))
    images = [Image.fromarray((small[row].reshape(8, 8) * 255 / 16).astype(np.uint8)) for row in rows]
    large = [np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)) for image in images]
    return np.stack(large)[..., None], labels[rows].astype(np.int64)


def read(path: Path) -> NDArray[np.uint8]:
    """An IDX file of unsigned bytes: 0, 0, type 8, number of axes, then their sizes as big-endian 32-bit numbers."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise BrokenData(path, f"cannot be read ({error})") from error
    if len(data) < 4 or data[:3] != b"\0\0\x08":
        raise BrokenData(path, "is no IDX file of bytes")
    axes = data[3]
    start = 4 + 4 * axes
    shape = struct.unpack(f">{axes}I", data[4:start]) if len(data) >= start else ()
    if not shape or len(data) - start != np.prod(shape, dtype=np.int64):
        raise BrokenData(path, "is cut short, or longer than its header says")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _find(folder: Path, name: str) -> Path | None:
    for base in (folder, folder / "mnist", folder / "MNIST" / "raw"):
        for form in (name, f"{name}.gz", name.replace("-idx", ".idx"), f"{name.replace('-idx', '.idx')}.gz"):
            if (base / form).is_file():
                return base / form
    return None


def _must_find(folder: Path, name: str) -> Path:
    found = _find(folder, name)
    if found is None:
        raise BrokenData(folder, f"lacks {name}, with or without .gz")
    return found
