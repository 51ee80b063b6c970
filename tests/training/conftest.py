"""Tiny runs that really train, and a models folder exported from them."""

import datetime
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from shapes import write_boxes
from tiny import TINY, BreakingFeed, Fit, make_camvid_folders, make_cifar_zips, make_photographs

from training import engine
from training.engine import Plan
from training.export import export
from training.recipe import Recipe
from training.recipes import RECIPES
from training.recipes.cifar10_generator import JUDGE
from training.run import Run


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Networks of a few channels gain nothing from a second thread, and other tests run beside these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all data sets, each in a folder of its own."""
    root = tmp_path_factory.mktemp("data")
    for name, make in (
        ("cifar10", make_cifar_zips),
        ("camvid", make_camvid_folders),
        ("photographs", make_photographs),
    ):
        (root / name).mkdir()
        make(root / name)
    write_boxes(root / "BCCD", 9, parts={"train": 4, "val": 2, "test": 3})
    return root


@pytest.fixture(scope="session")
def fit_tiny(data: Path) -> Fit:
    """Fit a recipe with tiny hyper-parameters: `fit_tiny(name, folder, stop_before=3, resume=True)`.

    Every step writes a checkpoint, or one is written `every` so often; `stop_before` breaks off where that step would
    be made; `prepare` changes the plan.
    """

    def fit(
        name: str,
        folder: Path,
        stop_before: int | None = None,
        resume: bool = False,
        prepare: Callable[[Plan], Plan] = lambda plan: plan,
        every: datetime.timedelta = datetime.timedelta(0),
    ) -> Run:
        recipe: Recipe[Any] = RECIPES[name]
        hyper, run = recipe.hyper(**TINY[name], precision="float32"), Run(folder)
        run.begin(name, hyper.model_dump(mode="json"), "a test", resume)
        engine.seed(hyper.seed)
        plan = prepare(recipe.plan(hyper, data, run))
        if stop_before is not None:
            plan = replace(plan, feed=BreakingFeed(plan.feed, stop_before))
        engine.fit(plan, hyper, run, resume=resume, every=every)
        return run

    return fit


@pytest.fixture(scope="session")
def tiny_runs(fit_tiny: Fit, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """One finished run of each recipe."""
    return {name: fit_tiny(name, tmp_path_factory.mktemp("runs") / name) for name in TINY}


@pytest.fixture(scope="session")
def models(tiny_runs: dict[str, Run], data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with version 1 of each, exported from the tiny runs; and the judge of generated pictures."""
    folder = tmp_path_factory.mktemp("models")
    judge, number = JUDGE.split("/")
    export(RECIPES[judge], tiny_runs[judge], data, folder, int(number))
    for name, run in tiny_runs.items():
        export(RECIPES[name], run, data, folder, 1)
    return folder
