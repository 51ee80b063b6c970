"""Tiny data sets in every layout that the readers take, and hyper-parameters that train in a second."""

import io
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.data import cifar
from training.data.feed import Feed
from training.run import Run

TINY: dict[str, dict[str, Any]] = {
    "cifar10-classifier": {"epochs": 2, "batch_size": 8, "widths": (8, 8, 8), "held_out": 5},
    "cifar10-embedder": {"epochs": 1, "batch_size": 8, "widths": (8, 8, 8), "held_out": 5},
    "camvid-segmenter": {
        "epochs": 2, "batch_size": 2, "width": 8, "window": (64, 96), "warm_up": 1, "validate_every": 1,
    },
    "cifar10-generator": {
        "epochs": 2, "batch_size": 8, "latent": 8, "widths": (8, 8, 8, 8), "feature_epochs": 1,
        "feature_widths": (8, 8, 8),
    },
    "bccd-detector": {
        "epochs": 2, "batch_size": 2, "width": 8, "size": (64, 64), "warm_up": 1, "validate_every": 1,
    },
    "bsds-denoiser": {"epochs": 1, "batch_size": 4, "windows": 1, "side": 32, "width": 8, "blocks": 1, "warm_up": 1},
    "cifar10-autoencoder": {
        "epochs": 2, "batch_size": 8, "latent": 8, "widths": (8, 8, 8, 8), "held_out": 5, "warm_up": 1,
    },
    "bsds-upscaler": {"epochs": 1, "batch_size": 4, "windows": 1, "side": 32, "width": 8, "blocks": 1, "warm_up": 1},
}  # fmt: skip


def cifar_arrays(split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """50 or 20 pictures, each class a brightness of its own under noise."""
    count, random = (50, np.random.default_rng(1)) if split == "train" else (20, np.random.default_rng(2))
    labels = np.arange(count) % 10
    noise = random.integers(0, 30, (count, 32, 32, 3))
    return (noise + labels[:, None, None, None] * 22).astype(np.uint8), labels.astype(np.int64)


def png(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def make_cifar_zips(folder: Path) -> Path:
    """train-0.zip, train-1.zip and test.zip."""
    for split, parts in (("train", ["train-0", "train-1"]), ("test", ["test"])):
        images, labels = cifar_arrays(split)
        for part, name in enumerate(parts):
            with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
                for row in range(part, len(images), len(parts)):
                    archive.writestr(f"{split}/{cifar.CLASSES[labels[row]]}/{row:04}.png", png(images[row]))
    return folder


def make_cifar_pickles(folder: Path) -> Path:
    """cifar-10-batches-py, pickled the way the official files are."""
    base = folder / "cifar-10-batches-py"
    base.mkdir()
    for name, planes, labels in _batches():
        batch = {b"data": planes, b"labels": labels.tolist(), b"batch_label": name.encode()}
        (base / name).write_bytes(pickle.dumps(batch, protocol=2))
    return folder


def make_cifar_bin(folder: Path) -> Path:
    """cifar-10-batches-bin."""
    base = folder / "cifar-10-batches-bin"
    base.mkdir()
    for name, planes, labels in _batches():
        records = np.concatenate([labels[:, None].astype(np.uint8), planes], 1)
        (base / f"{name}.bin").write_bytes(records.tobytes())
    return folder


def _batches() -> Iterator[tuple[str, NDArray[np.uint8], NDArray[np.int64]]]:
    for split, names in (("train", [f"data_batch_{number}" for number in range(1, 6)]), ("test", ["test_batch"])):
        images, labels = cifar_arrays(split)
        planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        for name, rows in zip(names, np.array_split(np.arange(len(images)), len(names)), strict=True):
            yield name, planes[rows], labels[rows]


def camvid_files(split: str) -> dict[str, bytes]:
    """Two scenes: sky above a road, each with its label map; a strip of void between them."""
    files = {}
    for number in range(2):
        labels = np.zeros((360, 480), np.uint8)
        labels[170:190], labels[190:] = 11, 3
        image = np.where(labels[..., None] == 3, 60, 200).astype(np.uint8).repeat(3, 2)
        files[f"{split}/scene{number}.png"] = png(image + np.uint8(number))
        files[f"{split}annot/scene{number}.png"] = png(labels)
    return files


def make_camvid_zips(folder: Path) -> Path:
    """train.zip, val.zip and test.zip."""
    for split in ("train", "val", "test"):
        with zipfile.ZipFile(folder / f"{split}.zip", "w") as archive:
            for name, data in camvid_files(split).items():
                archive.writestr(name, data)
    return folder


def make_camvid_folders(folder: Path) -> Path:
    """The official folders."""
    for split in ("train", "val", "test"):
        for name, data in camvid_files(split).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
    return folder


def make_photographs(folder: Path) -> Path:
    """BSDS500 in its official folders, CBSD68 and Set12 as zips, Set5 as a folder of BMP files: a few pictures each."""
    images = folder / "BSDS500" / "data" / "images"
    for part, count in (("train", 15), ("test", 7)):
        (images / part).mkdir(parents=True)
        for number in range(count):
            sides = (321, 257) if number % 2 else (257, 321)
            (images / part / f"{part}{number}.png").write_bytes(png(_photograph(number, *sides)))
    with zipfile.ZipFile(folder / "CBSD68.zip", "w") as archive:
        for number in range(8):
            archive.writestr(f"CBSD68/{number}.png", png(_photograph(100 + number, 150, 129)))
    with zipfile.ZipFile(folder / "Set12.zip", "w") as archive:
        archive.writestr("Set12/01.png", png(_photograph(300, 130, 128)[..., 0]))
    (folder / "Set5").mkdir()
    for number in range(2):
        Image.fromarray(_photograph(200 + number, 41, 40)).save(folder / "Set5" / f"{number}_GT.bmp")
    return folder


def _photograph(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    """Smooth patches of colour."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


class PowerCut(Exception):
    """The end of a run in the middle of an epoch."""


class BreakingFeed(Feed[Any]):
    """A feed that breaks off before its n-th batch, counted from 1."""

    def __init__(self, feed: Feed[Any], stop_before: int) -> None:
        self.__dict__.update(feed.__dict__)
        self.left = stop_before

    def __iter__(self) -> Iterator[Any]:
        for batch in super().__iter__():
            self.left -= 1
            if self.left == 0:
                raise PowerCut
            yield batch


Fit = Callable[..., Run]
