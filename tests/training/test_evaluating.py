"""Evaluation by parts: pictures in every format, figures that are none, versions that cannot be compared."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shapes import SHAPES, write_folders
from tiny import png

from app.errors import InvalidModel
from tests.imaging.pictures import save
from tests.make_models import make_classifier, make_segmenter
from training.average_precision import Pictures
from training.data import BrokenData
from training.data.held_out import Boxed, Masked, labelled
from training.data.voc import Box
from training.evaluation import classification, detection, segmentation
from training.evaluation.comparison import bootstrap, by_redrawing
from training.evaluation.run import evaluate, truth
from training.figures import confusion_figure, precision_figure
from training.quantize import prepared
from training.recipes import RECIPES
from training.run import Run
from training.version import open_version

GREY = np.full((8, 8, 3), 90, np.uint8)


@pytest.mark.parametrize("ending", ["bmp", "gif", "tiff", "avif"])
def test_pictures_that_can_be_learned_from_can_be_scored_and_calibrated_on(ending: str, tmp_path: Path) -> None:
    version = open_version(make_classifier(tmp_path / "models", labels=SHAPES))
    for path in write_folders(tmp_path / "shapes", 5).rglob("*.png"):
        Image.open(path).save(path.with_suffix(f".{ending}"))
        path.unlink()
    pictures = labelled(tmp_path / "shapes")
    answers = classification.ask(version, pictures)
    figures, _ = classification.report(answers, pictures)
    assert figures["pictures"] == 4
    assert len(prepared(version, pictures.files, 3)["image"]) == 3


def test_a_held_out_picture_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    version = open_version(make_classifier(tmp_path))
    files = [png(GREY), png(GREY)[:40]]
    with pytest.raises(BrokenData, match=r"cat/7\.png: no readable picture"):
        list(version.answers(files, ["cat/6.png", "cat/7.png"]))
    with pytest.raises(BrokenData, match="picture 2: no readable picture"):
        list(version.answers(files))


def test_versions_of_two_tasks_are_not_compared(tmp_path: Path) -> None:
    one, other = make_classifier(tmp_path), make_segmenter(tmp_path)
    with pytest.raises(InvalidModel, match=r"tiny-classifier/1 and tiny-segmenter/1 cannot be compared"):
        evaluate(one, tmp_path, tmp_path / "out", other)
    assert not (tmp_path / "out").exists()


def test_a_picture_without_objects_is_not_among_the_worst(tmp_path: Path) -> None:
    box = (1.0, 1.0, 5.0, 5.0)
    held_out = Boxed(["none.png", "some.png"], [png(GREY), png(GREY)], [(), (Box("a", box),)])
    found = np.array([[*box, 0.9, 0]])
    answers = detection.Answers(Pictures(("a",), [np.zeros((0, 5)), np.array([[*box, 0]])], [found, found]))
    figures, _ = detection.report(answers, held_out)
    assert figures["worst"] == [{"picture": "some.png", "map50": 1.0}]
    json.dumps(figures, allow_nan=False)


def test_a_picture_that_counts_nowhere_is_not_among_the_worst() -> None:
    masks = [np.full((8, 8), 255, np.uint8), np.zeros((8, 8), np.uint8)]
    held_out = Masked(["void.png", "some.png"], [png(GREY), png(GREY)], masks)
    matrices = np.array([[[0, 0], [0, 0]], [[48, 16], [0, 0]]])
    figures, _ = segmentation.report(segmentation.Answers(("a", "b"), matrices, [masks[1], masks[1]]), held_out)
    assert [one["picture"] for one in figures["worst"]] == ["some.png"]
    json.dumps(figures, allow_nan=False)


def test_a_p_value_is_never_nothing_and_few_pictures_say_little() -> None:
    better = np.full(200, 0.1)
    assert by_redrawing(0.1, better, 50).p_value == pytest.approx(2 / 201)
    assert by_redrawing(-0.1, -better, 50).p_value == pytest.approx(2 / 201)
    assert by_redrawing(0.1, better, 1).p_value == 1
    assert by_redrawing(0.1, better, 4).p_value == pytest.approx(2 / 2**4)
    assert by_redrawing(0.0, np.zeros(200), 50).p_value == 1


def test_redrawn_sets_without_a_figure_do_not_count() -> None:
    drawn = np.array([0.1] * 50 + [-0.1] * 50 + [np.nan] * 900)
    assert by_redrawing(0.1, drawn, 50).p_value == 1
    void = np.zeros((3, 2, 2), np.int64)
    some = np.concatenate([void, [[[9, 1], [1, 9]]]])
    assert bootstrap(some, some, 100).p_value == 1


def test_a_diagram_of_many_labels_stays_small_enough_to_draw() -> None:
    content = confusion_figure(np.eye(150, dtype=np.int64), [f"class {number}" for number in range(150)])
    assert max(Image.open(io.BytesIO(content)).size) <= 4400


def test_labels_with_dollars_are_no_formulas() -> None:
    labels = ["$a_$", "5$ to 10$"]
    for content in (confusion_figure(np.eye(2, dtype=np.int64), labels), precision_figure(np.ones((2, 101)), labels)):
        Image.open(io.BytesIO(content)).verify()


def test_the_folder_one_is_in_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write_folders(tmp_path / "shapes", 5))
    recipe = RECIPES["imagefolder-classifier"]
    assert recipe.describe(recipe.hyper(), Path()).data["name"] == "shapes"


def test_pictures_of_ones_own_are_not_passed_over_for_digits(tmp_path: Path) -> None:
    folder = make_classifier(tmp_path / "models", training={"recipe": "mnist-cnn"}, labels=SHAPES)
    mine = truth(open_version(folder), write_folders(tmp_path / "shapes", 5))
    assert set(mine.labels) == set(SHAPES)  # type: ignore[union-attr]
    with pytest.raises(BrokenData, match="holds no MNIST"):
        truth(open_version(folder), tmp_path / "models")
    assert len(truth(open_version(folder), Path()).names) > 300


@pytest.mark.parametrize(
    ("labels", "size", "words"),
    [
        (("circle", "square", "cross", "triangle"), 16, "calls class 1 'square', here it is 'cross'"),
        (SHAPES, 24, "takes pictures of 24x24x3, and the student of 16x16x3"),
        (SHAPES[:3], 16, "does not tell 4 classes apart"),
    ],
)
def test_a_teacher_that_means_something_else_is_refused(
    labels: tuple[str, ...], size: int, words: str, tmp_path: Path
) -> None:
    teacher = make_classifier(tmp_path / "models", labels=labels, size=size)
    able, data = RECIPES["imagefolder-classifier"], write_folders(tmp_path / "shapes", 5)
    with pytest.raises(InvalidModel, match=words):
        able.plan(able.hyper(size=16, width=8, teacher=str(teacher)), data, Run(tmp_path / "run"))
    right = make_classifier(tmp_path / "right", labels=SHAPES, size=16)
    batch = next(iter(able.plan(able.hyper(size=16, width=8, teacher=str(right)), data, Run(tmp_path / "run")).feed))
    assert batch[-1].shape == (12, 4)


def test_a_picture_kept_as_bytes_is_what_the_version_sees(tmp_path: Path) -> None:
    """BMP and PNG are both without loss: they are answered alike."""
    version = open_version(make_classifier(tmp_path))
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    bmp, same = version.answers([save(pixels, "BMP"), save(pixels)])
    assert bmp == same
