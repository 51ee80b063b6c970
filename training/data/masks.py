"""One's own pictures with a mask each: PNG label maps of the same size and at most 8 bits, 255 where nothing counts.

    ROOT/images/NAME.jpg                      ROOT/masks/NAME.png
    ROOT/{train,val,test}/images/NAME.jpg     ROOT/{train,val,test}/masks/NAME.png
    ROOT/labels.txt                           one label a line; without it `class 0`, `class 1` and so on

In a directory or in a zip archive of it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from app.errors import ServiceError
from app.imaging.geometry import fit, resize_labels
from app.manifest import ImageInput
from training.data.errors import BrokenData
from training.data.folders import SPLITS, Source, Split, is_picture, open_source
from training.data.pixels import OWN_PICTURES, decode_labels

VOID = 255
LABELS = "labels.txt"
_IMAGES, _MASKS = "images", "masks"
_HELD_OUT = 0.1


@dataclass(frozen=True)
class Pair:
    """A picture and its mask, by name."""

    image: str
    mask: str


@dataclass(frozen=True)
class Masks:
    """Pictures with masks, split."""

    source: Source
    labels: tuple[str, ...]
    """Empty where the root has no labels.txt."""
    splits: Mapping[Split, tuple[Pair, ...]]
    divided: bool
    """Whether the data came split; otherwise the parts were drawn here."""

    def mask(self, pair: Pair) -> NDArray[np.uint8]:
        """The label map of a pair, uint8 [H,W]. Raises BrokenData, also for a label that labels.txt does not name."""
        found = decode_labels(self.source.read(pair.mask), pair.mask)
        highest = int(found[found != VOID].max(initial=0))
        if self.labels and highest >= len(self.labels):
            raise BrokenData(pair.mask, f"holds label {highest}; labels.txt names 0 to {len(self.labels) - 1}")
        return found

    def arrays(self, pairs: Sequence[Pair], want: ImageInput) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Images uint8 [N,height,width,3] and label maps uint8 [N,height,width], fitted as the server fits them.

        Raises BrokenData, which names the file at fault.
        """
        images, maps = zip(*(self.fitted(pair, want) for pair in pairs), strict=True)
        return np.stack(images), np.stack(maps)

    def fitted(self, pair: Pair, want: ImageInput) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Image uint8 [height,width,3] and label map uint8 [height,width] of one pair. Raises BrokenData."""
        try:
            picture = OWN_PICTURES.open(self.source.read(pair.image))
            image = fit(picture, want)
        except ServiceError as error:
            raise BrokenData(pair.image, f"no readable picture ({error})") from error
        mask = self.mask(pair)
        check_size(pair, (picture.width, picture.height), mask)
        return image, resize_labels(mask, want.width, want.height)


def check_size(pair: Pair, size: tuple[int, int], mask: NDArray[np.uint8]) -> None:
    """Raise BrokenData where a picture of `size` (width, height) has a mask of another one."""
    if mask.shape != size[::-1]:
        sizes = f"{size[0]}x{size[1]} with a mask of {mask.shape[1]}x{mask.shape[0]}"
        raise BrokenData(pair.image, f"is {sizes}: both must have one size")


def is_masks(source: Source) -> bool:
    """Whether a data set has folders of pictures and of masks."""
    folders = {part for name in source.names() for part in PurePosixPath(name).parts[:-1]}
    return {_IMAGES, _MASKS} <= folders


def read_masks(path: Path) -> Masks:
    """The pairs below a directory or in an archive; nothing is decoded.

    Raises:
        BrokenData: there is none, a picture lacks its mask or a mask its picture, two of them are called the same, or
            there is no training part.
    """
    source = open_source(path)
    found: dict[Split | None, dict[str, dict[str, str]]] = {}
    for name in source.names():
        parts = PurePosixPath(name).parts
        kind = next((part for part in reversed(parts[:-1]) if part in (_IMAGES, _MASKS)), None)
        if kind is None or not is_picture(name):
            continue
        split = next((SPLITS[part.lower()] for part in parts[:-1] if part.lower() in SPLITS), None)
        stem = PurePosixPath(name).stem
        alike = found.setdefault(split, {_IMAGES: {}, _MASKS: {}})[kind].setdefault(stem, name)
        if alike != name:
            raise BrokenData(name, f"is called as {alike} is: nothing tells which {kind[:-1]} belongs to which")
    splits = {split: _pairs(part) for split, part in found.items()}
    if not splits:
        raise BrokenData(path, "holds no pictures in images/ with PNG masks in masks/")
    if None in splits and len(splits) > 1:
        raise BrokenData(splits[None][0].image, "lies beside train/, val/ or test/ and not in one of them")
    divided = None not in splits
    return Masks(source, _labels(source), _given(splits, path) if divided else _drawn(splits[None], path), divided)


def _pairs(part: Mapping[str, Mapping[str, str]]) -> tuple[Pair, ...]:
    images, masks = part[_IMAGES], part[_MASKS]
    for stem, name in images.items():
        if stem not in masks:
            raise BrokenData(name, f"has no mask {_MASKS}/{stem}.png")
    for stem, name in masks.items():
        if stem not in images:
            raise BrokenData(name, f"is the mask of no picture in {_IMAGES}/")
    return tuple(Pair(images[stem], masks[stem]) for stem in sorted(images))


def _given(splits: Mapping[Split | None, tuple[Pair, ...]], path: Path) -> dict[Split, tuple[Pair, ...]]:
    named = {split: pairs for split, pairs in splits.items() if split is not None}
    if "train" not in named:
        raise BrokenData(path, "has no folder train/ beside its other parts")
    if "val" in named:
        return named
    drawn = _drawn(named["train"], path)
    return {**named, "train": drawn["train"], "val": (*drawn["val"], *drawn["test"])}


def _drawn(pairs: Sequence[Pair], path: Path) -> dict[Split, tuple[Pair, ...]]:
    """A tenth for validation and as much for testing, at least one each, by a hash of the name."""
    if len(pairs) < 3:
        raise BrokenData(path, f"holds {len(pairs)} pictures: at least three are needed")
    order = sorted(pairs, key=lambda pair: hashlib.sha256(pair.image.encode()).digest())
    count = max(1, round(_HELD_OUT * len(order)))
    return {"train": tuple(order[2 * count :]), "val": tuple(order[:count]), "test": tuple(order[count : 2 * count])}


def _labels(source: Source) -> tuple[str, ...]:
    name = next((name for name in source.names() if PurePosixPath(name).name == LABELS), None)
    if name is None:
        return ()
    try:
        lines = source.read(name).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise BrokenData(name, "is not UTF-8 text") from error
    return tuple(line.strip() for line in lines if line.strip())
