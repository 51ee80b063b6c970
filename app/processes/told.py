"""What the engine tells of a model version, and what a worker makes of it."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from app.manifest import Manifest
from app.repository.registry import Entry
from app.repository.store import Opening
from app.runtime.plan import Plan
from app.servable import Running
from app.serving import ServingConfig
from app.tensors import TensorSpec

Told = dict[str, Any]


def tell(entry: Entry, place: int) -> Told:
    """An entry as it goes into a message; `place` is its row in the table of loads."""
    running = None if entry.servable is None else entry.servable.running
    opening = entry.opening
    return {
        "name": entry.name,
        "version": entry.version,
        "state": entry.state,
        "reason": entry.reason,
        "place": place,
        "key": entry.key,
        "opening": None if opening is None or running is None else _opening(opening),
        "running": None if running is None else _running(running),
    }


def opened(told: Told, root: Path) -> Opening:
    """What the engine opened, whatever lies on disk by now."""
    manifest = Manifest.model_validate(json.loads(told["opening"]["manifest"]))
    serving = ServingConfig.model_validate(told["opening"]["serving"])
    return Opening(root / manifest.name / str(manifest.version), manifest, serving)


def heard(told: Told) -> Running:
    """How a version runs in the engine, from what was told of it."""
    running = told["running"]
    plan = running["plan"] | {
        "batch_seconds": {int(rows): seconds for rows, seconds in running["plan"]["batch_seconds"].items()}
    }
    return Running(
        running["device"],
        tuple(_spec(*spec) for spec in running["inputs"]),
        tuple(_spec(*spec) for spec in running["outputs"]),
        Plan(**plan),
        running["inline"],
    )


def _opening(opening: Opening) -> Told:
    """Manifests may hold what messages do not: NaN for a score that there is none of, and numbers of any length."""
    manifest = json.dumps(opening.manifest.model_dump(mode="json"))
    return {"manifest": manifest, "serving": opening.serving.model_dump(mode="json")}


def _running(running: Running) -> Told:
    plan = asdict(running.plan)
    return {
        "device": running.device,
        "inputs": [(spec.name, spec.dtype.str, spec.shape) for spec in running.inputs],
        "outputs": [(spec.name, spec.dtype.str, spec.shape) for spec in running.outputs],
        "plan": plan | {"batch_seconds": {str(rows): spent for rows, spent in plan["batch_seconds"].items()}},
        "inline": running.inline,
    }


def _spec(name: str, dtype: str, shape: list[int | None]) -> TensorSpec:
    return TensorSpec(name, np.dtype(dtype), tuple(shape))
