"""The command line: what it refuses, and a fit, export and verify from end to end."""

from pathlib import Path

import pytest
from shapes import write_folders
from typer.testing import CliRunner

from tests.make_models import make_classifier
from training.__main__ import cli, main

SMALL = ["--epochs", "1", "--batch-size", "8", "--set", "widths=[8,8,8]", "--set", "precision=float32"]


def run_main(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return int(end.value.code or 0)


def test_fit_export_verify_from_end_to_end(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source, run, models = ["--data", str(data)], ["--run", "runs/cifar10-classifier"], ["--models", "models"]
    assert run_main(["fit", "cifar10-classifier", *source, *SMALL]) == 0
    assert run_main(["export", "cifar10-classifier", *source, *run, *models]) == 0
    assert run_main(["verify", "models/cifar10-classifier/1", *source]) == 0


def test_a_version_that_no_recipe_made_cannot_be_verified(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_classifier(tmp_path)
    assert run_main(["verify", str(folder), "--data", str(data)]) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert "tiny-classifier/1 was made by no recipe, so no data can tell what it should score." in error
    assert "Traceback" not in error


def test_missing_data_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = run_main(["fit", "camvid-segmenter", "--data", str(tmp_path), "--out", str(tmp_path / "run")])
    assert code == 1
    error = capsys.readouterr().err
    assert "holds no CamVid" in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fit", "cifar10-clasifier"], "known are cifar10-classifier"),
        (["fit", "cifar10-classifier", "--set", "smothing=0.1"], "smoothing"),
        (["fit", "cifar10-classifier", "--set", "smoothing"], "takes KEY=VALUE"),
        (["fit", "cifar10-classifier", "--epochs", "0"], "epochs"),
        (["fit", "cifar10-classifier", "--seed", "4294967296"], "seed"),
        (["fit", "mnist-cnn", "--set", "dropout=1.5"], "dropout: Input should be less than 1"),
        (["fit", "mask-segmenter", "--set", "window=[100,100]"], "window.0: Input should be a multiple of 32"),
        (["fit", "camvid-segmenter", "--set", "scales=[0,1]"], "scales.0: Input should be greater than 0"),
        (["fit", "bsds-denoiser", "--lr", "-1"], "lr: Input should be greater than 0"),
        (["prune", "imagefolder-classifier", "--run", "runs/mine", "--set", "epoch=3"], "did you mean 'epochs'"),
        (["prune", "imagefolder-classifier", "--run", "runs/mine", "--set", "lr=-1"], "lr: Input should be greater"),
        (["distill", "voc-detector", "--teacher", "models/mine/1"], "recipes that do are imagefolder-classifier"),
    ],
)
def test_what_is_unknown_is_refused_with_the_nearest_known(arguments: list[str], words: str, data: Path) -> None:
    result = CliRunner().invoke(cli, [*arguments, "--data", str(data)], env={"COLUMNS": "200", "TERM": "dumb"})
    assert result.exit_code == 2
    assert words in result.output


def test_a_contact_sheet_is_not_laid_among_the_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folders(tmp_path / "shapes", 5)
    monkeypatch.chdir(tmp_path / "shapes")
    before = sorted(tmp_path.rglob("*"))
    assert run_main(["data", "inspect", "."]) == 2
    assert "lies among the pictures" in " ".join(capsys.readouterr().err.split())
    assert sorted(tmp_path.rglob("*")) == before
    assert run_main(["data", "inspect", ".", "--out", str(tmp_path / "sheet.png")]) == 0


def test_what_the_system_refuses_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_folders(tmp_path / "shapes", 5)
    assert run_main(["data", "inspect", str(data), "--out", str(tmp_path / "nowhere" / "sheet.png")]) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert error.startswith("imago-train: [Errno 2] No such file or directory")
    assert "Traceback" not in error


def test_names_are_printed_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "[old] :apple:"
    folder.mkdir()
    assert (
        run_main(["data", "inspect", str(write_folders(tmp_path / "shapes", 5)), "--out", f"{folder}/sheet.png"]) == 0
    )
    assert f"contact sheet: {folder}/sheet.png" in capsys.readouterr().out
