"""Accuracy through HTTP: the test pictures, as the files they are, against the figures of the model cards.

    python -m benchmarks.accuracy --data DATA [--url URL] [--clients 32] [--only MODEL ...]

DATA holds the data sets, each in a folder of its own, in any layout that training reads. Without `--url` a server is
started on the shipped models. Each recipe scores its model as `imago-train verify` does, but its answers come through
HTTP. Prints one row a figure, the batches that the clients formed, and how far answers given in a crowd are from those
given one at a time; exits with 1 where a figure is further from its card than `imago-train verify` allows. Models that
generate or reconstruct are left out: their figures are of tensors that HTTP does not answer.
"""

import argparse
import asyncio
import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import httpx
import numpy as np
from rich.console import Console
from rich.table import Table

from app.client.wire import query_of
from benchmarks.client import post_all
from benchmarks.server import running_server
from training.data import BrokenData, cifar
from training.recipes import RECIPES
from training.verify import TOLERANCE
from training.version import Version, open_version

console = Console(width=140, highlight=False)

TASKS: Final = ("classify", "detect", "embed", "enhance", "segment")


@dataclass(frozen=True)
class Served(Version):
    """A version whose answers come from a service."""

    url: str
    clients: int

    def answers(self, pictures: Iterable[bytes], names: Sequence[str] = (), **options: Any) -> Iterator[dict[str, Any]]:
        """One result for each encoded picture, in order."""
        chosen = self.task.Options(**options).model_dump(mode="json", by_alias=True, exclude_unset=True)
        target = {"model": self.manifest.name, "version": self.manifest.version, **chosen}
        found: dict[int, dict[str, Any]] = {}
        items = ((data, number) for number, data in enumerate(pictures))
        url = f"{self.url}/{self.task.kind}?{urlencode(query_of(target))}"
        asyncio.run(post_all(url, self.clients, items, lambda result, number: found.update({number: result})))
        return (found[number] for number in range(len(found)))


def of_service(folder: Path, url: str, clients: int) -> Served:
    """A version in a folder, answered for by the service that has loaded it."""
    return Served(**vars(open_version(folder)), url=url, clients=clients)


def scored(version: Served, data: Path) -> dict[str, float]:
    """Its figures, from the first folder in `data` that holds what its recipe tests on.

    Raises:
        BrokenData: none does.
    """
    recipe = RECIPES[str(version.manifest.training["recipe"])]
    for folder in (*sorted(path for path in data.iterdir() if path.is_dir()), data):
        try:
            return recipe.score(version, folder)
        except BrokenData as error:
            refused = error
    raise refused


def rows(version: Served, data: Path) -> Iterator[tuple[str, ...]]:
    """A line for each figure: model, figure, through HTTP, card, difference, allowed."""
    recipe = RECIPES[str(version.manifest.training["recipe"])]
    found = scored(version, data)
    for name, card in version.manifest.metrics.items():
        off, allowed = found[name] - card, recipe.tolerances.get(name, TOLERANCE)
        style = "" if abs(off) <= allowed else "red"
        model = f"{version.manifest.name}/{version.manifest.version}"
        yield model, name, f"{found[name]:.4f}", f"{card:.4f}", f"{off:+.4f}", f"{allowed}", style


CROWDED = "cifar10-classifier"
"""The model whose answers in a crowd are compared with those given one at a time."""


def crowd_difference(url: str, data: Path, clients: int, sample: int) -> float:
    """Largest difference of a probability between answers given in a crowd and one at a time."""
    pictures = list(itertools.islice(cifar.pictures(data, "test"), 0, None, 10_000 // sample))
    crowd, alone = (_probabilities(url, pictures, count) for count in (clients, 1))
    return float(np.abs(crowd - alone).max())


def batch_sizes(url: str) -> dict[str, float]:
    """Mean rows of a run, by model, since the server started."""
    found: dict[str, dict[str, float]] = {"sum": {}, "count": {}}
    for line in httpx.get(f"{url}/metrics").text.splitlines():
        for part, values in found.items():
            if line.startswith(f"imago_batch_size_{part}{{"):
                values[line.split('model="')[1].split('"')[0]] = float(line.split()[-1])
    return {model: found["sum"][model] / count for model, count in found["count"].items() if count}


def main() -> int:
    """Print the tables; 1 where a figure is off."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--url")
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--only", nargs="*", help="models (default: all)")
    chosen = parser.parse_args()
    table = Table("model", "figure", "through HTTP", "card", "difference", "allowed", box=None)
    off, difference = False, 0.0
    with _server(chosen.url, chosen.models) as url:
        for folder in served(url, chosen.models, chosen.only):
            begun = time.perf_counter()
            for *cells, style in rows(of_service(folder, url, chosen.clients), chosen.data):
                table.add_row(*cells, style=style)
                off |= bool(style)
            console.print(f"{folder.parent.name}: {time.perf_counter() - begun:.0f} s")
            if folder.parent.name == CROWDED:
                difference = crowd_difference(url, chosen.data, chosen.clients, sample=500)
                console.print(f"a probability differs by at most {difference:.1e} from that of one client")
        console.print(table)
        shown = ", ".join(f"{model} {mean:.1f}" for model, mean in sorted(batch_sizes(url).items()))
        console.print(f"mean rows in a batch with {chosen.clients} clients: {shown}")
    return 1 if off or difference > 1e-4 else 0


def served(url: str, models: Path, only: list[str] | None) -> Iterator[Path]:
    """The folders of the versions that a service answers with, of tasks whose figures come through HTTP."""
    for model in httpx.get(f"{url}/models").json()["models"]:
        if model["task"] in TASKS and (only is None or model["name"] in only):
            yield models / model["name"] / str(model["version"])


@contextmanager
def _server(url: str | None, models: Path) -> Iterator[str]:
    if url is not None:
        yield url.rstrip("/")
        return
    with running_server(models, "--log-level", "warning") as server:
        yield server.url


def _probabilities(url: str, pictures: list[tuple[bytes, int]], clients: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    found = np.zeros((len(pictures), 10))

    def use(result: dict[str, Any], place: int) -> None:
        for score in result["labels"]:
            found[place, score["index"]] = score["probability"]

    items = ((data, place) for place, (data, _) in enumerate(pictures))
    asyncio.run(post_all(f"{url}/classify?model={CROWDED}&top_k=10", clients, items, use))
    return found


if __name__ == "__main__":
    raise SystemExit(main())
