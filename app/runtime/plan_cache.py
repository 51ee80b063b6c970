"""Remembers measured plans from one start to the next, one file a plan. Without a folder, or where none can be written,
every start measures."""

import contextlib
import hashlib
import json
import logging
import platform
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from app.runtime.base import Device
from app.runtime.cuda import gpu_name
from app.runtime.library import onnx_runtime
from app.runtime.plan import Choices, Plan

_FORMAT = 4
"""Counted up when plans come to mean something else, or are chosen by other rules: older ones are measured anew."""

logger = logging.getLogger("imago.runtime")


@dataclass(frozen=True)
class _Entry:
    key: str
    plan: Plan


_ENTRY = TypeAdapter(_Entry)


def plan_key(graph_sha256: str, device: Device, cores: int, choices: Choices) -> str:
    """A name for all that a plan depends on: graph, machine, inference library, and what the operator fixed.

    Raises:
        BackendMissing: onnxruntime is not installed.
    """
    machine = [_processor(), cores, gpu_name() if device == "cuda" else "", device, onnx_runtime().__version__]
    facts = json.dumps([_FORMAT, graph_sha256, machine, asdict(choices)])
    return hashlib.sha256(facts.encode()).hexdigest()


class PlanCache:
    """A folder of plans by key; None switches it off."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def __repr__(self) -> str:
        return f"<PlanCache {self._folder or 'off'}>"

    def get(self, key: str) -> Plan | None:
        """The plan put under this key; None for a file that is missing, broken, or anything else than that."""
        if self._folder is None:
            return None
        try:
            entry = _ENTRY.validate_json((self._folder / f"{key}.json").read_bytes())
        except (OSError, ValidationError):
            return None
        return entry.plan if entry.key == key and _possible(entry.plan) else None

    def put(self, key: str, plan: Plan) -> None:
        """Write the plan, whole or not at all; a folder that cannot be written is logged and left alone."""
        if self._folder is None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            _replace(self._folder / f"{key}.json", _ENTRY.dump_json(_Entry(key, plan)))
        except OSError as error:
            logger.info("The measured plan is not remembered: %s", error)


def _replace(path: Path, data: bytes) -> None:
    """Write beside the file and rename: processes that start at once read and write whole files only."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".tmp", delete=False) as file:
        try:
            file.write(data)
            file.close()
            Path(file.name).replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                Path(file.name).unlink()
            raise


def _possible(plan: Plan) -> bool:
    counts = (plan.lone_threads, plan.threads, plan.concurrency, plan.max_batch_size, *plan.batch_seconds)
    seconds = (plan.lone_seconds, *plan.batch_seconds.values())
    return (
        all(1 <= count <= 1024 for count in counts)
        and all(0 < spent < float("inf") for spent in seconds)
        and plan.max_batch_size in plan.batch_seconds
    )


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
