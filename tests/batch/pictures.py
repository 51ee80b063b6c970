"""Pictures for batches: plain colours, which the tiny classifier names, and what is no picture."""

import zipfile
from pathlib import Path

import numpy as np

from app.imaging.codec import encode_png

COLOURS = {"red": (250, 10, 10), "green": (10, 250, 10), "blue": (10, 10, 250)}


def plain(colour: str, side: int = 8) -> bytes:
    return encode_png(np.full((side, side, 3), COLOURS[colour], np.uint8))


def make_folder(folder: Path, each: int = 2) -> dict[str, str]:
    """So many pictures of each colour in folders, one too large for the loop's thread among them, and notes; returns
    the colours by name."""
    found = {}
    for colour in COLOURS:
        (folder / colour).mkdir(parents=True)
        for number in range(each):
            name = f"{colour}/{number}.png"
            (folder / name).write_bytes(plain(colour, 8 if number else 200))
            found[name] = colour
    (folder / "notes.txt").write_text("no picture")
    return dict(sorted(found.items()))


def make_zip(path: Path, folder: Path) -> Path:
    """A zip of a folder."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in sorted(folder.rglob("*")):
            packed.write(file, file.relative_to(folder))
    return path
