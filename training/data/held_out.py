"""Held-out pictures with their truth: what evaluation asks of a data set, whatever its layout."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from training.data.errors import BrokenData
from training.data.folders import read_folder
from training.data.masks import VOID, read_masks
from training.data.voc import Box, Scenes, read_voc

Item = TypeVar("Item")


@dataclass(frozen=True)
class Labelled:
    """Encoded pictures with the name of each and its label."""

    names: Sequence[str]
    files: Sequence[bytes]
    labels: Sequence[str]


@dataclass(frozen=True)
class Masked:
    """Encoded pictures with the name of each and its label map, uint8 [H,W]; numbers that are no label do not count."""

    names: Sequence[str]
    files: Sequence[bytes]
    maps: Sequence[NDArray[np.uint8]]


@dataclass(frozen=True)
class Boxed:
    """Encoded pictures with the name of each and its objects."""

    names: Sequence[str]
    files: Sequence[bytes]
    boxes: Sequence[tuple[Box, ...]]


Truth = Labelled | Masked | Boxed


def labelled(data: Path) -> Labelled:
    """The test part, else the validation part, of a folder of classes. Raises BrokenData."""
    folder = read_folder(data)
    examples = folder.splits.get("test", folder.splits["val"])
    return Labelled(
        [example.name for example in examples],
        [folder.read(example) for example in examples],
        [folder.classes[example.label] for example in examples],
    )


def masked(data: Path) -> Masked:
    """The test part, else the validation part, of a folder of masks. Raises BrokenData."""
    masks = read_masks(data)
    pairs = masks.splits.get("test", masks.splits["val"])
    maps = [masks.mask(pair) for pair in pairs]
    if all((found == VOID).all() for found in maps):
        raise BrokenData(pairs[0].mask, "counts nowhere, and no other held-out mask does: nothing can be measured")
    return Masked([pair.image for pair in pairs], [masks.source.read(pair.image) for pair in pairs], maps)


def boxed(data: Path) -> Boxed:
    """The test part, else the validation part, of pictures with boxes. Raises BrokenData."""
    return boxed_scenes(read_voc(data))


def boxed_scenes(scenes: Scenes) -> Boxed:
    """The same of a data set that was read. Raises BrokenData, also where nothing is in these pictures."""
    held_out = scenes.held_out
    if not any(scene.boxes for scene in held_out):
        raise BrokenData(held_out[0].note, "has no object, and no other held-out picture has: nothing can be measured")
    return Boxed(
        [scene.picture for scene in held_out],
        [scenes.source.read(scene.picture) for scene in held_out],
        [scene.boxes for scene in held_out],
    )


def shuffled(items: Sequence[Item]) -> Iterator[Item]:
    """All of them in a random order that is always the same: data sets lie sorted by class."""
    return (items[row] for row in np.random.default_rng(0).permutation(len(items)).tolist())
