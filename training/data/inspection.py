"""A look at pictures before training, in folders of classes, with boxes or with masks: what is there, and what is wrong
with it."""

import hashlib
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.errors import ServiceError
from app.imaging.geometry import resize_labels
from app.imaging.paint import Boxed, box_overlay, default_palette, label_overlay
from training.data.errors import BrokenData
from training.data.items import Item, Items, read_items
from training.data.masks import VOID, check_size
from training.data.pixels import OWN_PICTURES
from training.figures import sheet

_SHOWN = 10
_NEAR_BITS = 4
"""Pictures whose fingerprints of 64 bits differ in at most so many look alike to people, too."""
_PER_CLASS = 6
_MOST = 1000
"""Pictures compared with one another that share a part of their fingerprints: blank ones share all of it."""


@dataclass(frozen=True)
class Seen:
    """One readable picture."""

    item: Item
    size: tuple[int, int]
    digest: bytes
    fingerprint: int
    pixels: NDArray[np.int64] | None = None
    """How many of its mask have each number, int64 [256]."""


@dataclass(frozen=True)
class Inspection:
    """What was found."""

    data: Items
    seen: Sequence[Seen]
    broken: Mapping[str, str]
    """Why a file cannot be read, by name."""
    sheet: bytes
    """Contact sheet, PNG: a few pictures of each class."""

    @property
    def exact(self) -> list[list[Seen]]:
        """Groups of files with the same bytes."""
        return _groups((one.digest, one) for one in self.seen)

    @property
    def near(self) -> list[tuple[Seen, Seen]]:
        """Pairs of pictures that look alike and are not the same file."""
        return [
            (left, right)
            for left, right in _close(self.seen)
            if left.digest != right.digest
        ]  # fmt: skip

    def text(self) -> str:
        """All of it, a finding a line."""
        parts = [*self._counts(), *self._sizes(), *self.data.notes, *self._pixels(), *self._doubles()]
        parts += [f"broken: {name}: {reason}" for name, reason in self.broken.items()] or ["broken files: none"]
        return "\n".join(parts)

    def _counts(self) -> Iterable[str]:
        counts = Counter((one.item.split, label) for one in self.seen for label in one.item.labels)
        pictures = Counter(one.item.split for one in self.seen)
        splits, counted = list(dict.fromkeys(item.split for item in self.data.items)), self.data.counted
        yield f"{counted} by class: {', '.join(splits)}" + ("" if self.data.divided else " (drawn, there are no parts)")
        for label in self.data.labels:
            yield f"  {label}: " + ", ".join(str(counts[split, label]) for split in splits)
        yield "  pictures: " + ", ".join(str(pictures[split]) for split in splits)
        totals = [sum(counts[split, label] for split in splits) for label in self.data.labels]
        times = max(totals) / max(1, min(totals))
        yield f"balance: the largest class has {times:.1f} times the {counted} of the smallest"

    def _sizes(self) -> Iterable[str]:
        if not self.seen:
            return
        widths, heights = zip(*(one.size for one in self.seen), strict=True)
        middle = f"{statistics.median(widths):.0f}x{statistics.median(heights):.0f}"
        yield f"sizes: {min(widths)}x{min(heights)} to {max(widths)}x{max(heights)}, in the middle {middle}"

    def _pixels(self) -> Iterable[str]:
        counts: dict[str, NDArray[np.int64]] = {}
        for one in self.seen:
            if one.pixels is not None:
                counts[one.item.split] = counts.get(one.item.split, 0) + one.pixels
        if not counts:
            return
        shares = [100 * part / part.sum() for part in counts.values()]
        yield f"pixels by class, in per cent: {', '.join(counts)}"
        for number, label in [*enumerate(self.data.labels), (VOID, f"none ({VOID})")]:
            yield f"  {label}: " + ", ".join(f"{share[number]:.1f}" for share in shares)

    def _doubles(self) -> Iterable[str]:
        exact, near = self.exact, self.near
        yield f"exact duplicates: {sum(len(group) - 1 for group in exact)}"
        yield from _shown(", ".join(one.item.name for one in group) for group in exact)
        yield f"near duplicates: {len(near)} pairs"
        yield from _shown(f"{left.item.name}, {right.item.name}" for left, right in near)
        pairs = [(group[0], other) for group in exact for other in group[1:]] + near
        leaks = [(left, right) for left, right in pairs if left.item.split != right.item.split]
        yield f"leaks between parts: {len(leaks)}"
        yield from _shown(
            f"{left.item.name} ({left.item.split}), {right.item.name} ({right.item.split})" for left, right in leaks
        )
        mixed = [(left, right) for left, right in pairs if sorted(left.item.labels) != sorted(right.item.labels)]
        yield f"duplicates with other labels: {len(mixed)}"
        yield from _shown(f"{left.item.name}, {right.item.name}" for left, right in mixed)


