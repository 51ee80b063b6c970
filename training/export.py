"""Export: from a finished run to a version folder, complete or invisible.

Everything is written under a temporary name, the manifest last, and renamed into place; a version that is there is
never touched.
"""

import datetime
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from app.manifest import CARD, GRAPH, LABELS, Manifest, digest_files, explain, write_manifest
from app.runtime.ort import OrtSession
from training import onnx_file
from training.card import write_card
from training.recipe import Card, Recipe
from training.run import Run
from training.version import BATCH, assemble

AGREEMENT = 0.995
"""Least share of whole-number outputs, and of top classes, in which torch and ONNX Runtime must agree."""


class ExportRefused(Exception):
    """A version cannot be made as asked; the sentence says why."""


def export(
    recipe: Recipe[Any],
    run: Run,
    data: Path,
    models: Path,
    number: int | None = None,
    note: str = "",
    name: str | None = None,
) -> Path:
    """Make the next (or the given) version of a model, by default of the recipe's name; return its folder. The card
    repeats `note`.

    Raises:
        ExportRefused: the version is there already, training diverged, or torch and ONNX Runtime disagree.
        RunRefused, BrokenData: the run or the data cannot be used, or the data have other labels than the run.
    """
    record = run.read()
    if record["recipe"] not in (recipe.name, recipe.run_of):
        raise ExportRefused(f"{run.folder} is a run of {record['recipe']}, not of {recipe.name}")
    home = models / (name or recipe.name)
    version = number or next_version(home)
    hyper = recipe.hyper(**record["hyper"])
    card = recipe.describe(hyper, data)
    if record["recipe"] == recipe.name:
        run.check_labels(card.labels)
    graph, examples = recipe.graph(hyper, run.weights(), data), recipe.examples(hyper, data)
    _check_numbers(graph, run)
    content = onnx_file.write(graph, [torch.from_numpy(examples[name][:2]) for name in graph.inputs])
    agreed = check_parity(onnx_file.torch_outputs(graph, examples), run_batches(content, examples))
    shown = record | {"hyper": hyper.shown(), "note": note}
    manifest = _manifest(recipe.name, card, home.name, version, shown, agreed)
    with draft(home, version) as folder:
        (folder / GRAPH).write_bytes(content)
        _fill(recipe, hyper, card, manifest, folder, data)
    return home / str(version)


def _check_numbers(graph: torch.nn.Module, run: Run) -> None:
    """Raise ExportRefused where training left the numbers that a network can have."""
    numbers = (value for value in graph.state_dict().values() if value.is_floating_point())
    if not all(bool(value.isfinite().all()) for value in numbers):
        raise ExportRefused(f"{run.folder} diverged: its weights are no numbers. Train again with a smaller lr")


def _fill(recipe: Recipe[Any], hyper: Any, card: Card, manifest: Manifest, folder: Path, data: Path) -> None:
    """Calibration, score, extras, and what every version has."""
    content = (folder / GRAPH).read_bytes()
    sets = recipe.calibrate(hyper, assemble(manifest, card.labels, content, folder), data)
    manifest = manifest.model_copy(update={"conformal": sets})
    opened = assemble(manifest, card.labels, content, folder)
    extras = recipe.extras(opened, data)
    scored = manifest.model_copy(update={"metrics": recipe.score(opened, data)})
    for name, file in extras.items():
        (folder / name).write_bytes(file)
    complete(folder, scored, card.labels, write_card(card, scored, tuple(extras)))


def _manifest(
    recipe: str, card: Card, name: str, version: int, record: dict[str, Any], parity: dict[str, float]
) -> Manifest:
    """Everything but score and digests. Raises ExportRefused for a name that no model may have."""
    training = {
        "recipe": recipe,
        "command": record["command"],
        "export": f"imago-train export {recipe} --run runs/{record['recipe']} --data DIR --models models"
        + ("" if name == recipe else f" --name {name}"),
        "verify": f"imago-train verify models/{name}/{version} --data DIR",
        "seed": record["hyper"]["seed"],
        "hyper": record["hyper"],
        "seconds": record["seconds"],
        "finished": record["finished"],
        "hardware": record["hardware"],
        "torch": record["torch"],
        "validation": record.get("metrics", {}),
        "note": record["note"],
    }
    try:
        return Manifest(
            name=name, version=version, task=card.task, description=card.description, licence=card.licence,
            image=card.image, palette=card.palette, tiling=card.tiling, data=dict(card.data), training=training,
            parity=parity, files={}, created=now(),
        )  # fmt: skip
    except ValidationError as error:
        raise ExportRefused(explain(error, Manifest)) from None


def now() -> str:
    """The time of day, UTC, as manifests say it (RFC 3339)."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def next_version(home: Path) -> int:
    """One more than the largest version there."""
    return 1 + max((int(path.name) for path in home.glob("*") if path.name.isdecimal()), default=0)


@contextmanager
def draft(home: Path, version: int) -> Iterator[Path]:
    """A temporary folder that becomes `home/version` if all goes well, and vanishes otherwise.

    Raises ExportRefused where the version is there already.
    """
    final, folder = home / str(version), home / f".{version}.tmp-{os.getpid()}"
    if final.exists():
        raise ExportRefused(f"{final} is there already, and a version never changes: leave --version out for the next")
    folder.mkdir(parents=True)
    try:
        yield folder
        folder.rename(final)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def complete(folder: Path, manifest: Manifest, labels: tuple[str, ...], card: str) -> None:
    """Add labels, card and, last, the manifest with the digests of all that is in the folder."""
    if labels:
        (folder / LABELS).write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
    (folder / CARD).write_text(card, encoding="utf-8")
    write_manifest(folder, manifest.model_copy(update={"files": digest_files(folder)}))


def run_batches(content: bytes, inputs: onnx_file.Arrays) -> onnx_file.Arrays:
    """What ONNX Runtime answers to all rows, in batches as the server makes them."""
    session = OrtSession(content)
    count = len(next(iter(inputs.values())))
    parts = [
        session.run({name: array[start : start + BATCH] for name, array in inputs.items()})
        for start in range(0, count, BATCH)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def check_parity(ours: onnx_file.Arrays, theirs: onnx_file.Arrays) -> dict[str, float]:
    """The figures of `onnx_file.parity`; ExportRefused where they are too far apart."""
    found = onnx_file.parity(ours, theirs)
    for name, value in found.items():
        if name.endswith("agreement") and value < AGREEMENT:
            raise ExportRefused(f"torch and ONNX Runtime disagree: {name} is {value:.4f}")
    return found
