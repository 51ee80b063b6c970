"""Held-out pictures with their truth: what evaluation asks of a data set, whatever its layout."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from training.data.folders import read_folder
from training.data.masks import read_masks

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


Truth = Labelled | Masked


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
    return Masked(
        [pair.image for pair in pairs],
        [masks.source.read(pair.image) for pair in pairs],
        [masks.mask(pair) for pair in pairs],
    )


def shuffled(items: Sequence[Item]) -> Iterator[Item]:
    """All of them in a random order that is always the same: data sets lie sorted by class."""
    return (items[row] for row in np.random.default_rng(0).permutation(len(items)).tolist())
