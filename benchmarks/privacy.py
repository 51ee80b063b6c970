"""Privacy: what differential privacy costs in accuracy, on pictures of four drawn shapes.

    python -m benchmarks.privacy [--pictures 1000] [--epsilons 8] [--epochs 16]

Draws so many pictures of each shape, trains imagefolder-classifier without and with each budget of epsilon, exports the
runs, and prints the accuracy of each on the tenth that was held out for testing, and what was spent.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from app.manifest import read_manifest
from tests.training.shapes import write_folders
from training import engine
from training.export import export
from training.recipes.imagefolder_classifier import FolderHyper, ImageFolderClassifier
from training.run import Run

console = Console(width=120, highlight=False)
CHOSEN = {
    "size": 24, "width": 8, "lr": 0.004, "batch_size": 512, "warm_up": 10, "decay": 0.9, "patience": 1000,
    "smallest": 0.7, "rotation": 0, "colour": 0, "mixup": 0, "class_weights": False,
}  # fmt: skip
"""The same with and without privacy, but for the budget."""


def trained(data: Path, work: Path, epsilon: float | None, epochs: int) -> list[str]:
    """One row: the budget, accuracy, what was spent, seconds of training."""
    recipe = ImageFolderClassifier()
    hyper = FolderHyper.model_validate({**CHOSEN, "epochs": epochs, "dp_epsilon": epsilon})
    run = Run(work / f"run-{epsilon}")
    run.begin(recipe.name, hyper.model_dump(mode="json"), "benchmarks.privacy", resume=False)
    engine.seed(hyper.seed)
    started = time.monotonic()
    engine.fit(recipe.plan(hyper, data, run), hyper, run)
    seconds = time.monotonic() - started
    manifest = read_manifest(export(recipe, run, data, work / "models", name=f"epsilon-{epsilon}"))
    used = run.read()["metrics"].get("privacy/epsilon")
    return [
        "none" if epsilon is None else f"{epsilon:g}",
        f"{manifest.metrics['test_accuracy']:.1%}",
        "" if used is None else f"{used:.2f}",
        f"{seconds:.0f}",
    ]


def rows(counts: list[int], epsilons: list[float], epochs: int) -> Iterator[list[str]]:
    """Rows for every number of pictures, the first without privacy."""
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            data = write_folders(Path(folder) / "shapes", count)
            for epsilon in (None, *epsilons):
                yield [str(4 * count * 8 // 10), *trained(data, Path(folder), epsilon, epochs)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, nargs="+", default=[1000], help="drawn of each of four shapes")
    parser.add_argument("--epsilons", type=float, nargs="+", default=[8], help="budgets beside none")
    parser.add_argument("--epochs", type=int, default=16)
    options = parser.parse_args()
    table = Table("training pictures", "epsilon", "test accuracy", "spent", "seconds")
    for row in rows(options.pictures, options.epsilons, options.epochs):
        table.add_row(*row)
        console.print(*row)
    console.print(table)


if __name__ == "__main__":
    main()
