"""One's own pictures: readers, what they refuse, and what a look at them finds."""

import io
import os
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from shapes import SHAPES, write_boxes, write_folders, write_masks, zipped

from app.errors import ImageTooLarge
from app.manifest import ImageInput
from training.data import BrokenData
from training.data.folders import read_folder
from training.data.held_out import masked
from training.data.inspection import inspect_folder
from training.data.masks import VOID, read_masks
from training.data.pixels import OWN_PICTURES, decode_labels
from training.recipes import RECIPES
from training.run import Run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folders(tmp_path / "shapes", 20)


def test_a_folder_without_parts_is_split_alike_every_time_and_in_every_class(folder: Path) -> None:
    first, again = read_folder(folder), read_folder(folder)
    assert first.splits == again.splits
    assert first.classes == SHAPES
    assert not first.divided
    for split, count in (("train", 16), ("val", 2), ("test", 2)):
        labels = [example.label for example in first.splits[split]]
        assert np.bincount(labels).tolist() == [count] * 4
    names = [example.name for part in first.splits.values() for example in part]
    assert len(set(names)) == 80


def test_a_picture_that_comes_moves_no_other(folder: Path) -> None:
    before = read_folder(folder).splits
    Image.new("RGB", (9, 9)).save(folder / "circle" / "new.png")
    after = read_folder(folder).splits
    moved = set(before["train"]) - set(after["train"]) - set(after["val"]) - set(after["test"])
    assert not moved
    assert len(set(before["test"]) - set(after["test"])) <= 1


def test_parts_that_are_there_are_kept(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "parts"
    for split in ("train", "valid"):
        shutil.copytree(folder, root / split)
    found = read_folder(root)
    assert found.divided
    assert {split: len(part) for split, part in found.splits.items()} == {"train": 80, "val": 80}


def test_a_training_part_alone_gives_a_validation_part(folder: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        shutil.copytree(folder, tmp_path / "parts" / split)
    found = read_folder(tmp_path / "parts")
    assert {split: len(part) for split, part in found.splits.items()} == {"train": 64, "val": 16, "test": 80}


def test_an_archive_is_read_as_the_folder_in_it(folder: Path, tmp_path: Path) -> None:
    archive = read_folder(zipped(folder, tmp_path / "shapes.zip"))
    plain = read_folder(folder)
    assert archive.classes == plain.classes
    assert sorted(
        map(archive.read, archive.splits["train"] + archive.splits["val"] + archive.splits["test"])
    ) == sorted(map(plain.read, plain.splits["train"] + plain.splits["val"] + plain.splits["test"]))


def test_classes_that_are_numbers_come_in_their_own_order(tmp_path: Path) -> None:
    for label in ("10", "9", "1"):
        for index in range(3):
            (tmp_path / label).mkdir(exist_ok=True)
            Image.new("L", (4, 4)).save(tmp_path / label / f"{index}.png")
    assert read_folder(tmp_path).classes == ("1", "9", "10")


def test_classes_of_the_same_number_have_one_order(tmp_path: Path) -> None:
    labels = ("00001", "0001", "001", "01", "1")
    for label in labels:
        (tmp_path / label).mkdir()
        for index in range(3):
            Image.new("L", (4, 4)).save(tmp_path / label / f"{index}.png")
    assert read_folder(tmp_path).classes == labels


def test_a_link_to_a_folder_that_one_is_in_is_not_followed(folder: Path) -> None:
    before = read_folder(folder).splits
    (folder / "circle" / "up").symlink_to("..")
    (folder / "again").symlink_to(folder)
    assert read_folder(folder).splits == before


def test_two_parts_may_be_one_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    for split in ("train", "val", "test"):
        (tmp_path / "parts" / split).symlink_to(folder)
    found = read_folder(tmp_path / "parts")
    assert {split: len(part) for split, part in found.splits.items()} == {"train": 80, "val": 80, "test": 80}


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser reads every folder")
def test_a_folder_that_may_not_be_read_is_named(folder: Path) -> None:
    (folder / "circle").chmod(0)
    try:
        with pytest.raises(BrokenData, match="circle: cannot be read"):
            read_folder(folder)
    finally:
        (folder / "circle").chmod(0o700)


def test_a_name_that_is_not_utf8_is_refused(folder: Path) -> None:
    (folder / "circle" / "000.png").rename(folder / "circle" / os.fsdecode(b"\xff.png"))
    with pytest.raises(BrokenData, match=r"udcff.*not UTF-8: rename it"):
        read_folder(folder)


def test_a_class_that_could_not_be_one_line_of_labels_is_refused(folder: Path) -> None:
    (folder / "circle").rename(folder / "cir\ncle")
    with pytest.raises(BrokenData, match="labels are one a line"):
        read_folder(folder)


def test_a_file_whose_compression_is_damaged_is_named(folder: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "shapes.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*.png")):
            archive.write(path, path.relative_to(folder).as_posix())
        place = archive.getinfo("circle/000.png").header_offset + 30 + len("circle/000.png")
    content = bytearray((tmp_path / "shapes.zip").read_bytes())
    content[place] = 0xFF  # a kind of block that DEFLATE does not have
    (tmp_path / "shapes.zip").write_bytes(content)
    found = read_folder(tmp_path / "shapes.zip")
    (example,) = (each for part in found.splits.values() for each in part if each.name == "circle/000.png")
    with pytest.raises(BrokenData, match=r"circle/000\.png: cannot be read"):
        found.read(example)


def _one_class(root: Path) -> None:
    for shape in SHAPES[1:]:
        shutil.rmtree(root / shape)


def _stray(root: Path) -> None:
    shutil.copytree(root / "circle", root / "train" / "circle")


def _top_level(root: Path) -> None:
    shutil.copy(root / "circle" / "000.png", root / "000.png")


def _few(root: Path) -> None:
    for index in range(2, 20):
        (root / "cross" / f"{index:03}.png").unlink()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_one_class, "one class only"),
        (_stray, "lies beside train/"),
        (_top_level, "lies in no folder of a class"),
        (_few, "class cross has 2 pictures"),
        (shutil.rmtree, "neither a folder nor a zip"),
    ],
)
def test_a_folder_that_cannot_be_learned_from_is_refused_with_what_is_wrong(
    damage: object, words: str, folder: Path
) -> None:
    damage(folder)  # type: ignore[operator]
    with pytest.raises(BrokenData, match=words):
        read_folder(folder)


