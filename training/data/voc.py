"""Boxes in the layout of Pascal VOC (Everingham et al. 2010), in a directory or in a zip archive of it.

    JPEGImages/NAME.jpg         the pictures
    Annotations/NAME.xml        size, boxes and labels of each; pixels are counted from 1
    ImageSets/Main/PART.txt     the names of a part: train, val, test

Without ImageSets/Main every picture with an annotation is taken, and a fixed tenth is held out for validation and as
much for testing. Objects marked as difficult count like any.
"""

import hashlib
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from xml.etree.ElementTree import Element, ParseError

import numpy as np
from defusedxml import ElementTree
from numpy.typing import NDArray

from app.errors import ServiceError
from app.imaging.codec import Picture
from app.imaging.geometry import fit
from app.manifest import ImageInput
from training.data.boxes import boxes_in_input
from training.data.errors import BrokenData
from training.data.folders import Source, Split, is_picture, open_source
from training.data.pixels import OWN_PICTURES

_PICTURES, _NOTES, _LISTS = "JPEGImages", "Annotations", "Main"
_PARTS: tuple[Split, ...] = ("train", "val", "test")
_HELD_OUT = 0.1


class Box(NamedTuple):
    """One object: its label, and left, top, right, bottom in pixels of the picture, counted from 0."""

    label: str
    edges: tuple[float, float, float, float]

    @property
    def side(self) -> float:
        """Of a square of the same area."""
        left, top, right, bottom = self.edges
        return math.sqrt((right - left) * (bottom - top))


@dataclass(frozen=True)
class Scene:
    """One picture by the names of its files, with what is in it."""

    picture: str
    note: str
    width: int
    height: int
    boxes: tuple[Box, ...]
    empty: int
    """Boxes without area, which were left out."""


@dataclass(frozen=True)
class Scenes:
    """Pictures with boxes, split."""

    source: Source
    labels: tuple[str, ...]
    splits: Mapping[Split, tuple[Scene, ...]]
    divided: bool
    """Whether ImageSets named the parts; otherwise they were drawn here."""

    @property
    def held_out(self) -> tuple[Scene, ...]:
        """The test part, or the validation part where there is no other."""
        return self.splits.get("test", self.splits["val"])

    def open(self, scene: Scene) -> Picture:
        """A picture, its header read. Raises BrokenData, also where it has not the size that its annotation says."""
        try:
            picture = OWN_PICTURES.open(self.source.read(scene.picture))
        except ServiceError as error:
            raise BrokenData(scene.picture, f"no readable picture ({error})") from error
        if (picture.width, picture.height) != (scene.width, scene.height):
            sizes = f"{picture.width}x{picture.height} pixels, and {scene.note} says {scene.width}x{scene.height}"
            raise BrokenData(scene.picture, f"is {sizes}")
        return picture

    def arrays(self, scenes: Iterable[Scene], want: ImageInput) -> tuple[NDArray[np.uint8], list[NDArray[np.float32]]]:
        """Images uint8 [N,height,width,3], fitted as the server fits them, and of each its boxes float32 [n,5]: left,
        top, right, bottom in pixels of the fitted image, and the number of the label.

        Raises BrokenData, which names the file at fault.
        """
        images, truths = [], []
        for scene in scenes:
            images.append(self.fitted(scene, want))
            edges = np.array([box.edges for box in scene.boxes], np.float32).reshape(-1, 4)
            numbers = np.array([self.labels.index(box.label) for box in scene.boxes], np.float32)
            inside = boxes_in_input(edges, scene.width, scene.height, want)
            truths.append(np.concatenate([inside, numbers[:, None]], 1, dtype=np.float32))
        return np.stack(images), truths

    def fitted(self, scene: Scene, want: ImageInput) -> NDArray[np.uint8]:
        """The image of a scene, uint8 [height,width,3]. Raises BrokenData."""
        try:
            return fit(self.open(scene), want)
        except ServiceError as error:
            raise BrokenData(scene.picture, f"no readable picture ({error})") from error


def is_voc(source: Source) -> bool:
    """Whether a data set has pictures with annotations beside them."""
    return any(_NOTES in PurePosixPath(name).parts[:-1] and name.endswith(".xml") for name in source.names())


