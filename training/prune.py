"""Prune: take whole channels out of a trained network, and fine-tune what is left.

The weakest channels by the length of their filters go (Li et al. 2017, arXiv 1608.08710), the same share in every
layer, so that what is left is a narrower network of the same kind: smaller dense convolutions, faster everywhere.
Which channels belong together is found by torch-pruning (Fang et al. 2023, arXiv 2301.12900).
"""

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
import torch_pruning
from torch import Tensor, nn

from app.errors import InvalidModel
from training import engine
from training.recipe import Recipe
from training.run import Run, options, submodule


@runtime_checkable
class Prunable(Protocol):
    """A recipe whose network exists in any width."""

    def network(self, hyper: Any, data: Path) -> Any:
        """The network of these hyper-parameters, untrained."""

    def narrower(self, hyper: Any, pruned: Any) -> Any:
        """Hyper-parameters of a network as wide as a pruned one."""


def prune(recipe: Recipe[Any], source: Run, target: Run, data: Path, share: float, values: dict[str, Any]) -> None:
    """Prune the network of a finished run by a share of its channels, and fine-tune it in another run.

    `values` are hyper-parameters of the fine-tuning: by default those of the first run, with a third of its epochs and
    of its learning rate.

    Raises:
        InvalidModel: the recipe's network has no other widths, or so narrow a one, or the run was private.
        RunRefused: the first run is not there, or the second one is.
    """
    if not isinstance(recipe, Prunable):
        raise InvalidModel(f"The network of {recipe.name} has one width: it cannot be pruned.")
    record = source.read()
    hyper = recipe.hyper(**record["hyper"])
    if record["hyper"].get("dp_epsilon") is not None:
        raise InvalidModel("A private run is not pruned: fine-tuning would spend a second budget on the same pictures.")
    network = recipe.network(hyper, data)
    network.load_state_dict(submodule(source.weights(), "best.module"))
    pruned = shrunk(network, _example(recipe, hyper, data), share)
    softer = {"epochs": max(1, hyper.epochs // 3), "lr": hyper.lr / 3}
    narrower = recipe.hyper(**{**recipe.narrower(hyper, pruned).model_dump(mode="json"), **softer, **values})
    words = ("imago-train prune", recipe.name, "--run RUN --data DIR", f"--share {share}", *options(values))
    target.begin(recipe.name, narrower.model_dump(mode="json"), " ".join(words), resume=False)
    target.update(pruned_from=record["command"])
    engine.seed(narrower.seed)
    plan = recipe.plan(narrower, data, target)
    module: Any = plan.module
    for part in (module.network, module.average.module, module.best.module):
        _load(part, pruned.state_dict(), recipe.name)
    target.learns(recipe.describe(narrower, data).labels)
    engine.fit(plan, narrower, target)


def shrunk(network: nn.Module, example: Tensor, share: float) -> Any:
    """The network with a share of the channels of every layer but its head taken out, in place."""
    head = network.get_submodule("head")
    torch_pruning.pruner.MagnitudePruner(
        network.eval(),
        example,
        importance=torch_pruning.importance.MagnitudeImportance(p=2),
        pruning_ratio=share,
        ignored_layers=[head],
    ).step()
    return network


def _example(recipe: Recipe[Any], hyper: Any, data: Path) -> Tensor:
    image = torch.from_numpy(recipe.examples(hyper, data)["image"][:2])
    return image.permute(0, 3, 1, 2).float() / 255


def _load(network: nn.Module, weights: dict[str, Tensor], name: str) -> None:
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise InvalidModel(f"The network of {name} has no width for this share: choose another.") from error