def inspect_folder(path: Path) -> Inspection:
    """Decode every picture of a directory or in a zip archive. Raises BrokenData as `read_items` does."""
    data = read_items(path)
    seen: list[Seen] = []
    broken: dict[str, str] = {}
    tiles: dict[str, list[tuple[NDArray[np.uint8], str]]] = defaultdict(list)
    for item in data.items:
        try:
            one, image, mask = _look(data, item)
        except (ServiceError, BrokenData, OSError) as error:
            broken[item.name] = str(error)
            continue
        seen.append(one)
        label = next((label for label in one.item.labels if len(tiles[label]) < _PER_CLASS), None)
        if label is not None:
            tiles[label].append((_tile(image, one, mask, data.labels), label[:20]))
    if data.masks is not None and not data.masks.labels:
        highest = max(
            (int(one.pixels[:VOID].nonzero()[0].max(initial=0)) for one in seen if one.pixels is not None), default=0
        )
        data = replace(data, labels=data.labels[: highest + 1])
    return Inspection(data, seen, broken, sheet([tile for label in data.labels for tile in tiles[label]]))


def _look(data: Items, item: Item) -> tuple[Seen, Image.Image, NDArray[np.uint8] | None]:
    """What is seen of a picture, a small version of it, and its mask."""
    content = data.source.read(item.name)
    picture = OWN_PICTURES.open(content)
    size = (picture.width, picture.height)
    if item.size not in (None, size):
        raise BrokenData(item.name, f"is {size[0]}x{size[1]}, and its annotation says {item.size[0]}x{item.size[1]}")
    image = picture.raster((128, 128))
    one = Seen(item, size, hashlib.sha256(content).digest(), fingerprint(image))
    if data.masks is None or item.pair is None:
        return one, image, None
    mask = data.masks.mask(item.pair)
    check_size(item.pair, size, mask)
    pixels = np.bincount(mask.flatten(), minlength=VOID + 1)
    labels = tuple(label for label, count in zip(data.labels, pixels, strict=False) if count)
    return replace(one, item=replace(item, labels=labels), pixels=pixels), image, mask


def _tile(image: Image.Image, one: Seen, mask: NDArray[np.uint8] | None, labels: Sequence[str]) -> NDArray[np.uint8]:
    """A picture for the sheet, with its boxes or under its mask."""
    image.thumbnail((128, 128))
    if mask is not None:
        palette = [*default_palette(len(labels)), *[(0, 0, 0)] * (VOID + 1 - len(labels))]
        return label_overlay(np.asarray(image.convert("RGB")), resize_labels(mask, *image.size), palette)
    item, size = one.item, one.size
    across, down = image.width / size[0], image.height / size[1]
    colours = dict(zip(labels, default_palette(len(labels)), strict=True))
    boxes = [
        Boxed((left * across, top * down, right * across, bottom * down), colours[label], "")
        for label, (left, top, right, bottom) in item.boxes
    ]
    return box_overlay(np.asarray(image), boxes)


def fingerprint(image: Image.Image) -> int:
    """64 bits that stay the same when a picture is resized, recompressed or made a little brighter: whether each of 9x8
    grey pixels is darker than its right neighbour (difference hash, Krawetz 2013)."""
    small = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    bits = (small[:, 1:] > small[:, :-1]).flatten()
    return int("".join("1" if bit else "0" for bit in bits), 2)


def _close(seen: Sequence[Seen]) -> Iterable[tuple[Seen, Seen]]:
    """Pairs whose fingerprints differ in few bits: these agree in one of five parts of the bits at least, so that only
    pictures that share a part are compared."""
    width, mask = 13, (1 << 13) - 1
    pairs: set[tuple[int, int]] = set()
    for part in range(_NEAR_BITS + 1):
        alike: dict[int, list[int]] = defaultdict(list)
        for number, one in enumerate(seen):
            alike[(one.fingerprint >> part * width) & mask].append(number)
        for numbers in (group[:_MOST] for group in alike.values()):
            pairs.update(
                (left, right)
                for place, left in enumerate(numbers)
                for right in numbers[place + 1 :]
                if (seen[left].fingerprint ^ seen[right].fingerprint).bit_count() <= _NEAR_BITS
            )
    return [(seen[left], seen[right]) for left, right in sorted(pairs)]


def _groups(pairs: Iterable[tuple[bytes, Seen]]) -> list[list[Seen]]:
    found: dict[bytes, list[Seen]] = defaultdict(list)
    for key, one in pairs:
        found[key].append(one)
    return [group for group in found.values() if len(group) > 1]


def _shown(lines: Iterable[str]) -> list[str]:
    found = list(lines)
    more = [f"  and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
    return [f"  {line}" for line in found[:_SHOWN]] + more
