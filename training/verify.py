"""Verify: compare what a version scores now with what its manifest says."""

from pathlib import Path

from training.recipes import RECIPES
from training.version import open_version

TOLERANCE = 0.001


class ScoreDiffers(Exception):
    """A version does not score what its manifest says."""


def verify(folder: Path, data: Path) -> dict[str, float]:
    """Score a version on held-out data. Raises ScoreDiffers, app.errors.InvalidModel or BrokenData."""
    version = open_version(folder)
    recipe = RECIPES[str(version.manifest.training["recipe"])]
    found = recipe.score(version, data)
    for name, value in found.items():
        recorded = version.manifest.metrics.get(name)
        if recorded is None or abs(value - recorded) > TOLERANCE:
            raise ScoreDiffers(f"{name} is {value:.4f}, and the manifest says {recorded}")
    return found
