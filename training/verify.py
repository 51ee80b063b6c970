"""Verify: compare what a version scores now with what its manifest says."""

from pathlib import Path

from app.errors import InvalidModel
from training.recipes import RECIPES
from training.version import open_version

TOLERANCE = 0.001


class ScoreDiffers(Exception):
    """A version does not score what its manifest says."""


def verify(folder: Path, data: Path) -> dict[str, float]:
    """Score a version on held-out data.

    Raises:
        ScoreDiffers: it does not score what its manifest says.
        InvalidModel: the folder breaks the contract, or no recipe made it: an adopted version has no score.
        BrokenData: the data cannot be read.
    """
    version = open_version(folder)
    recipe = RECIPES.get(str(version.manifest.training.get("recipe")))
    if recipe is None:
        name = f"{version.manifest.name}/{version.manifest.version}"
        raise InvalidModel(f"{name} was made by no recipe, so no data can tell what it should score.")
    found = recipe.score(version, data)
    for name, recorded in version.manifest.metrics.items():
        value = found.get(name)
        if value is None:
            raise ScoreDiffers(f"{name} cannot be measured on these data, and the manifest says {recorded:.4f}")
        if abs(value - recorded) > recipe.tolerances.get(name, TOLERANCE):
            raise ScoreDiffers(f"{name} is {value:.4f}, and the manifest says {recorded:.4f}")
    return found
