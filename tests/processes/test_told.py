"""What the engine tells of a version arrives as it was, through JSON."""

import asyncio
import json
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import orjson
import pytest

from app.imaging.codec import Decoder
from app.processes.told import heard, opened, tell
from app.repository.registry import Registry
from app.servable import Resources, open_servable
from app.telemetry.metrics import Metrics
from tests.make_models import make_classifier, make_generator


def with_registry(root: Path, check: Callable[[Registry], None]) -> None:
    async def scenario() -> None:
        with ThreadPoolExecutor(1) as pool:
            resources = Resources(Decoder(), pool, Metrics())
            registry = Registry(root, partial(open_servable, resources=resources), {}, lambda count: None)
            await registry.load_all()
            check(registry)
            await registry.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("serving", ["", "concurrency = 2\nmax_batch_size = 4\n"])
def test_how_a_version_runs_arrives_as_it_is(tmp_path: Path, serving: str) -> None:
    make_generator(tmp_path)
    (tmp_path / "tiny-generator" / "serving.toml").write_text(serving)

    def check(registry: Registry) -> None:
        (entry,) = registry.entries()
        assert entry.servable is not None
        told = orjson.loads(orjson.dumps(tell(entry, place=7)))
        assert heard(told) == entry.servable.running
        assert heard(told).inline == (not serving)
        assert heard(told).inputs[0].dtype == np.float32
        assert heard(told).inputs[0].shape[0] is None
        assert [told[word] for word in ("name", "version", "state", "reason", "place")] == [
            "tiny-generator", 1, "ready", "", 7,
        ]  # fmt: skip

    with_registry(tmp_path, check)


@pytest.mark.parametrize(
    "figures", [{"metrics": {"map50": math.nan}}, {"training": {"loss": math.inf, "seed": 10**30}}]
)
def test_a_manifest_arrives_as_it_is_whatever_its_numbers(tmp_path: Path, figures: dict[str, object]) -> None:
    path = make_classifier(tmp_path) / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **figures}))

    def check(registry: Registry) -> None:
        (entry,) = registry.entries()
        told = orjson.loads(orjson.dumps(tell(entry, place=0)))
        assert opened(told, tmp_path).key == entry.key == told["key"]
        assert repr(opened(told, tmp_path).manifest) == repr(entry.manifest)

    with_registry(tmp_path, check)


def test_a_version_that_cannot_answer_arrives_with_its_reason(tmp_path: Path) -> None:
    (make_classifier(tmp_path) / "model.onnx").write_bytes(b"no graph")

    def check(registry: Registry) -> None:
        (entry,) = registry.entries()
        told = orjson.loads(orjson.dumps(tell(entry, place=0)))
        assert told["state"] == "failed"
        assert "is not the file that was exported" in told["reason"]
        assert told["running"] is None

    with_registry(tmp_path, check)
