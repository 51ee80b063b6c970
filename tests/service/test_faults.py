"""What goes wrong below a running server, and who notices."""

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from app.imaging.codec import encode_png
from benchmarks.server import Server, running_server
from tests.make_models import make_classifier, make_fragile
from tests.service.processes import Answer, ask, until

IN_ENGINE = "concurrency = 1\n"
SIXTEEN = "max_queue_delay_ms = 10000\nmax_batch_size = 16\n"
"""Runs when it has sixteen rows."""


def picture(red: int, green: int = 0) -> bytes:
    return encode_png(np.full((8, 8, 3), (red, green, 50), np.uint8))


POISON, NO_NUMBER = picture(255), picture(0, 255)


def several(pictures: list[bytes]) -> bytes:
    return json.dumps({"images": [base64.b64encode(one).decode() for one in pictures]}).encode()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for name, serving in (("sixteen", SIXTEEN), ("alone", ""), ("far", IN_ENGINE + SIXTEEN)):
        make_fragile(root, name)
        (root / name / "serving.toml").write_text(serving)
    return root


@pytest.fixture(scope="module", params=["1", "2"])
def server(request: pytest.FixtureRequest, root: Path) -> Iterator[Server]:
    with running_server(root, "--workers", request.param, "--log-level", "error") as running:
        until(lambda: ask(running.url, "/readyz").json["loading"] == [])
        yield running


@pytest.mark.parametrize("model", ["sixteen", "far"])
@pytest.mark.parametrize("place", [0, 9])
def test_a_poisoned_picture_in_a_batch_of_sixteen_leaves_fifteen_right_answers(
    server: Server, model: str, place: int
) -> None:
    def asked(first: bytes) -> list[dict[str, object]]:
        pictures = [picture(8 * value) for value in range(16)]
        pictures[place] = first
        headers = {"Content-Type": "application/json"}
        answer = ask(server.url, f"/classify?model={model}", several(pictures), headers)
        assert answer.status == 200
        results: list[dict[str, object]] = answer.json["results"]
        return results

    right, found = asked(picture(8 * place)), asked(POISON)
    error = found.pop(place)["error"]
    assert isinstance(error, dict)
    assert (error["status"], error["code"]) == (500, "inference-failed")
    del right[place]
    assert [_labels(one) for one in found] == [_labels(one) for one in right]


def _labels(result: dict[str, object]) -> object:
    labels = result["labels"]
    assert isinstance(labels, list)
    return [(entry["label"], pytest.approx(entry["probability"], abs=1e-5)) for entry in labels]


def test_an_answer_that_is_no_number_can_be_read_all_the_same(server: Server) -> None:
    answer = ask(server.url, "/classify?model=alone", NO_NUMBER)
    assert answer.status == 200
    assert [entry["probability"] for entry in answer.json["results"][0]["labels"]] == [None, None, None]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_files_that_are_removed_cut_short_or_replaced_are_not_missed_by_those_who_serve(
    tmp_path: Path, workers: str
) -> None:
    names = {"removed": "", "cut": "", "replaced": "", "far": IN_ENGINE}
    for name, serving in names.items():
        make_classifier(tmp_path, name=name)
        (tmp_path / name / "serving.toml").write_text(serving)

    def answers(url: str) -> dict[str, Answer]:
        return {name: ask(url, f"/classify?model={name}", picture(200)) for name in names}

    with running_server(tmp_path, "--workers", workers, "--log-level", "error") as server:
        until(lambda: ask(server.url, "/readyz").json["loading"] == [])
        before = answers(server.url)
        graph = (tmp_path / "cut" / "1" / "model.onnx").read_bytes()
        os.truncate(tmp_path / "cut" / "1" / "model.onnx", 100)
        os.truncate(tmp_path / "far" / "1" / "model.onnx", 0)
        (tmp_path / "replaced" / "1" / "model.onnx").write_bytes(graph[::-1])
        shutil.rmtree(tmp_path / "removed")
        after = answers(server.url)
        assert {answer.status for answer in before.values()} == {200}
        assert {name: answer.body for name, answer in after.items()} == {
            name: answer.body for name, answer in before.items()
        }
        assert ask(server.url, "/models/removed").json["card"] is None
        assert ask(server.url, "/readyz").status == 200


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_server_whose_disks_are_full_and_whose_home_is_nowhere_serves(root: Path, workers: str) -> None:
    """`/dev/full` takes the logs; home, cache and temporary folder cannot be written."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "app", "serve", "--models", str(root), "--port", str(port), "--workers", workers]
    nowhere = {"HOME": "/proc/nowhere", "TMPDIR": "/proc/nowhere", "IMAGO_CACHE": "/proc/nowhere/cache"}
    noise = encode_png(np.random.default_rng(0).integers(0, 256, (700, 700, 3), dtype=np.uint8))
    with (
        Path("/dev/full").open("w") as full,
        subprocess.Popen(command, stdout=full, stderr=full, env={**os.environ, **nowhere}) as process,
    ):
        try:
            until(lambda: process.poll() is not None or _answers(url))
            answer = ask(url, "/classify?model=alone", noise)
            assert answer.status == 200
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()


def _answers(url: str) -> bool:
    try:
        return ask(url, "/readyz").status == 200
    except OSError:
        return False
