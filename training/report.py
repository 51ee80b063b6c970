"""Report: one table of all versions in a models folder, from their files and from what was measured on one machine.

MODELS/latency.json keeps the times, so that the table is the same wherever it is printed; `measure` writes it.
"""

import io
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx
from matplotlib.figure import Figure
from pydantic import TypeAdapter, ValidationError

from app.errors import InvalidModel
from app.manifest import GRAPH, Manifest, read_manifest, read_verified
from app.runtime import Choices, Ready, make_ready
from app.runtime.cores import usable_cores
from app.runtime.ort import OrtSession
from app.runtime.probe import FREE_SIDE
from training import cost
from training.recipes import RECIPES
from training.run import hardware

LATENCY = "latency.json"


@dataclass(frozen=True)
class Latency:
    """What one version took on the machine of `Latencies`."""

    row_ms: float
    """One row alone, on as many threads as answer it soonest."""
    batch: int
    """Rows of the batch that gives most rows a second, one thread a batch, all cores busy."""
    batch_ms: float
    """Milliseconds from one such batch to the next."""


@dataclass(frozen=True)
class Latencies:
    """Times of one machine, by `name/version`."""

    machine: str
    versions: dict[str, Latency]


_LATENCIES = TypeAdapter(Latencies)


def report(models: Path) -> str:
    """The table as Markdown, a line a version.

    Raises:
        InvalidModel: there is no version, or one breaks the contract, or latency.json cannot be read.
    """
    known = _latencies(models)
    header = ["model", "task", "parameters", "FLOPs", "size", "score", "others", "one row", "best batch"]
    rows = [_row(folder, manifest, known) for folder, manifest in versions(models)]
    if not rows:
        raise InvalidModel(f"{models} holds no version: a folder NAME/NUMBER with a manifest.")
    lines = [header, ["---"] * len(header), *rows]
    times = "" if known is None else f"\n\nTimes: ONNX Runtime on {known.machine}."
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + times


def plot(models: Path) -> bytes:
    """PNG of the score of every version, where that is a share, against its time for a row alone, a colour a model.

    Raises InvalidModel where nothing was measured.
    """
    known = _latencies(models)
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    points: dict[str, list[tuple[float, float, int]]] = defaultdict(list)
    for _, manifest in versions(models):
        latency = None if known is None else known.versions.get(f"{manifest.name}/{manifest.version}")
        recipe = RECIPES.get(str(manifest.training.get("recipe")))
        headline = "" if recipe is None else recipe.headline_of(manifest.metrics)
        if latency and recipe and recipe.unit == "%" and headline in manifest.metrics:
            score = 100 * manifest.metrics[headline]
            points[f"{manifest.name}, {headline}"].append((latency.row_ms, score, manifest.version))
    if known is None or not points:
        raise InvalidModel(f"{models} has no version that was both scored and timed: add --measure.")
    for name, found in points.items():
        axes.scatter([one[0] for one in found], [one[1] for one in found], label=name)
        for x, y, version in found:
            axes.annotate(str(version), (x, y), xytext=(4, 4), textcoords="offset points")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.set_xlabel(f"milliseconds for one row, {known.machine}")
    axes.set_ylabel("score, %")
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def measure(models: Path) -> None:
    """Time every version on this machine, as the server does when it loads one, and write latency.json.

    Raises InvalidModel as `report`.
    """
    cores = usable_cores()
    times: dict[str, Latency] = {}
    for folder, manifest in versions(models):
        graph = read_verified(folder, manifest, GRAPH)
        ready = _ready(graph, cores, FREE_SIDE if manifest.tiling is None else manifest.tiling.side)
        plan = ready.plan
        seconds = plan.batch_seconds[plan.max_batch_size] / plan.concurrency
        times[f"{manifest.name}/{manifest.version}"] = Latency(
            round(plan.lone_seconds * 1000, 2), plan.max_batch_size, round(seconds * 1000, 2)
        )
        for session in {id(each): each for each in (ready.lone, ready.crowd)}.values():
            session.close()
    text = json.dumps(asdict(Latencies(hardware(), times)), indent=2)
    (models / LATENCY).write_text(text + "\n", encoding="utf-8")


def _ready(graph: bytes, cores: int, side: int) -> Ready:
    return make_ready(lambda threads: OrtSession(graph, threads=threads), Choices(), cores, side=side)


def versions(models: Path) -> Iterable[tuple[Path, Manifest]]:
    """All version folders with their manifests, by name and number."""
    numbered = (path for path in models.glob("*/*/manifest.json") if path.parts[-2].isdecimal())
    found = sorted(numbered, key=lambda path: (path.parts[-3], int(path.parts[-2])))
    return [(path.parent, read_manifest(path.parent)) for path in found]


def _latencies(models: Path) -> Latencies | None:
    try:
        return _LATENCIES.validate_json((models / LATENCY).read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise InvalidModel(f"{LATENCY} cannot be read: {error.errors()[0]['msg']}.") from error


def _row(folder: Path, manifest: Manifest, known: Latencies | None) -> list[str]:
    graph = read_verified(folder, manifest, GRAPH)
    model = onnx.load_from_string(graph)
    key = f"{manifest.name}/{manifest.version}"
    latency = None if known is None else known.versions.get(key)
    return [
        f"`{key}`",
        manifest.task,
        _short(cost.parameters(model)),
        _operations(model, manifest),
        f"{len(graph) / 1e6:.1f} MB",
        *_score(manifest),
        "" if latency is None else f"{latency.row_ms:.3g} ms",
        "" if latency is None else f"{latency.batch_ms / latency.batch:.3g} ms a row ({latency.batch})",
    ]


def _operations(model: onnx.ModelProto, manifest: Manifest) -> str:
    """Nothing where shapes cannot be told, as in most quantised graphs; of a tile where pictures are cut."""
    try:
        return _short(cost.operations(model, 0 if manifest.tiling is None else manifest.tiling.side))
    except ValueError:
        return ""


def _score(manifest: Manifest) -> tuple[str, str]:
    """The headline of its recipe, and what others reach; an adopted version has neither."""
    recipe = RECIPES.get(str(manifest.training.get("recipe")))
    headline = "" if recipe is None else recipe.headline_of(manifest.metrics)
    value = manifest.metrics.get(headline)
    if recipe is None or value is None:
        return "", ""
    told = f"{100 * value:.1f} %" if recipe.unit == "%" else f"{value:.4g} {recipe.unit}".rstrip()
    return f"{headline} {told}", recipe.anchor


def _short(count: int) -> str:
    """Three digits and a unit: 1.98 M."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)
