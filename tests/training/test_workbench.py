"""The whole way from one's own pictures to an examined, quantised and served model, by the commands that users type."""

import base64
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shapes import SHAPES, draw, scene, write_boxes, write_folders, write_masks

from app.manifest import read_manifest
from app.settings import Settings
from tests.api.service import Service
from tests.imaging.pictures import save
from training.__main__ import main
from training.data.pixels import decode_labels
from training.evaluation.comparison import bootstrap, mcnemar
from training.quantize import Gain, Measured
from training.recipes import RECIPES
from training.version import open_version


def run_main(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    return int(end.value.code or 0)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, masks and boxes, and models that were fitted on them."""
    root = tmp_path_factory.mktemp("workbench")
    pictures, masks = write_folders(root / "shapes", 200), write_masks(root / "masks", 160)
    boxes = write_boxes(root / "boxes", 400)
    for recipe, data, name, options in (
        ("imagefolder-classifier", pictures, "shapes", ["size=48", "width=16", "epochs=18", "mixup=0", "lr=0.004"]),
        (
            "mask-segmenter",
            masks,
            "masks",
            ["size=[96,96]", "width=16", "epochs=90", "scales=[0.8,1.3]", "colour=0.1", "decay=0.97"],
        ),
        (
            "voc-detector",
            boxes,
            "boxes",
            [
                "size=[96,96]",
                "width=16",
                "epochs=14",
                "lr=0.003",
                "scales=[0.8,1.2]",
                "mosaic=0",
                "decay=0.97",
                "warm_up=20",
            ],
        ),
    ):
        run = str(root / "runs" / name)
        chosen = [word for option in options for word in ("--set", option)]
        assert run_main("fit", recipe, "--data", str(data), "--out", run, *chosen) == 0
        models = str(root / "models")
        assert run_main("export", recipe, "--data", str(data), "--run", run, "--models", models, "--name", name) == 0
    return root


@pytest.fixture(scope="module")
def service(home: Path) -> Iterator[Service]:
    running = Service(Settings(models=home / "models", device="cpu", threads=1))
    yield running
    running.close()


def test_a_folder_of_shapes_is_classified_through_http(service: Service) -> None:
    random = np.random.default_rng(99)
    right = 0
    for number in range(80):
        pixels, _ = draw(number % 4, random)
        (result,) = service.post("/classify?top_k=1", save(pixels)).json()["results"]
        right += result["labels"][0]["label"] == SHAPES[number % 4]
    assert right / 80 > 0.95


def test_masks_of_shapes_are_found_through_http(service: Service) -> None:
    random = np.random.default_rng(99)
    both, either = np.zeros(5), np.zeros(5)
    for number in range(40):
        pixels, inside = (array.repeat(2, 0).repeat(2, 1) for array in draw(number % 4, random))
        (result,) = service.post("/segment", save(pixels)).json()["results"]
        found = decode_labels(base64.b64decode(result["mask"]["data"]), "answer")
        truth = inside * (number % 4 + 1)
        both += [((found == label) & (truth == label)).sum() for label in range(5)]
        either += [((found == label) | (truth == label)).sum() for label in range(5)]
    assert (both / either).mean() > 0.9


def test_things_are_found_through_http(service: Service) -> None:
    random = np.random.default_rng(99)
    pairs, missed, wrong = 0, 0, 0
    for _ in range(30):
        image, objects = scene(random)
        (result,) = service.post("/detect?threshold=0.4", save(image)).json()["results"]
        found = [(one["label"], one["box"]) for one in result["objects"]]
        hits = sum(
            any(label == other and _overlap(box, truth) > 0.5 for label, box in found) for other, truth in objects
        )
        pairs, missed, wrong = pairs + hits, missed + len(objects) - hits, wrong + len(found) - hits
    assert pairs / (pairs + missed) > 0.8
    assert pairs / (pairs + wrong) > 0.8


def _overlap(one: Sequence[float], other: Sequence[float]) -> float:
    sides = [max(0, min(one[at + 2], other[at + 2]) - max(one[at], other[at])) for at in (0, 1)]
    both = sides[0] * sides[1]
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return both / (sum(areas) - both)


def test_a_detector_is_evaluated_by_label_and_by_picture(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    version, out = home / "models" / "boxes" / "1", home / "evaluated-boxes"
    command = ["evaluate", str(version), "--data", str(home / "boxes"), "--out", str(out), "--against", str(version)]
    assert run_main(*command) == 0
    assert "cannot be told apart" in capsys.readouterr().out
    figures = json.loads((out / "report.json").read_text())
    metrics = read_manifest(version).metrics
    assert figures["map50"] == pytest.approx(metrics["test_map50"])
    assert metrics["test_map50_low"] <= metrics["test_map50"] <= metrics["test_map50_high"]
    assert metrics["test_map"] < metrics["test_map50"]
    assert figures["map50"] > 0.85
    assert set(figures["classes"]) <= set(SHAPES)
    assert sum(each["objects"] for each in figures["classes"].values()) >= figures["pictures"] == 40
    assert all(0 < each["best_threshold"] < 1 for each in figures["classes"].values())
    for name in ("precision-recall", "worst"):
        Image.open(out / f"{name}.png").verify()
        assert f'alt="{name}"' in (out / "report.html").read_text()


def test_an_evaluation_is_figures_pictures_and_one_page(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    version, out = home / "models" / "shapes" / "1", home / "evaluation"
    assert run_main("evaluate", str(version), "--data", str(home / "shapes"), "--out", str(out)) == 0
    assert re.search(r"accuracy 0\.9\d|accuracy 1\.0", capsys.readouterr().out)
    figures = json.loads((out / "report.json").read_text())
    metrics = json.loads((version / "manifest.json").read_text())["metrics"]
    assert figures["accuracy"] == pytest.approx(metrics["test_accuracy"])
    assert sum(map(sum, figures["confusion"])) == figures["pictures"] == 80
    assert set(figures["classes"]) == set(SHAPES)
    assert all(
        0 <= value <= 1 for each in figures["classes"].values() for name, value in each.items() if name != "pictures"
    )
    page = (out / "report.html").read_text()
    for name in ("confusion", "reliability", "mistakes"):
        Image.open(out / f"{name}.png").verify()
        assert f'alt="{name}"' in page
    assert "http" not in re.sub(r'src="data:[^"]*"', "", page)


def test_a_segmenter_is_evaluated_by_class_and_by_picture(home: Path) -> None:
    version, out = home / "models" / "masks" / "1", home / "evaluated-masks"
    assert run_main("evaluate", str(version), "--data", str(home / "masks"), "--out", str(out)) == 0
    figures = json.loads((out / "report.json").read_text())
    metrics = json.loads((version / "manifest.json").read_text())["metrics"]
    assert figures["miou"] == pytest.approx(metrics["test_miou"])
    assert figures["pixel_accuracy"] > 0.9
    assert [one["miou"] for one in figures["worst"]] == sorted(one["miou"] for one in figures["worst"])
    Image.open(out / "worst.png").verify()


def test_a_version_is_quantised_and_compared_with_the_one_it_came_from(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, data = home / "models" / "shapes" / "1", str(home / "shapes")
    assert run_main("quantize", str(first), "--data", data, "--pictures", "64", "--loss", "0.05", "--force") == 0
    assert "| size |" in capsys.readouterr().out
    second = first.with_name("2")
    assert (second / "model.onnx").stat().st_size < 0.5 * (first / "model.onnx").stat().st_size
    assert run_main("verify", str(second), "--data", data) == 0
    before, after = read_manifest(first), read_manifest(second)
    recipe = RECIPES["imagefolder-classifier"]
    sets = recipe.calibrate(recipe.hyper.model_validate(after.training["hyper"]), open_version(second), home / "shapes")
    assert after.conformal == sets != before.conformal
    out = str(home / "compared")
    assert run_main("evaluate", str(second), "--data", data, "--out", out, "--against", str(first)) == 0
    assert json.loads((home / "compared" / "report.json").read_text())["comparison"]["p_value"] > 0.05


def test_an_error_that_grows_is_a_loss_in_its_unit() -> None:
    before, after = Measured(1_000_000, 4.0, 2, 1, 1), Measured(500_000, 4.25, 1, 0.5, 0.5)
    gain = Gain(Path("2"), RECIPES["cifar10-autoencoder"], "test_bits_per_byte", before, after)
    assert gain.lost == 0.25
    assert "| test_bits_per_byte | 4 bits | 4.25 bits |" in gain.table()
    share = Gain(
        Path("2"), RECIPES["cifar10-classifier"], "test_accuracy", Measured(1, 0.9, 1, 1, 1), Measured(1, 0.8, 1, 1, 1)
    )
    assert share.lost == pytest.approx(0.1)
    assert "| test_accuracy | 90.00 % | 80.00 % |" in share.table()


def test_a_version_in_half_precision_answers_alike(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, data = home / "models" / "shapes" / "1", str(home / "shapes")
    monkeypatch.chdir(first)
    assert run_main("quantize", ".", "--data", data, "--precision", "fp16", "--force") == 0
    newest = max((path for path in first.parent.iterdir() if path.name.isdecimal()), key=lambda path: int(path.name))
    manifests = [json.loads((path / "manifest.json").read_text()) for path in (first, newest)]
    scores = [manifest["metrics"]["test_accuracy"] for manifest in manifests]
    assert abs(scores[0] - scores[1]) <= 0.0126  # one picture of eighty


def test_a_version_that_would_lose_too_much_is_not_made(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted((home / "models" / "masks").iterdir())
    masks = str(home / "models" / "masks" / "1")
    code = run_main("quantize", masks, "--data", str(home / "masks"), "--pictures", "1", "--loss", "0")
    if code:
        assert "--force makes it all the same" in capsys.readouterr().err
        assert sorted((home / "models" / "masks").iterdir()) == before


def test_a_pruned_network_is_narrower_and_nearly_as_good(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, runs, models = str(home / "shapes"), home / "runs", home / "models"
    assert run_main("prune", "imagefolder-classifier", "--run", str(runs / "shapes"), "--data", data) == 0
    assert f"--data {data}" in " ".join(capsys.readouterr().out.split()), "what is next is a whole command"
    exported = ["--run", str(runs / "shapes-pruned"), "--models", str(models), "--name", "pruned"]
    assert run_main("export", "imagefolder-classifier", "--data", data, *exported) == 0
    before, after = (read_manifest(models / name / "1") for name in ("shapes", "pruned"))
    assert after.files["model.onnx"].bytes < 0.35 * before.files["model.onnx"].bytes
    assert after.metrics["test_accuracy"] > before.metrics["test_accuracy"] - 0.05
    assert "--share 0.5" in after.training["command"]
    assert str(home) not in after.model_dump_json()


def test_a_student_learns_from_a_teacher(home: Path) -> None:
    data, models = str(home / "shapes"), home / "models"
    out, teacher = str(home / "runs" / "student"), str(models / "shapes" / "1")
    small = [word for value in ("size=48", "width=8", "epochs=12", "mixup=0", "lr=0.004") for word in ("--set", value)]
    command = ["distill", "imagefolder-classifier", "--teacher", teacher, "--data", data, "--out", out]
    assert run_main(*command, *small) == 0
    exported = ["--data", data, "--run", out, "--models", str(models), "--name", "student"]
    assert run_main("export", "imagefolder-classifier", *exported) == 0
    student = read_manifest(models / "student" / "1")
    assert student.metrics["test_accuracy"] > 0.7
    assert student.training["hyper"]["teacher"] == "models/shapes/1"
    assert str(home) not in student.model_dump_json()


def test_a_teacher_of_other_classes_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher = str(home / "models" / "masks" / "1")
    out = str(home / "runs" / "refused")
    command = ["distill", "mnist-cnn", "--teacher", teacher, "--out", out]
    assert run_main(*command) == 1
    assert "does not tell 10 classes apart" in " ".join(capsys.readouterr().err.split())


def test_versions_are_drawn_by_score_and_latency(home: Path, tmp_path: Path) -> None:
    assert run_main("report", str(home / "models"), "--measure", "--plot", str(tmp_path / "plot.png")) == 0
    Image.open(tmp_path / "plot.png").verify()
    (home / "models" / "latency.json").unlink()


def test_a_picture_that_cannot_be_read_stops_training_before_it_begins(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_folders(tmp_path / "shapes", 5)
    (root / "cross" / "001.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    assert run_main("fit", "imagefolder-classifier", "--data", str(root), "--out", str(tmp_path / "run")) == 1
    assert "cross/001.png: no readable picture" in " ".join(capsys.readouterr().err.split())


def test_the_bundled_digits_are_learned_without_a_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_main("fit", "mnist-cnn", "--epochs", "12") == 0
    assert run_main("export", "mnist-cnn", "--run", "runs/mnist-cnn") == 0
    metrics = json.loads((tmp_path / "models" / "mnist-cnn" / "1" / "manifest.json").read_text())["metrics"]
    assert metrics["test_accuracy"] >= 0.98


def test_pictures_decoded_by_workers_are_those_of_the_main_process(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "shapes", 12)
    options = ["--set", "size=32", "--set", "width=8", "--set", "epochs=2", "--set", 'precision="float32"']
    records = []
    for workers in ("0", "2"):
        out = tmp_path / f"run-{workers}"
        command = ["fit", "imagefolder-classifier", "--data", str(root), "--out", str(out), "--workers", workers]
        assert run_main(*command, *options) == 0
        records.append(json.loads((out / "run.json").read_text())["metrics"])
    assert records[0] == records[1]


@pytest.mark.parametrize("kinds", [("circle",), SHAPES])
def test_a_generator_of_a_folder_is_trained_exported_and_draws(kinds: tuple[str, ...], tmp_path: Path) -> None:
    whole = write_folders(tmp_path / "all", 20)
    for shape in kinds:
        shutil.copytree(whole / shape, tmp_path / "shapes" / shape)
    data, run = ["--data", str(tmp_path / "shapes")], str(tmp_path / "run")
    small = [word for value in ("size=16", "width=8", "latent=8", "epochs=2") for word in ("--set", value)]
    assert run_main("fit", "folder-generator", *data, "--out", run, *small) == 0
    models = tmp_path / "models"
    assert run_main("export", "folder-generator", *data, "--run", run, "--models", str(models)) == 0
    version = open_version(models / "folder-generator" / "1")
    (result,) = version.made(**{"class": kinds[-1], "seed": 3})
    assert (result["image"]["width"], result["class"]) == (16, kinds[-1])
    Image.open(models / "folder-generator" / "1" / "samples.png").verify()


def test_a_size_that_a_generator_cannot_have_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = str(write_folders(tmp_path / "shapes", 5))
    assert run_main("fit", "folder-generator", "--data", data, "--out", str(tmp_path / "run"), "--set", "size=48") == 2
    assert "48 is no power of two" in " ".join(capsys.readouterr().err.split())


def test_mcnemar_counts_pictures_that_one_alone_had_right() -> None:
    this = np.array([True] * 10 + [False] * 2 + [True] * 88)
    other = np.array([False] * 10 + [True] * 2 + [True] * 88)
    found = mcnemar(this, other)
    assert found.difference == pytest.approx(0.08)
    assert found.p_value == pytest.approx(2 * (1 + 12 + 66) / 2**12)
    assert "a is better than b by 8.00 points" in found.sentence("a", "b")
    assert mcnemar(this, this).p_value == 1


def test_a_bootstrap_tells_a_clear_difference_from_none() -> None:
    random = np.random.default_rng(0)
    good = np.array([[[90 + random.integers(5), 5], [5, 90]] for _ in range(50)])
    bad = np.array([[[60 + random.integers(5), 35], [35, 60]] for _ in range(50)])
    assert bootstrap(good, bad, 200).p_value < 0.01
    assert bootstrap(good, good, 200).p_value == 1
