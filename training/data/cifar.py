"""CIFAR-10 in the three layouts it comes in: zip archives of pictures, the official pickles, the official binaries.

    train-0.zip .. train-4.zip, test.zip    one folder a class, JPEG or PNG files: `train/cat/0001.jpg`
    cifar-10-batches-py/                    data_batch_1 .. data_batch_5, test_batch (pickles)
    cifar-10-batches-bin/                   data_batch_1.bin .. data_batch_5.bin, test_batch.bin

`folder` may be the one that holds these files or its parent. Source: Krizhevsky 2009, "Learning multiple layers of
features from tiny images".
"""

import pickle
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from app.imaging.codec import encode_png
from training.data.archives import members
from training.data.errors import BrokenData
from training.data.pixels import decode

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FACTS: dict[str, str | int] = {
    "name": "CIFAR-10 (JPEG re-encoded)",
    "pictures": "50,000 for training, 10,000 for testing, 32x32 RGB",
    "source": "Krizhevsky 2009, Learning multiple layers of features from tiny images",
    "terms": "research use; no explicit licence",
}
Split = Literal["train", "test"]

_SIDE = 32
_PLANES = 3 * _SIDE * _SIDE
_BATCHES = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}


def pictures(folder: Path, split: Split) -> Iterator[tuple[bytes, int]]:
    """The files of a split as (encoded picture, class number); PNG-encoded where the source holds raw pixels."""
    archives = _archives(folder, split)
    if archives:
        for name, data in members(archives):
            yield data, _class_of(name)
    else:
        images, labels = _raw(folder, split)
        for image, label in zip(images, labels, strict=True):
            yield encode_png(image), int(label)


def arrays(folder: Path, split: Split) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """A split as images uint8 [N,32,32,3] (RGB) and labels int64 [N]; BrokenData names the file at fault."""
    archives = _archives(folder, split)
    if not archives:
        return _raw(folder, split)
    names, images = [], []
    for name, data in members(archives):
        names.append(name)
        images.append(_square(decode(data, name), name))
    if not images:
        raise BrokenData(archives[0], "holds no picture")
    return np.stack(images), np.array([_class_of(name) for name in names], dtype=np.int64)


def _archives(folder: Path, split: Split) -> list[Path]:
    """The zip archives of a split, or none; a gap in the numbers of a split is refused."""
    pattern = f"{split}*.zip"
    found = sorted(folder.glob(pattern)) or sorted((folder / "cifar10").glob(pattern))
    numbers = [path.stem.removeprefix(f"{split}-") for path in found if path.stem != split]
    for expected in range(max((int(number) for number in numbers if number.isdigit()), default=-1)):
        if str(expected) not in numbers:
            raise BrokenData(found[0].with_name(f"{split}-{expected}.zip"), "is missing, but later parts are there")
    return found


def _class_of(name: str) -> int:
    label = PurePosixPath(name).parent.name
    if label not in CLASSES:
        raise BrokenData(name, f"'{label}' is no class of CIFAR-10 (the folder names the class)")
    return CLASSES.index(label)


def _square(image: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    if image.shape != (_SIDE, _SIDE, 3):
        raise BrokenData(name, f"is {image.shape[1]}x{image.shape[0]} pixels; CIFAR-10 has 32x32")
    return image


def _raw(folder: Path, split: Split) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The official batches, pickles before binaries."""
    for name, suffix, read in (("cifar-10-batches-py", "", _read_pickle), ("cifar-10-batches-bin", ".bin", _read_bin)):
        for base in (folder if folder.name == name else folder / name, folder / "cifar10" / name):
            if base.is_dir():
                parts = [read(_present(base / f"{batch}{suffix}")) for batch in _BATCHES[split]]
                planes = np.concatenate([part[0] for part in parts])
                images = planes.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)
                return np.ascontiguousarray(images), np.concatenate([part[1] for part in parts])
    raise BrokenData(
        folder, f"holds no CIFAR-10: neither {split}*.zip nor cifar-10-batches-py/ nor cifar-10-batches-bin/"
    )


def _present(path: Path) -> Path:
    if not path.is_file():
        raise BrokenData(path, "is missing")
    return path


def _read_bin(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """One binary batch: records of a label byte and 3072 bytes of planes (R, G, B)."""
    records = np.fromfile(path, dtype=np.uint8)
    if records.size == 0 or records.size % (_PLANES + 1):
        raise BrokenData(path, f"{records.size} bytes are no whole number of {_PLANES + 1}-byte records")
    table = records.reshape(-1, _PLANES + 1)
    return table[:, 1:], _labels(table[:, 0], path)


def _read_pickle(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """One pickled batch: a dictionary with `data` uint8 [N,3072] and `labels`."""
    try:
        with path.open("rb") as file:
            batch = _NumpyOnly(file, encoding="bytes").load()
        planes, labels = np.asarray(batch[b"data"], dtype=np.uint8), batch[b"labels"]
    except (pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise BrokenData(path, f"is no CIFAR-10 batch ({error})") from error
    if planes.ndim != 2 or planes.shape[1] != _PLANES or len(labels) != len(planes):
        raise BrokenData(path, f"data has shape {planes.shape} and {len(labels)} labels")
    return planes, _labels(np.asarray(labels), path)


def _labels(labels: NDArray[Any], path: Path) -> NDArray[np.int64]:
    if labels.max(initial=0) >= len(CLASSES):
        raise BrokenData(path, f"label {labels.max()} is out of range")
    return labels.astype(np.int64)


class _NumpyOnly(pickle.Unpickler):
    """Unpickles arrays and plain containers, and nothing that could run code."""

    _ALLOWED = frozenset({("multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")})

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):  # how Python 2 byte strings travel
            return super().find_class(module, name)
        # The official files name numpy.core, which numpy 2 renamed.
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return super().find_class("numpy._core.multiarray", name)
        if (module, name) in self._ALLOWED:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a data set")