def test_a_class_that_one_part_lacks_is_named(folder: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        shutil.copytree(folder, tmp_path / "parts" / split)
    shutil.rmtree(tmp_path / "parts" / "val" / "square")
    with pytest.raises(BrokenData, match="class square has no picture in val/"):
        read_folder(tmp_path / "parts")


def test_inspecting_finds_duplicates_leaks_and_broken_files(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "parts"
    for split in ("train", "val"):
        shutil.copytree(folder, root / split)
        for extra in sorted((root / split / "circle").iterdir())[5:]:
            extra.unlink()
    shutil.rmtree(root / "val" / "circle")
    write_folders(tmp_path / "others", 5, seed=7)
    shutil.copytree(tmp_path / "others" / "circle", root / "val" / "circle")
    same = root / "train" / "square" / "000.png"
    across, down = np.meshgrid(np.linspace(0, 9, 48), np.linspace(0, 7, 48))
    smooth = Image.fromarray((127 + 120 * np.sin(across) * np.cos(down)).astype(np.uint8))
    smooth.save(root / "train" / "square" / "smooth.png")
    smooth.resize((64, 64)).save(root / "train" / "square" / "again.jpg", quality=80)
    (root / "train" / "triangle" / "cut.png").write_bytes(same.read_bytes()[:100])
    found = inspect_folder(root)
    text = found.text()
    assert "circle: 5, 5" in text
    assert "balance: the largest class has 4.2 times the pictures of the smallest" in text
    assert "sizes: 48x48 to 64x64" in text
    assert len(found.exact) == 60  # cross, square and triangle lie in both parts
    assert {"train/square/smooth.png", "train/square/again.jpg"} in [
        {left.item.name, right.item.name} for left, right in found.near
    ]
    assert "leaks between parts: 6" in text
    assert list(found.broken) == ["train/triangle/cut.png"]
    assert "broken: train/triangle/cut.png" in text
    assert Image.open(io.BytesIO(found.sheet)).size[0] == 768


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    return write_masks(tmp_path / "masks", 20)


def test_pictures_come_with_their_masks_in_the_size_that_is_wanted(masks: Path) -> None:
    found = read_masks(masks)
    assert found.labels == ("ground", *SHAPES)
    assert {split: len(pairs) for split, pairs in found.splits.items()} == {"train": 16, "val": 2, "test": 2}
    images, maps = found.arrays(found.splits["train"], ImageInput(width=32, height=24))
    assert images.shape == (16, 24, 32, 3)
    assert maps.shape == (16, 24, 32)
    assert set(np.unique(maps)) <= {0, 1, 2, 3, 4}


def _lone_picture(root: Path) -> None:
    (root / "masks" / "003.png").unlink()


def _lone_mask(root: Path) -> None:
    (root / "images" / "003.png").unlink()


def _same_stem(root: Path) -> None:
    shutil.copy(root / "images" / "003.png", root / "images" / "003.jpg")


def _same_place(root: Path) -> None:
    shutil.copytree(root / "masks", root / "masks" / "more")


def _foreign_labels(root: Path) -> None:
    (root / "labels.txt").write_bytes("ground\nstra\N{LATIN SMALL LETTER SHARP S}e\n".encode("latin-1"))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_lone_picture, "images/003.png: has no mask"),
        (_lone_mask, "masks/003.png: is the mask of no picture"),
        (_same_stem, r"images/003.png: is called as images/003.jpg is"),
        (_same_place, "masks/more/000.png: is called as masks/000.png is"),
        (_foreign_labels, r"labels\.txt: is not UTF-8"),
    ],
)
def test_masks_that_do_not_go_with_their_pictures_are_named(damage: object, words: str, masks: Path) -> None:
    damage(masks)  # type: ignore[operator]
    with pytest.raises(BrokenData, match=words):
        read_masks(masks)


