"""Photographs without labels: BSDS500 to learn from, and the sets on which restoring is compared.

    DIR/bsds400-train.zip         or DIR/BSDS500/data/images/{train,test}/*.jpg
    DIR/{CBSD68,Set12,Set5}.zip   or DIR/{CBSD68,Set12,Set5}/*

DIR may be a folder `photographs` in the one that is named. CBSD68 is part of the validation split of BSDS500, which
therefore is not read.
"""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from training.data.errors import BrokenData
from training.data.folders import is_picture, open_source
from training.data.pixels import OWN_PICTURES, decode

FACTS: dict[str, str | int] = {
    "name": "BSDS500, train and test (400 pictures)",
    "pictures": "380 for training, 20 for validation, 481x321 RGB; tested on CBSD68, Set12 and Set5",
    "source": "Arbelaez et al. 2011",
    "terms": "research use",
}
_HELD_OUT = 20
"""One picture in so many is for validation."""


def training(folder: Path) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]]]:
    """Pictures uint8 [H,W,3] to learn from, and to validate on. Raises BrokenData."""
    found = [picture for _, picture in sorted(_bsds(folder), key=lambda item: PurePosixPath(item[0]).name)]
    if len(found) < _HELD_OUT:
        raise BrokenData(folder, f"has {len(found)} photographs of BSDS500: too few to learn from")
    kept = [picture for number, picture in enumerate(found) if number % _HELD_OUT]
    return kept, found[::_HELD_OUT]


def benchmark(folder: Path, name: str) -> list[NDArray[np.uint8]]:
    """The pictures of a test set, uint8 [H,W,3], by name. Raises BrokenData."""
    for base in (folder, folder / "photographs"):
        for place in (base / f"{name}.zip", base / name):
            if place.exists():
                return [picture for _, picture in _pictures(place)]
    raise BrokenData(folder, f"holds no {name}: neither {name}.zip nor {name}/")


def _bsds(folder: Path) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    for base in (folder, folder / "photographs"):
        archive, images = base / "bsds400-train.zip", base / "BSDS500" / "data" / "images"
        if archive.exists():
            return _pictures(archive)
        if images.is_dir():
            return chain.from_iterable(_pictures(images / part) for part in ("train", "test"))
    raise BrokenData(folder, "holds no BSDS500: neither bsds400-train.zip nor BSDS500/data/images/")


def _pictures(place: Path) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    source = open_source(place)
    for name in filter(is_picture, source.names()):
        yield name, decode(source.read(name), name, OWN_PICTURES)
