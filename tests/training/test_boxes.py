"""Boxes: the reader of Pascal VOC and what it refuses, windows that keep pictures and boxes together."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from shapes import SHAPES, annotation, write_boxes, zipped
from torch import Tensor

from app.imaging.geometry import boxes_in_picture
from app.manifest import ImageInput
from training.data import BrokenData
from training.data.boxes import Windows, boxes_in_input, padded
from training.data.held_out import boxed
from training.data.inspection import inspect_folder
from training.data.voc import Scenes, read_voc


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_boxes(tmp_path / "shapes", 20)


def names(scenes: Scenes) -> dict[str, list[str]]:
    return {split: sorted(Path(scene.picture).stem for scene in part) for split, part in scenes.splits.items()}


def test_boxes_are_read_from_one_to_from_zero(tmp_path: Path) -> None:
    root = write_boxes(tmp_path, 3)
    (root / "Annotations" / "001.xml").write_text(annotation(96, 96, [("cat", (0, 9, 20, 96)), ("dog", (5, 5, 7, 8))]))
    scenes = read_voc(root)
    (scene,) = (scene for part in scenes.splits.values() for scene in part if scene.picture.endswith("001.png"))
    assert scene.boxes == (("cat", (0, 9, 20, 96)), ("dog", (5, 5, 7, 8)))
    assert (scene.width, scene.height, scene.empty) == (96, 96, 0)
    assert {"cat", "dog"} < set(scenes.labels)


def test_boxes_beyond_the_picture_are_cut_and_those_without_area_left_out(tmp_path: Path) -> None:
    root = write_boxes(tmp_path, 3)
    objects = [("a", (-9, 3, 200, 9)), ("b", (10, 10, 11, 20)), ("c", (100, 3, 120, 9)), ("d", (8, 8, 4, 9))]
    text = annotation(96, 96, objects).replace("<xmin>11</xmin>", "<xmin>11.5</xmin>")  # b's edges are now one
    (root / "Annotations" / "000.xml").write_text(text.replace("<xmax>11</xmax>", "<xmax>11.5</xmax>"))
    scenes = read_voc(root)
    (scene,) = (scene for part in scenes.splits.values() for scene in part if scene.picture.endswith("000.png"))
    assert scene.boxes == (("a", (0, 3, 96, 9)),)
    assert scene.empty == 3


def test_an_archive_is_read_as_the_folder_in_it(folder: Path, tmp_path: Path) -> None:
    plain, archive = read_voc(folder), read_voc(zipped(folder, tmp_path / "shapes.zip"))
    assert plain.labels == archive.labels == SHAPES
    every = [[scene for part in each.splits.values() for scene in part] for each in (plain, archive)]
    assert sorted(scene.boxes for scene in every[0]) == sorted(scene.boxes for scene in every[1])
    assert plain.open(every[0][0]).width == archive.open(every[1][0]).width == 96


def test_parts_that_are_named_are_kept(tmp_path: Path) -> None:
    root = write_boxes(tmp_path, 10, parts={"train": 5, "val": 2, "test": 3})
    (root / "ImageSets" / "Main" / "cat_train.txt").write_text("000 1\n001 -1\n")
    scenes = read_voc(root)
    assert scenes.divided
    assert names(scenes) == {
        "train": ["000", "001", "002", "003", "004"],
        "val": ["005", "006"],
        "test": ["007", "008", "009"],
    }


def test_a_training_part_alone_gives_a_validation_part(tmp_path: Path) -> None:
    scenes = read_voc(write_boxes(tmp_path, 20, parts={"train": 15, "test": 5}))
    assert {split: len(part) for split, part in scenes.splits.items()} == {"train": 11, "val": 4, "test": 5}


def test_a_folder_without_parts_is_split_alike_every_time(folder: Path) -> None:
    first, again = read_voc(folder), read_voc(folder)
    assert not first.divided
    assert names(first) == names(again)
    assert {split: len(part) for split, part in first.splits.items()} == {"train": 16, "val": 2, "test": 2}


def test_names_may_have_blanks(tmp_path: Path) -> None:
    root = write_boxes(tmp_path, 10, parts={"train": 5, "val": 2, "test": 3})
    for folder, ending in (("JPEGImages", "png"), ("Annotations", "xml")):
        (root / folder / f"000.{ending}").rename(root / folder / f"my picture.{ending}")
    (root / "ImageSets" / "Main" / "train.txt").write_text("my picture\n001\r\n\n002 \n")
    assert names(read_voc(root))["train"] == ["001", "002", "my picture"]


def test_two_data_sets_are_not_taken_for_one(tmp_path: Path) -> None:
    for year in ("VOC2007", "VOC2012"):
        write_boxes(tmp_path / year, 10, parts={"train": 5, "val": 2, "test": 3})
    for path in sorted((tmp_path / "VOC2012").rglob("0*.*")):
        path.rename(path.with_name(f"2012_{path.name}"))
    for path in sorted((tmp_path / "VOC2012" / "ImageSets").rglob("*.txt")):
        path.write_text(path.read_text().replace("00", "2012_00"))
    assert len(read_voc(tmp_path / "VOC2012").splits["train"]) == 5
    with pytest.raises(BrokenData, match=r"VOC2012/.*\.txt: is called as VOC2007/.*\.txt is"):
        read_voc(tmp_path)


def note(text: str) -> Callable[[Path], object]:
    return lambda root: (root / "Annotations" / "003.xml").write_text(text)


def part(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda root: (root / "ImageSets" / "Main" / f"{name}.txt").write_bytes(content)


BOMB = (
    '<!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;&b;&b;">]>'
    "<annotation><size><width>96</width><height>96</height></size><object><name>&c;</name></object></annotation>"
)
FILE = '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><annotation><name>&b;</name></annotation>'


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda root: (root / "JPEGImages" / "003.png").unlink(), r"JPEGImages/003\.jpg: is missing"),
        (part("train", b"000\n777\n"), r"Annotations/777\.xml: is missing"),
        (part("val", b"000\n"), r"has no names in ImageSets/Main/train\.txt"),
        (part("train", b"\xff\xfe"), r"train\.txt: is not UTF-8"),
        (note("<annotation><size>"), r"Annotations/003\.xml: is no annotation that can be read"),
        (note("<annotation></annotation>"), r"003\.xml: is no annotation .*size/width is missing"),
        (note(annotation(96, 96, [("cat", (1, 2, 3, 4))]).replace("<xmin>2<", "<xmin>two<")), "could not convert"),
        (note(annotation(96, 96, [(" ", (1, 2, 3, 4))])), "name is missing"),
        (note(BOMB), r"003\.xml: is no annotation .*EntitiesForbidden"),
        (note(FILE), r"003\.xml: is no annotation .*EntitiesForbidden"),
    ],
)
def test_what_cannot_be_learned_from_is_named(damage: Callable[[Path], object], words: str, folder: Path) -> None:
    damage(folder)
    with pytest.raises(BrokenData, match=words):
        read_voc(folder)


def test_a_folder_without_annotations_is_refused_with_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(BrokenData, match=r"holds no Pascal VOC: Annotations/NAME\.xml"):
        read_voc(tmp_path)


def test_pictures_without_any_object_teach_nothing(tmp_path: Path) -> None:
    root = write_boxes(tmp_path, 4)
    for file in (root / "Annotations").iterdir():
        file.write_text(annotation(96, 96, []))
    with pytest.raises(BrokenData, match="has no object in its training part"):
        read_voc(root)


def test_held_out_pictures_without_any_object_measure_nothing(tmp_path: Path) -> None:
    root = write_boxes(tmp_path, 6, parts={"train": 4, "val": 1, "test": 1})
    (root / "Annotations" / "005.xml").write_text(annotation(96, 96, []))
    with pytest.raises(BrokenData, match=r"005\.xml: has no object"):
        boxed(root)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x89PNG\r\n\x1a\nnothing", "no readable picture"),
        (None, r"is 50x96 pixels, and Annotations/000\.xml says 96x96"),
    ],
)
def test_a_picture_that_does_not_fit_its_annotation_is_named(content: bytes | None, words: str, folder: Path) -> None:
    picture = folder / "JPEGImages" / "000.png"
    if content is None:
        Image.new("RGB", (50, 96)).save(picture)
    else:
        picture.write_bytes(content)
    scenes = read_voc(folder)
    every = [scene for part in scenes.splits.values() for scene in part]
    with pytest.raises(BrokenData, match=words) as broken:
        scenes.arrays(every, ImageInput(width=32, height=32))
    assert "JPEGImages/000.png" in str(broken.value)


@pytest.mark.parametrize("fit", ["stretch", "cover"])
@pytest.mark.parametrize("size", [(100, 100), (64, 48), (30, 90)])
def test_boxes_go_into_the_input_and_back(fit: str, size: tuple[int, int]) -> None:
    want = ImageInput.model_validate({"width": 40, "height": 20, "fit": fit})
    boxes = np.array([[size[0] * 0.4, size[1] * 0.4, size[0] * 0.6, size[1] * 0.6]])
    inside = boxes_in_input(boxes.astype(np.float32), *size, want)
    np.testing.assert_allclose(boxes_in_picture(inside.astype(np.float64), *size, want), boxes, atol=1e-3)


def test_arrays_hold_boxes_where_the_fitted_picture_shows_them(tmp_path: Path) -> None:
    root = write_boxes(tmp_path, 3)
    image = np.zeros((96, 96, 3), np.uint8)
    image[24:48, 12:72] = 255
    for number in range(3):
        Image.fromarray(image).save(root / "JPEGImages" / f"{number:03}.png")
        (root / "Annotations" / f"{number:03}.xml").write_text(annotation(96, 96, [("bar", (12, 24, 72, 48))]))
    scenes = read_voc(root)
    images, truths = scenes.arrays(scenes.splits["train"], ImageInput(width=48, height=32))
    assert images.shape == (1, 32, 48, 3)
    assert truths[0].tolist() == [[6, 8, 36, 16, 0]]
    assert (images[0, 9:15, 7:35] == 255).all()


def test_truths_are_padded_with_no_label() -> None:
    whole = padded([torch.zeros(2, 5), torch.zeros(0, 5)])
    assert whole.shape == (2, 2, 5)
    assert whole[:, :, 4].tolist() == [[0, 0], [-1, -1]]
    assert padded([torch.zeros(0, 5)]).shape == (1, 1, 5)


def bright(window: Tensor) -> list[int]:
    """The box around what is bright in a channel of float [h,w]."""
    rows, columns = (window > 0.5).any(1).nonzero().flatten(), (window > 0.5).any(0).nonzero().flatten()
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


def painted(count: int, height: int = 80, width: int = 120) -> tuple[Tensor, list[Tensor]]:
    """Pictures float with one bright box each in one of three channels, and their truths."""
    random = np.random.default_rng(0)
    pictures, truths = torch.zeros(count, 3, height, width), []
    for number in range(count):
        left, top = random.integers(20, width - 50), random.integers(10, height - 40)
        right, bottom = left + random.integers(8, 30), top + random.integers(8, 30)
        pictures[number, number % 3, top:bottom, left:right] = 1
        truths.append(torch.tensor([[left, top, right, bottom, number % 3]], dtype=torch.float32))
    return pictures, truths


@pytest.mark.parametrize("turn", [False, True])
@pytest.mark.parametrize("scales", [(1.0, 1.0), (0.5, 2.0)])
def test_a_window_shows_its_objects_where_its_truth_says(turn: bool, scales: tuple[float, float]) -> None:
    pictures, truths = painted(64)
    windows, seen = Windows(64, 96, scales, turn).cut(pictures, truths, torch.Generator().manual_seed(1))
    assert windows.shape == (64, 3, 64, 96)
    assert sum(map(len, seen)) > 30
    for window, truth in zip(windows, seen, strict=True):
        for *box, label in truth.tolist():
            assert bright(window[int(label)]) == pytest.approx(box, abs=2)


def test_windows_are_turned_every_way_only_where_that_is_wanted() -> None:
    pictures = torch.zeros(64, 3, 80, 80)
    pictures[:, 0, 10:14, 20:60] = 1  # a bar that lies, in the upper half
    truths = [torch.tensor([[20.0, 10, 60, 14, 0]])] * 64
    for turn, lying in ((False, {True}), (True, {True, False})):
        windows, seen = Windows(80, 80, (1.0, 1.0), turn).cut(pictures, truths, torch.Generator().manual_seed(1))
        boxes = [truth[0].tolist() for truth in seen]
        assert {box[2] - box[0] > box[3] - box[1] for box in boxes} == lying
        assert {box[3] < 40 for box in boxes} == lying
        assert windows[:, 0].sum((1, 2)) == pytest.approx([160] * 64, rel=0.01)


def test_what_shows_too_little_of_itself_is_not_there() -> None:
    pictures, truths = torch.zeros(300, 3, 64, 64), [torch.tensor([[0.0, 0, 16, 16, 2]])] * 300
    pictures[:, 2, :16, :16] = 1
    windows, seen = Windows(32, 32, (1.0, 1.0), False).cut(pictures, truths, torch.Generator().manual_seed(1))
    shown = windows[:, 2].sum((1, 2)) / 256
    kept = torch.tensor([len(truth) for truth in seen])
    assert set(kept.tolist()) == {0, 1}
    assert float(shown[kept == 0].max()) < 0.3
    assert float(shown[kept == 1].min()) > 0.2


def test_a_mosaic_is_four_windows_with_the_objects_of_each() -> None:
    pictures, truths = painted(32)
    windows, seen = Windows(128, 160, (1.0, 1.0), False).mosaic(pictures, truths, torch.Generator().manual_seed(1))
    assert windows.shape == (8, 3, 128, 160)
    assert len(seen) == 8
    quarters = set()
    for window, truth in zip(windows, seen, strict=True):
        for left, top, right, bottom, label in truth.tolist():
            down, across = int(top >= 64), int(left >= 80)
            quarters.add((down, across))
            quarter = window[int(label), down * 64 : down * 64 + 64, across * 80 : across * 80 + 80]
            inside = [left - across * 80, top - down * 64, right - across * 80, bottom - down * 64]
            assert bright(quarter) == pytest.approx(inside, abs=2)
    assert len(quarters) == 4


def test_inspecting_counts_boxes_and_finds_what_is_wrong(tmp_path: Path) -> None:
    root = write_boxes(tmp_path, 8, parts={"train": 4, "val": 2, "test": 2})
    for number, objects in enumerate([[("a", (0, 0, 10, 10))] * 3, [("b", (0, 0, 40, 10))], [], [("a", (5, 5, 5, 9))]]):
        (root / "Annotations" / f"{number:03}.xml").write_text(annotation(96, 96, objects))
    Image.new("RGB", (50, 96)).save(root / "JPEGImages" / "002.png")
    (root / "JPEGImages" / "006.png").write_bytes((root / "JPEGImages" / "001.png").read_bytes())
    text = inspect_folder(root).text()
    assert "boxes by class: train, val, test" in text
    assert "  a: 3, 0, 0" in text
    assert "  b: 1, 0, 0" in text
    assert "  pictures: 3, 2, 2" in text
    assert "boxes of a: roots of areas 10 to 10 pixels, in the middle 10" in text
    assert "boxes of b: roots of areas 20 to 20 pixels" in text
    assert "pictures without boxes: 2" in text
    assert "boxes without area, left out: 1\n  Annotations/003.xml" in text
    assert "leaks between parts: 1" in text
    assert "duplicates with other labels: 1" in text
    assert "broken: JPEGImages/002.png: JPEGImages/002.png: is 50x96, and its annotation says 96x96" in text
