"""The shipped models answer what they answered when they were exported.

`golden.json` holds those answers; `python -m tests.shipped.golden` writes it anew for a new version.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.manifest import CARD, GRAPH, digest_files, read_manifest
from app.tasks import TASKS
from benchmarks.server import running_server
from tests.shipped.golden import GOLDEN, MODELS, answers, scene

VERSIONS = sorted(path.parent for path in MODELS.glob("*/*/manifest.json"))


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with (
        running_server(MODELS, "--log-level", "warning", "--device", "cpu") as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        yield client


def test_a_model_of_each_task_is_shipped() -> None:
    assert {read_manifest(version).task for version in VERSIONS} == set(TASKS)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_shipped_version_is_whole_small_and_described(version: Path) -> None:
    manifest = read_manifest(version)
    assert digest_files(version) == manifest.files
    assert (version / GRAPH).stat().st_size <= 25 * 10**6
    assert manifest.metrics
    card = (version / CARD).read_text()
    assert str(manifest.data["name"]) in card
    assert all(f"{value:.4f}" in card for value in manifest.metrics.values())
    assert {"command", "seed", "seconds", "hardware"} <= manifest.training.keys()


def test_all_models_together_stay_small() -> None:
    assert sum(path.stat().st_size for path in MODELS.rglob("*") if path.is_file()) <= 80 * 10**6


def test_the_answers_are_those_of_the_export(client: httpx.Client) -> None:
    golden = json.loads(GOLDEN.read_text())
    found = answers(client)
    assert found["versions"] == golden["versions"]
    assert found["classify"] == pytest.approx(golden["classify"], abs=2e-3)
    assert found["segment"] == pytest.approx(golden["segment"], abs=5e-3)
    assert [label for label, _ in found["detect"]] == [label for label, _ in golden["detect"]]
    assert [score for _, score in found["detect"]] == pytest.approx([score for _, score in golden["detect"]], abs=0.01)
    for made in ("generate", "decode", "enhance"):
        assert found[made] == [pytest.approx(colour, abs=0.5) for colour in golden[made]]
    assert found["embed"] == pytest.approx(golden["embed"], abs=2e-3)
    assert found["reconstruct"] == pytest.approx(golden["reconstruct"], abs=0.5)


def test_the_same_seed_gives_the_same_bytes_alone_and_in_any_batch(client: httpx.Client) -> None:
    together = client.post("/generate", json={"count": 20, "seed": 11}).json()["results"]
    for index in (0, 1, 7, 19):
        alone = client.post("/generate", json={"count": 1, "seed": 11, "index": index}).json()["results"]
        assert alone == together[index : index + 1]


def test_a_class_asked_for_is_the_class_drawn(client: httpx.Client) -> None:
    results = client.post("/generate?class=ship&count=3&seed=1").json()["results"]
    assert [result["class"] for result in results] == ["ship"] * 3


def test_the_heat_map_covers_the_part_of_the_picture_that_was_seen(client: httpx.Client) -> None:
    heat = client.post("/classify?explain=true", content=scene(90, 60)).json()["results"][0]["heatmap"]
    assert heat["box"] == [15, 0, 75, 60]
