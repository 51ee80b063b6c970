"""A look at a folder of classes before training: what is in it, and what is wrong with it."""

import hashlib
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.errors import ServiceError
from app.imaging.codec import Decoder
from training.data.folders import Example, Folder, Split, read_folder
from training.figures import sheet

_DECODER = Decoder(formats=("jpeg", "png", "webp", "gif", "tiff", "bmp", "avif"), max_pixels=200_000_000)
_SHOWN = 10
_NEAR_BITS = 4
"""Pictures whose fingerprints of 64 bits differ in at most so many look alike to people, too."""
_PER_CLASS = 6
_MOST = 1000
"""Pictures compared with one another that share a part of their fingerprints: blank ones share all of it."""


@dataclass(frozen=True)
class Seen:
    """One readable picture."""

    example: Example
    split: Split
    size: tuple[int, int]
    digest: bytes
    fingerprint: int


@dataclass(frozen=True)
class Inspection:
    """What was found."""

    folder: Folder
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
        parts = [*self._counts(), *self._sizes(), *self._doubles()]
        parts += [f"broken: {name}: {reason}" for name, reason in self.broken.items()] or ["broken files: none"]
        return "\n".join(parts)

    def _counts(self) -> Iterable[str]:
        counts = Counter((one.split, one.example.label) for one in self.seen)
        splits = list(self.folder.splits)
        yield (
            "pictures by class: "
            + ", ".join(splits)
            + ("" if self.folder.divided else " (drawn, the folder has no parts)")
        )
        for label, name in enumerate(self.folder.classes):
            yield f"  {name}: " + ", ".join(str(counts[split, label]) for split in splits)
        totals = [sum(counts[split, label] for split in splits) for label in range(len(self.folder.classes))]
        most, least = max(totals, default=0), min(totals, default=0)
        yield f"balance: the largest class has {most / max(1, least):.1f} times the pictures of the smallest"

    def _sizes(self) -> Iterable[str]:
        if not self.seen:
            return
        widths, heights = zip(*(one.size for one in self.seen), strict=True)
        middle = f"{statistics.median(widths):.0f}x{statistics.median(heights):.0f}"
        yield f"sizes: {min(widths)}x{min(heights)} to {max(widths)}x{max(heights)}, in the middle {middle}"

    def _doubles(self) -> Iterable[str]:
        exact, near = self.exact, self.near
        yield f"exact duplicates: {sum(len(group) - 1 for group in exact)}"
        yield from _shown(", ".join(one.example.name for one in group) for group in exact)
        yield f"near duplicates: {len(near)} pairs"
        yield from _shown(f"{left.example.name}, {right.example.name}" for left, right in near)
        pairs = [(group[0], other) for group in exact for other in group[1:]] + near
        leaks = [(left, right) for left, right in pairs if left.split != right.split]
        yield f"leaks between parts: {len(leaks)}"
        yield from _shown(
            f"{left.example.name} ({left.split}), {right.example.name} ({right.split})" for left, right in leaks
        )
        mixed = [(left, right) for left, right in pairs if left.example.label != right.example.label]
        yield f"duplicates with two labels: {len(mixed)}"
        yield from _shown(f"{left.example.name}, {right.example.name}" for left, right in mixed)


def inspect_folder(path: Path) -> Inspection:
    """Decode every picture below a directory or in a zip archive of classes. Raises BrokenData where there is none."""
    folder = read_folder(path)
    seen: list[Seen] = []
    broken: dict[str, str] = {}
    tiles: dict[int, list[tuple[NDArray[np.uint8], str]]] = defaultdict(list)
    for split, examples in folder.splits.items():
        for example in examples:
            try:
                data = folder.read(example)
                picture = _DECODER.open(data)
                image = picture.raster((128, 128))
            except (ServiceError, OSError) as error:
                broken[example.name] = str(error)
                continue
            size = (picture.width, picture.height)
            seen.append(Seen(example, split, size, hashlib.sha256(data).digest(), fingerprint(image)))
            if len(tiles[example.label]) < _PER_CLASS:
                image.thumbnail((128, 128))
                tiles[example.label].append((np.asarray(image), folder.classes[example.label][:20]))
    return Inspection(folder, seen, broken, sheet([tile for label in sorted(tiles) for tile in tiles[label]]))


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
