"""Privacy: gradients picture by picture, batches by chance, and a budget that is kept and said."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from opacus.validators import ModuleValidator
from shapes import write_folders
from torch import nn

from app.manifest import read_manifest
from training import engine
from training.data.feed import Draw, Feed
from training.engine import Machine
from training.export import export
from training.networks.residual import ResidualClassifier
from training.private import EPSILON, spent, without_batches
from training.prune import prune
from training.recipes import RECIPES
from training.recipes.imagefolder_classifier import FolderHyper
from training.run import Run, RunRefused

RECIPE = RECIPES["imagefolder-classifier"]
HYPER = FolderHyper.model_validate({"dp_epsilon": 4, "epochs": 2, "size": 16, "width": 8, "batch_size": 32})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folders(tmp_path_factory.mktemp("private") / "shapes", 30)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished private run."""
    made = Run(tmp_path_factory.mktemp("private") / "run")
    made.begin(RECIPE.name, HYPER.model_dump(mode="json"), "imago-train fit", resume=False)
    engine.seed(HYPER.seed)
    engine.fit(RECIPE.plan(HYPER, data, made), HYPER, made)
    return made


def test_a_private_run_spends_no_more_than_its_budget_and_its_card_says_so(
    run: Run, data: Path, tmp_path: Path
) -> None:
    figures = run.read()["metrics"]
    used = figures[EPSILON]
    assert 3 < used <= 4
    assert figures.keys() == {EPSILON, "validation/accuracy"}, "a loss of training pictures is not protected"
    folder = export(RECIPE, run, data, tmp_path / "models")
    validation = read_manifest(folder).training["validation"]
    assert isinstance(validation, dict)
    assert validation[EPSILON] == used
    card = (folder / "README.md").read_text()
    assert "(4, 1e-05)-differential privacy" in card
    assert str(used) in card


def test_a_run_that_goes_on_has_spent_what_it_spent_before(data: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    for epochs, resume in ((1, False), (2, True)):
        plan = RECIPE.plan(HYPER, data, run)
        hyper = HYPER.model_copy(update={"epochs": epochs})
        run.begin(RECIPE.name, HYPER.model_dump(mode="json"), "imago-train fit", resume)
        engine.fit(plan, hyper, run, resume=resume)
        run.update(finished=False)  # as a run is that stopped before its last epoch
        steps = epochs * len(plan.feed)
        expected = spent(plan.module.noise, plan.module.rate, steps, HYPER.dp_delta)  # type: ignore[arg-type]
        assert run.read()["metrics"][EPSILON] == pytest.approx(expected, rel=1e-4)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_without_cut_and_noise_the_gradient_is_the_plain_one(data: Path, tmp_path: Path) -> None:
    plan = RECIPE.plan(HYPER.model_copy(update={"dp_clip": 1e9, "smoothing": 0.0}), data, Run(tmp_path))
    loop: Any = plan.module
    optimiser = loop.optimiser()
    pictures, labels, *_ = batch = next(iter(plan.feed))
    plain = copy.deepcopy(loop.average.module).requires_grad_(True)
    nn.functional.cross_entropy(plain(pictures), labels).backward()
    loop.training_step(batch, 0).backward()
    optimiser.clip_and_accumulate()
    for mine, value in zip(loop.network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.summed_grad / len(labels), value.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_gradients_are_cut_picture_by_picture_and_get_noise(data: Path, tmp_path: Path) -> None:
    plan = RECIPE.plan(HYPER, data, Run(tmp_path))
    loop = plan.module
    optimiser = loop.optimiser()  # type: ignore[operator]
    pictures, labels = 100 * torch.rand(32, 3, 16, 16), torch.arange(32) % 4
    sums = []
    for _ in range(2):
        optimiser.zero_grad()
        nn.functional.cross_entropy(loop.network(pictures), labels).backward()  # type: ignore[operator]
        optimiser.clip_and_accumulate()
        cut = torch.cat([value.summed_grad.flatten() for value in optimiser.params])
        assert float(cut.norm()) <= 32 * HYPER.dp_clip * 1.001
        optimiser.add_noise()
        sums.append(torch.cat([value.grad.flatten() for value in optimiser.params]) - cut)
    wanted = loop.noise * HYPER.dp_clip  # type: ignore[operator]
    assert all(float(noise.std()) == pytest.approx(float(wanted), rel=0.1) for noise in sums)
    assert not torch.equal(*sums)


def test_nothing_in_a_private_network_mixes_the_pictures_of_a_batch() -> None:
    network = without_batches(ResidualClassifier(4, 32, 8))
    assert not ModuleValidator.validate(network)
    pictures = torch.rand(4, 3, 32, 32)
    alone = torch.cat([network(picture[None]) for picture in pictures])
    torch.testing.assert_close(network(pictures), alone, rtol=1e-4, atol=1e-5)


def test_every_row_is_in_a_batch_with_the_same_chance() -> None:
    feed = Feed(200, 50, 7, lambda draw: draw, poisson=True)
    draws: list[Draw] = [draw for _ in range(50) for draw in feed]
    sizes = torch.tensor([len(draw.rows) for draw in draws]).float()
    counts = torch.bincount(torch.cat([draw.rows for draw in draws]), minlength=200).float()
    assert float(sizes.mean()) == pytest.approx(50, rel=0.05)
    assert float(sizes.std()) == pytest.approx((200 * 0.25 * 0.75) ** 0.5, rel=0.2)
    assert float(counts.mean()) == pytest.approx(50, rel=0.05)
    assert float(counts.std()) == pytest.approx((len(draws) * 0.25 * 0.75) ** 0.5, rel=0.2)


def test_two_private_runs_of_one_seed_see_other_batches(data: Path, tmp_path: Path) -> None:
    drawn = [torch.cat([batch[1] for batch in RECIPE.plan(HYPER, data, Run(tmp_path)).feed]) for _ in range(2)]
    assert len(drawn[0]) != len(drawn[1]) or not torch.equal(*drawn)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"mixup": 0.2}, "with dp_epsilon, mixup is off: it joins several pictures"),
        ({"class_weights": True}, "class_weights is off"),
        ({"teacher": "models/a/1"}, "teacher is off"),
        ({"batch_size": 8}, "batch_size is at least 32"),
        ({"dp_epsilon": 0}, "greater than 0"),
    ],
)
def test_what_privacy_is_not_reckoned_for_is_refused(values: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        FolderHyper.model_validate({"dp_epsilon": 4, **values})


def test_what_would_break_the_promise_is_refused(run: Run, data: Path, tmp_path: Path) -> None:
    loose = HYPER.model_copy(update={"dp_delta": 0.01})
    with pytest.raises(RunRefused, match="dp_delta has to be far less than 1 in"):
        RECIPE.plan(loose, data, Run(tmp_path))
    with pytest.raises(RunRefused, match="counts the noise of one process: leave --devices"):
        engine.fit(RECIPE.plan(HYPER, data, Run(tmp_path)), HYPER, Run(tmp_path), machine=Machine(devices=2))
    with pytest.raises(Exception, match="A private run is not pruned"):
        prune(RECIPE, run, Run(tmp_path / "pruned"), data, 0.5, {})
