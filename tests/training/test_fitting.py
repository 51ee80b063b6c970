"""Fitting: real tiny runs, interrupted and resumed."""

import datetime
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from shapes import write_folders
from tiny import TINY, Fit, PowerCut

from training.data.feed import Draw, Feed, Slices
from training.engine import Plan
from training.export import ExportRefused, export
from training.recipes import RECIPES
from training.run import Run, RunRefused


@pytest.mark.parametrize("steps", [3, 6, 8])
def test_a_resumed_classifier_ends_with_the_weights_of_an_uninterrupted_run(
    steps: int, fit_tiny: Fit, tiny_runs: dict[str, Run], tmp_path: Path
) -> None:
    _check_resumed("cifar10-classifier", steps, fit_tiny, tiny_runs, tmp_path)


@pytest.mark.parametrize(("name", "steps"), [("camvid-segmenter", 2), ("cifar10-generator", 8), ("bccd-detector", 3)])
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_run(
    name: str, steps: int, fit_tiny: Fit, tiny_runs: dict[str, Run], tmp_path: Path
) -> None:
    _check_resumed(name, steps, fit_tiny, tiny_runs, tmp_path)


def _check_resumed(name: str, steps: int, fit_tiny: Fit, runs: dict[str, Run], folder: Path) -> None:
    with pytest.raises(PowerCut):
        fit_tiny(name, folder, stop_before=steps)
    assert not Run(folder).read()["finished"]
    resumed = fit_tiny(name, folder, resume=True)
    assert resumed.read()["finished"]
    _check_same_weights(runs[name], resumed)


def _check_same_weights(whole: Run, resumed: Run) -> None:
    expected, found = whole.weights(), resumed.weights()
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=0, msg=key)


def _long_fit(data: Path, out: Path) -> list[str]:
    tiny = [f"{key}={json.dumps(value)}" for key, value in {**TINY["cifar10-classifier"], "epochs": 60}.items()]
    options = [word for pair in (*tiny, 'precision="float32"') for word in ("--set", pair)]
    return [
        sys.executable,
        "-m",
        "training",
        "fit",
        "cifar10-classifier",
        "--data",
        str(data),
        "--out",
        str(out),
        *options,
    ]


def _stop(command: list[str], number: signal.Signals) -> None:
    """Send a signal to a fit in its third epoch, which ends it."""
    stopped = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert stopped.stdout is not None
    for line in stopped.stdout:
        if "epoch 3 of 60" in line:
            stopped.send_signal(number)
            break
    _, said = stopped.communicate(timeout=60)
    assert stopped.returncode == 128 + number
    assert "add --resume to go on" in said


def test_a_run_that_sigterm_stops_keeps_its_state_and_is_resumed_to_the_same_weights(
    data: Path, tmp_path: Path
) -> None:
    _stop(_long_fit(data, tmp_path / "stopped"), signal.SIGTERM)
    assert not Run(tmp_path / "stopped").read()["finished"]
    for command in ([*_long_fit(data, tmp_path / "stopped"), "--resume"], _long_fit(data, tmp_path / "whole")):
        subprocess.run(command, check=True, capture_output=True, timeout=120)
    _check_same_weights(Run(tmp_path / "whole"), Run(tmp_path / "stopped"))


def test_a_run_that_is_interrupted_by_hand_keeps_its_state(data: Path, tmp_path: Path) -> None:
    _stop(_long_fit(data, tmp_path), signal.SIGINT)
    assert Run(tmp_path).checkpoint.is_file()
    assert not Run(tmp_path).read()["finished"]


def test_fewer_pictures_than_a_batch_are_shared_by_two_processes(tmp_path: Path) -> None:
    data = write_folders(tmp_path / "shapes", 4)
    small = [word for value in ("size=16", "width=8", "epochs=1", 'precision="float32"') for word in ("--set", value)]
    command = ["fit", "imagefolder-classifier", "--data", str(data), "--out", str(tmp_path / "run"), *small]
    two = [sys.executable, "-m", "training", *command, "--device", "cpu", "--devices", "2"]
    subprocess.run(two, check=True, capture_output=True, timeout=120)
    assert Run(tmp_path / "run").read()["finished"]


