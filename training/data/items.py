"""Items: the pictures of a data set with what is said of them, whatever its layout; nothing is decoded here."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from training.data.folders import Folder, Source, Split, open_source, read_folder
from training.data.masks import VOID, Masks, Pair, is_masks, read_masks
from training.data.voc import Box, Scenes, is_voc, read_voc


@dataclass(frozen=True)
class Item:
    """One picture."""

    name: str
    split: Split
    labels: tuple[str, ...]
    """The class of the picture, those of its boxes, or those of the pixels of its mask once that was looked at."""
    boxes: tuple[Box, ...] = ()
    size: tuple[int, int] | None = None
    """Width and height, where something says what they should be."""
    pair: Pair | None = None
    """The picture with its mask."""


@dataclass(frozen=True)
class Items:
    """The pictures of a data set."""

    source: Source
    items: Sequence[Item]
    labels: tuple[str, ...]
    counted: str
    """What labels are given to: `pictures` or `boxes`."""
    divided: bool
    """Whether the data came in parts; otherwise these were drawn."""
    notes: tuple[str, ...] = ()
    """Lines on what only this kind of data has."""
    masks: Masks | None = None


def read_items(path: Path) -> Items:
    """Pictures in folders of their classes, with boxes or with masks, in a directory or in a zip archive.

    Raises:
        BrokenData: they are none of these, or what is said of them cannot be read.
    """
    source = open_source(path)
    if is_voc(source):
        return _boxed(read_voc(path))
    return _masked(read_masks(path)) if is_masks(source) else _labelled(read_folder(path))


def _labelled(folder: Folder) -> Items:
    items = [
        Item(example.name, split, (folder.classes[example.label],))
        for split, examples in folder.splits.items()
        for example in examples
    ]
    return Items(folder.source, items, folder.classes, "pictures", folder.divided)


def _boxed(scenes: Scenes) -> Items:
    items = [
        Item(scene.picture, split, tuple(box.label for box in scene.boxes), scene.boxes, (scene.width, scene.height))
        for split, part in scenes.splits.items()
        for scene in part
    ]
    return Items(scenes.source, items, scenes.labels, "boxes", scenes.divided, tuple(_notes(scenes)))


def _masked(masks: Masks) -> Items:
    items = [Item(pair.image, split, (), pair=pair) for split, pairs in masks.splits.items() for pair in pairs]
    labels = masks.labels or tuple(f"class {number}" for number in range(VOID))
    return Items(masks.source, items, labels, "pictures", masks.divided, masks=masks)


def _notes(scenes: Scenes) -> Iterator[str]:
    every = [scene for part in scenes.splits.values() for scene in part]
    for label in scenes.labels:
        sides = [box.side for scene in every for box in scene.boxes if box.label == label]
        least, middle, most = min(sides), statistics.median(sides), max(sides)
        yield f"boxes of {label}: roots of areas {least:.0f} to {most:.0f} pixels, in the middle {middle:.0f}"
    yield f"pictures without boxes: {sum(not scene.boxes for scene in every)}"
    left_out = [scene for scene in every if scene.empty]
    yield f"boxes without area, left out: {sum(scene.empty for scene in left_out)}"
    yield from (f"  {scene.note}" for scene in left_out[:10])
