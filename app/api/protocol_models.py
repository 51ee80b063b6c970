"""What the Open Inference Protocol v2 tells of the server and its models: metadata, configuration, statistics, index.

Plain dictionaries in the words of the protocol (and of Triton's extensions to it), for HTTP and gRPC alike.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from app import __version__
from app.api.protocol import DATATYPES
from app.api.protocol_requests import labels_by_output
from app.manifest import LABELS
from app.repository.registry import Entry, Registry
from app.servable import Servable
from app.serving import ServingConfig
from app.telemetry.statistics import Spent, Statistics, Totals
from app.tensors import TensorSpec

EXTENSIONS: Final = (
    "classification", "binary_tensor_data", "model_configuration", "model_repository", "statistics",
)  # fmt: skip
PLATFORM: Final = "onnxruntime_onnx"
STATES: Final = {
    "loading": "LOADING",
    "ready": "READY",
    "failed": "UNAVAILABLE",
    "unloading": "UNLOADING",
    "unloaded": "UNAVAILABLE",
}

_INPUT: Final = {"format": "FORMAT_NONE", "optional": False, "is_shape_tensor": False}

Json = dict[str, Any]


class Models:
    """What is told of models, by name and version."""

    def __init__(self, registry: Registry, statistics: Statistics, timeout_seconds: float) -> None:
        self._registry = registry
        self._statistics = statistics
        self._timeout_seconds = timeout_seconds

    def metadata(self, name: str, version: int | str | None) -> Json:
        """Its tensors."""
        return model_metadata(self._registry.get(None, name, version), ready_versions(self._registry, name))

    def ready(self, name: str, version: int | str | None) -> Json:
        """That it answers; raises where it does not."""
        return {"name": self._registry.get(None, name, version).manifest.name, "ready": True}

    def config(self, name: str, version: int | str | None) -> Json:
        """How it runs."""
        servable = self._registry.get(None, name, version)
        return model_config(servable, self._registry.serving_config(name), self._timeout_seconds)

    def stats(self, name: str, version: int | str | None) -> Json:
        """What it did: one version, or all that answer."""
        found = self._registry.get(None, name, version).manifest.version
        versions = ready_versions(self._registry, name) if version is None else [found]
        return self._stats((name, one) for one in versions)

    def all_stats(self, sees: Callable[[str], bool]) -> Json:
        """What all models did that whoever asks sees."""
        entries = [entry for entry in self._registry.entries() if entry.servable is not None and sees(entry.name)]
        return self._stats((entry.name, entry.version) for entry in entries)

    def _stats(self, versions: Iterable[tuple[str, int]]) -> Json:
        total = self._statistics.total
        return {"model_stats": [model_statistics(name, version, total(name, version)) for name, version in versions]}


def server_metadata() -> Json:
    """`GET /v2`."""
    return {"name": "imago", "version": __version__, "extensions": list(EXTENSIONS)}


def model_metadata(servable: Servable, versions: Sequence[int]) -> Json:
    """`GET /v2/models/{name}`; where there are rows, shapes begin with them, and they vary."""
    whole = servable.task.whole
    return {
        "name": servable.manifest.name,
        "versions": [str(version) for version in versions],
        "platform": PLATFORM,
        "inputs": [_tensor(spec, whole) for spec in servable.graph.inputs],
        "outputs": [_tensor(spec, whole) for spec in servable.graph.outputs],
    }


def model_config(servable: Servable, serving: ServingConfig, timeout_seconds: float) -> Json:
    """`GET /v2/models/{name}/config`: a ModelConfig of Triton's as JSON; dims leave the rows out, where there are some:
    `max_batch_size` 0 says that there are none.

    `max_queue_size` is 0, as the queue is bounded by time.
    """
    running = servable.running
    name = servable.manifest.name
    whole = servable.task.whole
    cuda, labelled = running.device == "cuda", labels_by_output(servable)
    return {
        "name": name,
        "platform": PLATFORM,
        "backend": "onnxruntime",
        "version_policy": _version_policy(serving),
        "max_batch_size": 0 if whole else running.max_batch_size,
        "input": [_configured(spec, whole) | _INPUT for spec in servable.graph.inputs],
        "output": [
            _configured(spec, whole) | {"label_filename": LABELS if spec.name in labelled else ""}
            for spec in servable.graph.outputs
        ],
        "instance_group": [
            {
                "name": f"{name}_0",
                "kind": "KIND_GPU" if cuda else "KIND_CPU",
                "count": running.plan.concurrency,
                "gpus": [0] if cuda else [],
            }
        ],
        "dynamic_batching": {
            "preferred_batch_size": [],
            "max_queue_delay_microseconds": round(serving.max_queue_delay_ms * 1000),
            "preserve_ordering": False,
            "priority_levels": 0,
            "default_priority_level": 0,
            "default_queue_policy": {
                "timeout_action": "REJECT",
                "default_timeout_microseconds": round(timeout_seconds * 1e6),
                "allow_timeout_override": True,
                "max_queue_size": 0,
            },
        },
        "model_warmup": [],
        "response_cache": {"enable": False},
        "parameters": {},
    }


def model_statistics(model: str, version: int, totals: Totals) -> Json:
    """An entry of `model_stats`. Whoever was answered ran, so that all stages have the same count."""
    stages = {
        "success": _duration(totals.success),
        "fail": _duration(totals.fail),
        "queue": _duration(totals.queue),
        "compute_input": _duration(totals.decode),
        "compute_infer": _duration(totals.inference),
        "compute_output": _duration(totals.encode),
        "cache_hit": _duration(Spent(0, 0.0)),
        "cache_miss": _duration(Spent(0, 0.0)),
    }
    return {
        "name": model,
        "version": str(version),
        "last_inference": round(totals.last * 1000),
        "inference_count": totals.rows,
        "execution_count": totals.runs,
        "inference_stats": stages,
        "response_stats": {},
        "batch_stats": [_batch(rows, spent) for rows, spent in totals.batches.items()],
        "memory_usage": [],
    }


def repository_index(registry: Registry, ready: bool) -> list[Json]:
    """`POST /v2/repository/index`: every version that was tried, or only those that answer."""
    return [_indexed(entry) for entry in registry.entries() if entry.state == "ready" or not ready]


def ready_versions(registry: Registry, name: str) -> list[int]:
    """The versions of a model that answer, in rising order."""
    return sorted(entry.version for entry in registry.describe(name) if entry.state == "ready")


def _tensor(spec: TensorSpec, whole: bool) -> Json:
    rows = [] if whole else [-1]
    return {"name": spec.name, "datatype": DATATYPES[spec.dtype], "shape": [*rows, *_dims(spec, whole)]}


def _configured(spec: TensorSpec, whole: bool) -> Json:
    """A scalar for each row is one element that is reshaped to none: configurations know no empty dims."""
    dims = _dims(spec, whole)
    shape: Json = {"dims": dims} if dims else {"dims": [1], "reshape": {"shape": []}}
    return {"name": spec.name, "data_type": f"TYPE_{DATATYPES[spec.dtype]}", **shape}


def _dims(spec: TensorSpec, whole: bool) -> list[int]:
    return [-1 if size is None else size for size in (spec.shape if whole else spec.shape[1:])]


def _version_policy(serving: ServingConfig) -> Json:
    if serving.versions == "latest":
        return {"latest": {"num_versions": 1}}
    return {"all": {}} if serving.versions == "all" else {"specific": {"versions": sorted(serving.versions)}}


def _duration(spent: Spent) -> Mapping[str, int]:
    return {"count": spent.times, "ns": round(spent.seconds * 1e9)}


def _batch(rows: int, spent: Spent) -> Json:
    """A batch is one run: making tensors and answers is done for each request alone."""
    nothing = _duration(Spent(spent.times, 0.0))
    return {
        "batch_size": rows, "compute_input": nothing, "compute_infer": _duration(spent), "compute_output": nothing,
    }  # fmt: skip


def _indexed(entry: Entry) -> Json:
    found: Json = {"name": entry.name}
    if entry.version:
        found["version"] = str(entry.version)
    reason = "unloaded" if entry.state == "unloaded" else entry.reason
    return found | {"state": STATES[entry.state]} | ({"reason": reason} if reason else {})
