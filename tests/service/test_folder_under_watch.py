"""New versions reach a real server by its folder, and one that never comes back from opening does no harm."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from app.imaging.codec import encode_png
from app.manifest import digest_files, read_manifest, write_manifest
from benchmarks.server import Server, running_server
from tests.make_models import make_classifier
from tests.runtime.endless import endless, graph_of
from tests.service.processes import ask, until

NAME = "tiny-classifier"
LOAD = f"/v2/repository/models/{NAME}/load"
PICTURE = encode_png(np.zeros((8, 8, 3), np.uint8))


@pytest.fixture(params=["1", "2"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """A server of one process, and of several, that looks at its folder all the time."""
    make_classifier(tmp_path)
    flags = ["--model-control", "--plain-models", "--poll-seconds", "0.05", "--log-level", "error"]
    with running_server(tmp_path, "--workers", request.param, *flags, "--cache", str(tmp_path / "cache")) as running:
        yield running


def version(server: Server) -> str:
    return ask(server.url, "/classify", PICTURE).headers["x-model-version"]


def test_a_version_that_appears_in_the_folder_takes_over(server: Server, tmp_path: Path) -> None:
    assert version(server) == "1"
    make_classifier(tmp_path, version=2)
    until(lambda: version(server) == "2")


def test_a_graph_that_never_comes_back_is_refused_and_the_old_version_serves_on(tmp_path: Path) -> None:
    make_classifier(tmp_path)
    flags = ("--workers", "2", "--model-control", "--trial-seconds", "4", "--log-level", "error")
    with running_server(tmp_path, *flags, "--cache", str(tmp_path / "cache")) as server:
        folder = make_classifier(tmp_path / "elsewhere", version=2)
        (folder / "model.onnx").write_bytes(endless())
        write_manifest(folder, read_manifest(folder).model_copy(update={"files": digest_files(folder)}))
        folder.rename(tmp_path / NAME / "2")
        refused = ask(server.url, LOAD, b"{}")
        assert (refused.status, refused.json["code"]) == (400, "load-refused")
        assert "took longer than 4 s" in refused.json["error"]
        assert version(server) == "1"
        newest, serving = ask(server.url, f"/models/{NAME}").json["states"]
        assert (newest["state"], serving["state"]) == ("failed", "ready")
        assert "took longer than 4 s" in newest["reason"]


def test_a_graph_without_a_manifest_that_appears_in_the_folder_is_served(server: Server, tmp_path: Path) -> None:
    graph = helper.make_node("Add", ["x", "one"], ["y"])
    folder = tmp_path / ".plain" / "1"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(graph_of([graph], one=np.array([1], np.float32)))
    folder.parent.rename(tmp_path / "plain")
    until(lambda: ask(server.url, "/v2/models/plain/ready").status == 200)
    asked = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 1], "data": [1, 2]}]}
    answer = ask(server.url, "/v2/models/plain/infer", json.dumps(asked).encode())
    assert answer.json["outputs"][0] | {"data": [2, 3]} == answer.json["outputs"][0]


def test_choices_of_who_answers_take_effect_without_a_load(server: Server, tmp_path: Path) -> None:
    make_classifier(tmp_path, version=2)
    serving = tmp_path / NAME / "serving.toml"
    serving.write_text('aliases = { stable = 1, new = 2 }\nshadow = { version = "new" }\n')
    until(lambda: ask(server.url, "/classify?version=new", PICTURE).status == 200)
    assert version(server) == "1"
    until(lambda: version(server) == "1" and compared(server) > 3)  # each question is one more to compare
    serving.write_text('aliases = { stable = 1 }\ncanary = { version = 2, percent = 50, sticky = "request" }\n')
    until(lambda: sorted(set(stuck(server))) == ["1", "2"])
    serving.write_text("aliases = { stable = ")
    until(lambda: "is not TOML" in (ask(server.url, f"/models/{NAME}").json["reason"] or ""))
    assert sorted(set(stuck(server))) == ["1", "2"]


def stuck(server: Server) -> list[str]:
    """For each of ten callers, who ask five times each, the version that answered; both where it changed."""
    return ["".join(sorted({of(server, f"visitor-{number}") for _ in range(5)})) for number in range(10)]


def of(server: Server, request: str) -> str:
    """The version that answers a request of this id."""
    return ask(server.url, "/classify", PICTURE, {"X-Request-ID": request}).headers["x-model-version"]


def compared(server: Server) -> float:
    """Calls of all processes in which both versions agreed wholly."""
    metrics = ask(server.url, "/metrics").body.decode()
    found = re.search(r"^imago_shadow_agreement_sum\{.*\} (\S+)$", metrics, re.MULTILINE)
    return float(found[1]) if found else 0.0
