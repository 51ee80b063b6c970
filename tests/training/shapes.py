"""Pictures of four drawn shapes, and masks of them: a data set of one's own that can be learned in seconds."""

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SHAPES = ("circle", "cross", "square", "triangle")
SIDE = 48


def draw(shape: int, random: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A picture uint8 [48,48,3] of one shape on noise, and where the shape is, bool [48,48]."""
    size, angle = random.integers(14, 26), random.uniform(0, 2 * np.pi)
    left, top = random.integers(2, SIDE - size - 2, 2)
    x, y, half = left + size / 2, top + size / 2, size / 2
    mask = Image.new("L", (SIDE, SIDE))
    pen = ImageDraw.Draw(mask)
    match SHAPES[shape]:
        case "circle":
            pen.ellipse((left, top, left + size, top + size), fill=1)
        case "cross":
            pen.rectangle((left, y - half / 3, left + size, y + half / 3), fill=1)
            pen.rectangle((x - half / 3, top, x + half / 3, top + size), fill=1)
        case "square":
            pen.rectangle((left, top, left + size, top + size), fill=1)
        case "triangle":
            corners = angle + np.arange(3) * 2 * np.pi / 3
            pen.polygon([(x + half * np.cos(turn), y + half * np.sin(turn)) for turn in corners], fill=1)
    inside = np.asarray(mask, dtype=bool)
    ground, colour = random.integers(0, 100, 3), random.integers(140, 256, 3)
    pixels = np.where(inside[..., None], colour, ground) + random.normal(0, 12, (SIDE, SIDE, 3))
    return pixels.clip(0, 255).astype(np.uint8), inside


def write_folders(root: Path, count: int, seed: int = 0) -> Path:
    """ROOT/SHAPE/NUMBER.png, so many of each."""
    random = np.random.default_rng(seed)
    for number, shape in enumerate(SHAPES):
        (root / shape).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            Image.fromarray(draw(number, random)[0]).save(root / shape / f"{index:03}.png")
    return root


def write_masks(root: Path, count: int, seed: int = 0) -> Path:
    """ROOT/images/NUMBER.png and ROOT/masks/NUMBER.png, twice as large: 0 for the ground, 1 to 4 for the shapes; and
    labels.txt."""
    random = np.random.default_rng(seed)
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        pixels, inside = (array.repeat(2, 0).repeat(2, 1) for array in draw(index % len(SHAPES), random))
        Image.fromarray(pixels).save(root / "images" / f"{index:03}.png")
        Image.fromarray((inside * (index % len(SHAPES) + 1)).astype(np.uint8)).save(root / "masks" / f"{index:03}.png")
    (root / "labels.txt").write_text("\n".join(("ground", *SHAPES)) + "\n")
    return root


def write_boxes(root: Path, count: int, seed: int = 0, parts: Mapping[str, int] | None = None) -> Path:
    """ROOT/JPEGImages/NUMBER.png of one to three shapes, with ROOT/Annotations/NUMBER.xml; with `parts` also
    ROOT/ImageSets/Main/PART.txt, which name so many of them in turn."""
    random = np.random.default_rng(seed)
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / part).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        image, objects = scene(random)
        Image.fromarray(image).save(root / "JPEGImages" / f"{index:03}.png")
        (root / "Annotations" / f"{index:03}.xml").write_text(annotation(2 * SIDE, 2 * SIDE, objects))
    numbers = iter(range(count))
    for part, size in (parts or {}).items():
        (root / "ImageSets" / "Main" / f"{part}.txt").write_text("".join(f"{next(numbers):03}\n" for _ in range(size)))
    return root


def scene(random: np.random.Generator) -> tuple[NDArray[np.uint8], list[tuple[str, tuple[int, int, int, int]]]]:
    """A picture uint8 [96,96,3] of one to three shapes, and what they are in which box: left, top, right, bottom."""
    whole = np.full((2 * SIDE, 2 * SIDE, 3), 50, np.uint8)
    objects = []
    for place in random.permutation(4)[: random.integers(1, 4)].tolist():
        kind, (down, across) = int(random.integers(len(SHAPES))), divmod(place, 2)
        pixels, inside = draw(kind, random)
        whole[down * SIDE : (down + 1) * SIDE, across * SIDE : (across + 1) * SIDE] = pixels
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        objects.append((SHAPES[kind], tuple(int(edge) + SIDE * (across, down)[at % 2] for at, edge in enumerate(box))))
    return whole, objects


def annotation(width: int, height: int, objects: Sequence[tuple[str, Sequence[float]]]) -> str:
    """XML of Pascal VOC; boxes count from 0 here, and from 1 there."""
    listed = "".join(
        f"<object><name>{label}</name><bndbox><xmin>{left + 1}</xmin><ymin>{top + 1}</ymin><xmax>{right}</xmax>"
        f"<ymax>{bottom}</ymax></bndbox></object>"
        for label, (left, top, right, bottom) in objects
    )
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation>{size}{listed}</annotation>"


def zipped(folder: Path, file: Path) -> Path:
    """The folder as an archive, below one folder of its name."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, f"{folder.name}/{path.relative_to(folder).as_posix()}")
    file.write_bytes(buffer.getvalue())
    return file