def read_voc(path: Path) -> Scenes:
    """Pictures with boxes below a directory or in an archive; no picture is decoded.

    Raises:
        BrokenData: there is no annotation, a part names a picture or an annotation that is missing, an annotation
            cannot be read, or no object is in the training part.
    """
    source = open_source(path)
    if not is_voc(source):
        raise BrokenData(path, f"holds no Pascal VOC: {_NOTES}/NAME.xml beside {_PICTURES}/NAME.jpg")
    files = _Files.of(source)
    named = files.parts(source) or {None: sorted(files.notes)}
    scenes = {split: tuple(_scene(source, name, files) for name in names) for split, names in named.items()}
    splits = _drawn(scenes[None], path) if None in scenes else _given(scenes, path)
    labels = tuple(sorted({box.label for part in splits.values() for scene in part for box in scene.boxes}))
    if not any(scene.boxes for scene in splits["train"]):
        raise BrokenData(path, "has no object in its training part")
    return Scenes(source, labels, splits, None not in scenes)


@dataclass(frozen=True)
class _Files:
    """Names of files by what they are and by their stem."""

    pictures: Mapping[str, str]
    notes: Mapping[str, str]
    lists: Mapping[str, str]

    @classmethod
    def of(cls, source: Source) -> "_Files":
        paths = [PurePosixPath(name) for name in source.names()]

        def within(folder: str, suffix: str | None) -> dict[str, str]:
            found = (path for path in paths if path.parent.name == folder)
            fitting = (path for path in found if (path.suffix == suffix if suffix else is_picture(path.name)))
            named: dict[str, str] = {}
            for path in fitting:
                alike = named.setdefault(path.stem, str(path))
                if alike != str(path):
                    raise BrokenData(str(path), f"is called as {alike} is: name one data set, with one of each")
            return named

        return cls(within(_PICTURES, None), within(_NOTES, ".xml"), within(_LISTS, ".txt"))

    def parts(self, source: Source) -> dict[Split | None, Sequence[str]]:
        """Names of pictures by part, as ImageSets/Main has them; lists of single classes (`cat_train`) are others."""
        return {part: _lines(source, self.lists[part]) for part in _PARTS if part in self.lists}


def _lines(source: Source, name: str) -> list[str]:
    """The names in a list, which may have blanks in them."""
    try:
        text = source.read(name).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BrokenData(name, "is not UTF-8 text") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _given(scenes: Mapping[Split | None, tuple[Scene, ...]], path: Path) -> dict[Split, tuple[Scene, ...]]:
    parts = {split: part for split, part in scenes.items() if split is not None and part}
    if "train" not in parts:
        raise BrokenData(path, "has no names in ImageSets/Main/train.txt")
    if "val" in parts:
        return parts
    drawn = _drawn(parts["train"], path)
    return {**parts, "train": drawn["train"], "val": (*drawn["val"], *drawn["test"])}


def _drawn(scenes: Sequence[Scene], path: Path) -> dict[Split, tuple[Scene, ...]]:
    """A tenth for validation and as much for testing, at least one each, by a hash of the name."""
    if len(scenes) < 3:
        raise BrokenData(path, f"holds {len(scenes)} pictures with annotations: at least three are needed")
    order = sorted(scenes, key=lambda scene: hashlib.sha256(scene.picture.encode()).digest())
    count = max(1, round(_HELD_OUT * len(order)))
    return {"val": tuple(order[:count]), "test": tuple(order[count : 2 * count]), "train": tuple(order[2 * count :])}


def _scene(source: Source, name: str, files: _Files) -> Scene:
    for folder, found, ending in ((_NOTES, files.notes, "xml"), (_PICTURES, files.pictures, "jpg")):
        if name not in found:
            raise BrokenData(f"{folder}/{name}.{ending}", "is missing")
    note = files.notes[name]
    try:
        root = ElementTree.fromstring(source.read(note))
        width, height = (int(_value(root, f"size/{side}")) for side in ("width", "height"))
        objects = [_box(item, width, height) for item in root.iter("object")]
    except (ParseError, ValueError, zlib.error) as error:  # defusedxml's refusals are ValueErrors
        raise BrokenData(note, f"is no annotation that can be read ({error})") from error
    boxes = tuple(box for box in objects if box is not None)
    return Scene(files.pictures[name], note, width, height, boxes, len(objects) - len(boxes))


def _box(item: Element, width: int, height: int) -> Box | None:
    """Edges from 0, right and bottom exclusive, cut at the borders of the picture; None where two edges are one, or lie
    beyond them."""
    left, top, right, bottom = (float(_value(item, f"bndbox/{edge}")) for edge in ("xmin", "ymin", "xmax", "ymax"))
    edges = (max(0.0, left - 1), max(0.0, top - 1), min(float(width), right), min(float(height), bottom))
    sound = left < right and top < bottom and edges[0] < edges[2] and edges[1] < edges[3]
    return Box(_value(item, "name"), edges) if sound else None


def _value(element: Element, path: str) -> str:
    found = element.findtext(path)
    if found is None or not found.strip():
        raise ValueError(f"{path} is missing")
    return found.strip()