def test_what_a_pruning_says_that_was_stopped_goes_on_with_it(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "training", *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    data = ["--data", str(write_folders(tmp_path / "my shapes", 4))]
    small = [word for value in ("size=16", "width=8", "epochs=1", 'precision="float32"') for word in ("--set", value)]
    recipe, first = "imagefolder-classifier", ["--out", str(tmp_path / "first")]
    fitted = run("fit", recipe, *data, *first, *small)
    assert fitted.communicate(timeout=60)[1] == ""
    long = ["--set", "epochs=40", "--set", "patience=40"]
    pruned = run("prune", recipe, "--run", str(tmp_path / "first"), *data, *long)
    assert pruned.stdout is not None
    for line in pruned.stdout:
        if "epoch 2 of 40" in line:
            pruned.send_signal(signal.SIGTERM)
            break
    _, said = pruned.communicate(timeout=60)
    assert pruned.returncode == 128 + signal.SIGTERM
    again = run(*shlex.split(said.partition("to go on: imago-train ")[2]))
    assert again.communicate(timeout=60)[1] == ""
    assert Run(tmp_path / "first-pruned").read()["finished"]


@pytest.mark.parametrize(
    ("name", "hook"),
    [
        ("cifar10-classifier", "on_train_batch_end"),
        ("cifar10-classifier", "on_validation_batch_end"),
        ("cifar10-classifier", "on_train_epoch_end"),
        ("cifar10-generator", "on_train_batch_end"),
        ("cifar10-generator", "on_train_epoch_end"),
    ],
)
def test_sigterm_at_any_point_of_a_run_loses_no_step(
    name: str, hook: str, fit_tiny: Fit, tiny_runs: dict[str, Run], tmp_path: Path
) -> None:
    sent = []

    def terminate(*_: Any) -> None:
        if not sent:
            sent.append(os.kill(os.getpid(), signal.SIGTERM))

    def prepare(plan: Plan) -> Plan:
        setattr(plan.module, hook, terminate)
        return plan if plan.validation is None else replace(plan, validation=Slices(plan.validation.tensors, 2))

    with pytest.raises(SIGTERMException):
        fit_tiny(name, tmp_path, prepare=prepare, every=datetime.timedelta(days=1))
    assert sent
    _check_same_weights(tiny_runs[name], fit_tiny(name, tmp_path, resume=True))


@pytest.mark.parametrize("name", TINY)
def test_a_run_writes_only_below_its_folder(
    name: str, fit_tiny: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    run = fit_tiny(name, tmp_path / "run")
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert run.checkpoint.is_file()
    assert list((run.folder / "tensorboard").glob("events*"))


def test_a_run_is_not_begun_over_another(tiny_runs: dict[str, Run]) -> None:
    run = tiny_runs["camvid-segmenter"]
    with pytest.raises(RunRefused, match="holds a run already"):
        run.begin("camvid-segmenter", run.read()["hyper"], "again", resume=False)


def test_a_run_is_not_resumed_with_other_hyper_parameters(tiny_runs: dict[str, Run]) -> None:
    run = tiny_runs["camvid-segmenter"]
    with pytest.raises(RunRefused, match="started with other values of lr"):
        run.begin("camvid-segmenter", run.read()["hyper"] | {"lr": 5.0}, "again", resume=True)


def test_a_finished_run_is_not_resumed(tiny_runs: dict[str, Run]) -> None:
    run = tiny_runs["camvid-segmenter"]
    with pytest.raises(RunRefused, match="is finished: export it"):
        run.begin("camvid-segmenter", run.read()["hyper"], "again", resume=True)


def test_a_run_that_ended_after_its_last_step_keeps_what_was_logged(
    fit_tiny: Fit, tiny_runs: dict[str, Run], tmp_path: Path
) -> None:
    shutil.copytree(tiny_runs["camvid-segmenter"].folder, tmp_path / "run")
    before = Run(tmp_path / "run").read()
    Run(tmp_path / "run").update(finished=False)
    assert fit_tiny("camvid-segmenter", tmp_path / "run", resume=True).read() == before


def test_a_run_is_not_resumed_or_exported_where_it_would_tell_other_things_apart(
    tiny_runs: dict[str, Run], data: Path, tmp_path: Path
) -> None:
    name = "bccd-detector"
    shutil.copytree(tiny_runs[name].folder, tmp_path / "run")
    run = Run(tmp_path / "run")
    run.learns(["circle", "cross"])
    with pytest.raises(RunRefused, match="learned circle, cross; the data have cross, circle"):
        run.learns(["cross", "circle"])
    with pytest.raises(RunRefused, match="learned circle, cross; the data have circle, cross, square"):
        export(RECIPES[name], run, data, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_a_run_that_diverged_is_not_exported(tiny_runs: dict[str, Run], data: Path, tmp_path: Path) -> None:
    name = "camvid-segmenter"
    shutil.copytree(tiny_runs[name].folder, tmp_path / "run")
    run = Run(tmp_path / "run")
    state = torch.load(run.checkpoint, weights_only=True)
    for key, value in state["state_dict"].items():
        if key.startswith("average.module") and value.is_floating_point():
            value.fill_(float("nan"))
    torch.save(state, run.checkpoint)
    with pytest.raises(ExportRefused, match="diverged"):
        export(RECIPES[name], run, data, tmp_path / "models")


def test_nothing_to_resume_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunRefused, match="no checkpoint to resume from"):
        Run(tmp_path).begin("camvid-segmenter", {}, "again", resume=True)


def test_a_feed_shows_every_row_once_an_epoch_in_an_order_of_its_own() -> None:
    feed = Feed(10, 3, seed=0, make=lambda draw: draw.rows.tolist())
    first, second = list(feed), list(feed)
    assert len(first) == len(feed) == 3
    assert len({row for batch in first for row in batch}) == 9
    assert first != second


def test_a_feed_goes_on_where_its_state_was_taken() -> None:
    def make(draw: Draw) -> list[float]:
        return torch.rand(len(draw.rows), generator=draw.random).tolist()

    feed, other = Feed(10, 3, seed=0, make=make), Feed(10, 3, seed=0, make=make)
    batches = iter(feed)
    next(batches)
    other.load_state_dict(feed.state_dict())
    assert list(batches) == list(other)