def test_inspecting_counts_the_pixels_of_masks_and_finds_those_that_cannot_be_used(masks: Path) -> None:
    for name in ("000", "001"):
        Image.new("L", (96, 96), VOID).save(masks / "masks" / f"{name}.png")
    Image.new("L", (96, 96), 9).save(masks / "masks" / "002.png")
    Image.new("L", (90, 96)).save(masks / "masks" / "003.png")
    found = inspect_folder(masks)
    assert {name: "holds label 9" in why or "a mask of 90x96" in why for name, why in found.broken.items()} == {
        "images/002.png": True, "images/003.png": True,
    }  # fmt: skip
    train = [one for one in found.seen if one.item.split == "train"]
    assert f"  ground: {sum('ground' in one.item.labels for one in train)}, " in found.text()
    assert f"  pictures: {len(train)}, " in found.text()
    counts = sum(one.pixels for one in train if one.pixels is not None)
    assert isinstance(counts, np.ndarray)
    assert f"  none (255): {100 * counts[VOID] / counts.sum():.1f}, " in found.text()
    assert Image.open(io.BytesIO(found.sheet)).width > 128


def test_labels_of_masks_that_nothing_names_are_numbered(masks: Path) -> None:
    (masks / "labels.txt").unlink()
    assert inspect_folder(masks).data.labels == tuple(f"class {number}" for number in range(5))


@pytest.mark.parametrize(("mode", "colours", "top"), [("1", 2, 1), ("L", 4, 3), ("L", 16, 15), ("P", 16, 15)])
def test_masks_of_few_bits_hold_the_numbers_they_were_given(mode: str, colours: int, top: int) -> None:
    numbers = np.tile(np.arange(colours, dtype=np.uint8), (3, 1))
    file = io.BytesIO()
    if mode == "P":
        picture = Image.fromarray(numbers).convert("P")
        picture.save(file, "PNG", bits=4)
    else:
        file.write(_grey_png(numbers, colours.bit_length() - 1))
    assert decode_labels(file.getvalue(), "mask").max() == top
    assert np.array_equal(decode_labels(file.getvalue(), "mask"), numbers)


