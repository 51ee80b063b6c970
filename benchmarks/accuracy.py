"""Accuracy through HTTP: the test pictures, as the files they are, against the figures of the model cards.

    python -m benchmarks.accuracy --data DATA [--url URL] [--clients 32] [--limit N]

DATA holds `cifar10/` and `camvid/` in any layout that training reads. Without `--url` a server is started on the
shipped models. Prints one row a model, the batches that the clients formed, and how far answers given in a crowd are
from those given one at a time; exits with 1 where a figure is further from its card than the tolerance.
"""

import argparse
import asyncio
import base64
import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from app.imaging.codec import Decoder
from benchmarks.client import post_all
from benchmarks.server import running_server
from training.data import camvid, cifar
from training.metrics import confusion, intersection_over_union

console = Console(width=140, highlight=False)


@dataclass(frozen=True)
class Row:
    """One figure through HTTP beside that of the model card."""

    model: str
    metric: str
    pictures: int
    measured: float
    card: float
    tolerance: float
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether the figure is as near to the card's as it must be."""
        return abs(self.measured - self.card) <= self.tolerance


def classify(url: str, data: Path, clients: int, limit: int | None) -> Row:
    """Top-1 accuracy of `/classify` on the CIFAR-10 test files."""
    hits = 0

    def use(result: dict[str, Any], label: int) -> None:
        nonlocal hits
        hits += result["labels"][0]["index"] == label

    card = _card(url, "classify")
    begun = time.perf_counter()
    pictures = itertools.islice(cifar.pictures(data, "test"), limit)
    count = asyncio.run(post_all(f"{url}/classify?top_k=1", clients, pictures, use))
    seconds = time.perf_counter() - begun
    return Row(card["name"], "test_accuracy", count, hits / count, _metric(card, "test_accuracy"), 0.002, seconds)


def segment(url: str, data: Path, clients: int, limit: int | None) -> Row:
    """Mean intersection over union of `/segment` on the CamVid test files, void ignored."""
    card = _card(url, "segment")
    classes = len(card["labels"])
    total = torch.zeros(classes, classes, dtype=torch.int64)

    def use(result: dict[str, Any], label: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        mask = Decoder(("png",)).open(base64.b64decode(result["mask"]["data"])).decode()[..., 0]
        total.add_(confusion(torch.from_numpy(mask.copy()), torch.from_numpy(label.copy()), classes))

    begun = time.perf_counter()
    pictures = itertools.islice(camvid.pictures(data, "test"), limit)
    count = asyncio.run(post_all(f"{url}/segment", min(clients, 4), pictures, use))
    seconds = time.perf_counter() - begun
    score = float(intersection_over_union(total).nanmean())
    return Row(card["name"], "test_miou", count, score, _metric(card, "test_miou"), 0.005, seconds)


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
    parser.add_argument("--limit", type=int, help="only the first N pictures of each test set")
    chosen = parser.parse_args()
    with _server(chosen.url, chosen.models) as url:
        rows = [
            measure(url, chosen.data / name, chosen.clients, chosen.limit)
            for measure, name in ((classify, "cifar10"), (segment, "camvid"))
        ]
        difference = crowd_difference(url, chosen.data / "cifar10", chosen.clients, sample=500)
        _print(rows, difference, batch_sizes(url), chosen.clients)
    return 0 if all(row.holds for row in rows) and difference <= 1e-4 else 1


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
    asyncio.run(post_all(f"{url}/classify?top_k=10", clients, items, use))
    return found


def _card(url: str, task: str) -> dict[str, Any]:
    tasks = {entry["task"]: entry for entry in httpx.get(f"{url}/tasks").json()["tasks"]}
    card: dict[str, Any] = httpx.get(f"{url}/models/{tasks[task]['default_model']}").json()
    return card


def _metric(card: dict[str, Any], name: str) -> float:
    return float(card["manifest"]["metrics"][name])


def _print(rows: list[Row], difference: float, batches: dict[str, float], clients: int) -> None:
    table = Table("model", "metric", "pictures", "through HTTP", "card", "difference", "allowed", "seconds", box=None)
    for row in rows:
        off = row.measured - row.card
        figures = (f"{row.measured:.4f}", f"{row.card:.4f}", f"{off:+.4f}", f"{row.tolerance}", f"{row.seconds:.0f}")
        table.add_row(row.model, row.metric, str(row.pictures), *figures, style="" if row.holds else "red")
    console.print(table)
    shown = ", ".join(f"{model} {mean:.1f}" for model, mean in sorted(batches.items()))
    console.print(f"mean rows in a batch with {clients} clients: {shown}")
    console.print(f"largest difference of a probability, {clients} clients against one: {difference:.1e}")


if __name__ == "__main__":
    raise SystemExit(main())