def _grey_png(numbers: np.ndarray[Any, Any], depth: int) -> bytes:
    """Numbers as a grey PNG of so many bits a pixel, as Pillow does not write it."""
    bits = np.unpackbits(numbers[..., None], axis=2)[..., 8 - depth :].reshape(len(numbers), -1)
    rows = np.pad(np.packbits(bits, axis=1), ((0, 0), (1, 0))).tobytes()
    head = struct.pack(">IIBBBBB", numbers.shape[1], len(numbers), depth, 0, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    written = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (Image.new("L", (96, 96), 9), "holds label 9; labels.txt names 0 to 4"),
        (Image.new("L", (20, 96), 1), "both must have one size"),
        (Image.new("RGB", (96, 96)), "a label map has one number of at most 8 bits"),
    ],
)
def test_a_mask_that_cannot_be_learned_from_is_named(mask: Image.Image, words: str, masks: Path) -> None:
    found = read_masks(masks)
    pair = found.splits["train"][0]
    mask.save(masks / pair.mask)
    with pytest.raises(BrokenData, match=words) as broken:
        found.arrays(found.splits["train"], ImageInput(width=48, height=48))
    assert pair.mask.rpartition("/")[2] in str(broken.value)


def test_masks_that_count_nowhere_measure_nothing(masks: Path) -> None:
    found = read_masks(masks)
    for pair in found.splits["test"]:
        Image.new("L", (96, 96), VOID).save(masks / pair.mask)
    with pytest.raises(BrokenData, match="counts nowhere"):
        masked(masks)


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:60])


def _unknown_label(file: Path) -> None:
    Image.new("L", (96, 96), 77).save(file)


@pytest.mark.parametrize(
    ("recipe", "write", "options", "file", "damage"),
    [
        ("imagefolder-classifier", write_folders, {"size": 16}, "circle/002.png", _cut),
        ("folder-generator", write_folders, {"size": 16}, "circle/002.png", _cut),
        ("mask-segmenter", write_masks, {"size": (64, 64)}, "masks/002.png", _unknown_label),
        ("voc-detector", write_boxes, {"size": (64, 64)}, "JPEGImages/002.png", _cut),
    ],
)
def test_a_broken_file_of_the_test_part_is_named_before_training_begins(
    recipe: str, write: Callable[..., Path], options: dict[str, Any], file: str, damage: Callable[[Path], None],
    tmp_path: Path,
) -> None:  # fmt: skip
    for split in ("train", "val", "test"):
        write(tmp_path / "data" / split, 5)
    if recipe == "mask-segmenter":
        shutil.copy(tmp_path / "data" / "train" / "labels.txt", tmp_path / "data" / "labels.txt")
    if recipe == "voc-detector":
        shutil.rmtree(tmp_path / "data")
        write(tmp_path / "data", 8, parts={"train": 1, "val": 1, "test": 6})
    else:
        file = f"test/{file}"
    damage(tmp_path / "data" / file)
    able = RECIPES[recipe]
    with pytest.raises(BrokenData, match=file):
        able.plan(able.hyper(**options, width=8), tmp_path / "data", Run(tmp_path / "run"))


def test_a_generator_of_fewer_pictures_than_it_is_compared_with_is_refused(tmp_path: Path) -> None:
    able, data = RECIPES["folder-generator"], write_folders(tmp_path / "shapes", 5)
    for shape in SHAPES[1:]:
        shutil.rmtree(data / shape)
    with pytest.raises(BrokenData, match="has 3 pictures to learn from: at least 6 are needed"):
        able.plan(able.hyper(size=16, width=8), data, Run(tmp_path / "run"))


def test_the_largest_picture_that_is_taken_is_the_one_that_is_named() -> None:
    """The header of a PNG of 10,000 x 9,000 pixels, one bit each."""
    buffer = io.BytesIO()
    Image.new("1", (10_000, 9_000)).save(buffer, "PNG")
    with pytest.raises(ImageTooLarge, match=f"at most {OWN_PICTURES.max_pixels} pixels are decoded"):
        OWN_PICTURES.open(buffer.getvalue())
    assert OWN_PICTURES.max_pixels < 90_000_000
