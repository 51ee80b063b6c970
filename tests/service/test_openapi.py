"""The OpenAPI document against the server: its examples, requests made up from it, and a client generated from it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.security.keys import ADMIN
from benchmarks.server import Server, running_server
from tests.api.doors import Keys
from tests.make_models import (
    make_autoencoder,
    make_classifier,
    make_denoiser,
    make_detector,
    make_embedder,
    make_generator,
    make_segmenter,
)

SCRIPT = Path(__file__).with_name("generated_client.py")
PYTHON = os.environ.get("OPENAPI_CLIENT_PYTHON", "")
CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance",
)  # fmt: skip
SECONDS = 4
"""How long requests are made up; with the same seed the same ones."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models by the names of those shipped, which the document's examples ask."""
    root = tmp_path_factory.mktemp("models")
    make_classifier(root, name="cifar10-classifier")
    make_segmenter(root, name="camvid-segmenter")
    make_generator(root, name="cifar10-generator")
    make_detector(root, name="detector")
    make_denoiser(root, name="denoiser")
    make_autoencoder(root, name="autoencoder")
    make_embedder(root, name="embedder")
    return root


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[Server]:
    with running_server(models, "--workers", "2", "--log-level", "error") as running:
        yield running


@pytest.fixture(scope="module")
def document(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{server.url}/openapi.json").json()
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def target(path: str, operation: dict[str, Any]) -> str:
    """A path with the examples of its parameters."""
    return path.format(**{p["name"]: p["example"] for p in operation.get("parameters", ()) if p["in"] == "path"})


def test_every_example_is_answered(server: Server, document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        taken = operation.get("requestBody", {})
        body = taken.get("content", {}).get("application/json", {}).get("example")
        assert body is not None or not taken.get("required") or path == "/jobs", path
        answer = httpx.request(method, server.url + target(path, operation), json=body)
        off = path.endswith(("/load", "/unload")) or path.startswith(("/jobs", "/galleries"))  # unless they are allowed
        assert answer.status_code == (403 if off else 200), (method, path, answer.text)


@pytest.mark.parametrize("who", ["anybody", "nobody", "admin"])
def test_requests_made_up_from_the_document_get_documented_answers(who: str, models: Path, tmp_path: Path) -> None:
    """Without keys; with keys and none sent; with a key that opens everything."""
    keys = Keys(tmp_path / "keys.json")
    secret = keys.add(ADMIN)
    flags = ["--jobs-dir", str(tmp_path / "jobs"), "--galleries", str(tmp_path / "galleries")]
    flags += [] if who == "anybody" else ["--keys", str(keys.path)]
    # A deadline may pass, whoever chose it; nothing else of the server's side may happen.
    (tmp_path / "schemathesis.toml").write_text(
        '[checks]\nnot_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", 504]\n'
    )
    with running_server(models, "--workers", "2", "--log-level", "error", *flags) as server:
        (tmp_path / "openapi.json").write_bytes(
            httpx.get(f"{server.url}/openapi.json", headers={"Authorization": f"Bearer {secret}"}).content
        )
        command = [
            sys.executable, "-m", "schemathesis.cli", "run", "openapi.json", "--url", server.url,
            "--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing", "--max-examples", "5",
            "--seed", "1", "--max-time", str(SECONDS), "--no-color", "--continue-on-failure",
        ]  # fmt: skip
        command += ["--header", f"Authorization: Bearer {secret}"] if who == "admin" else []
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "generated" in done.stdout


@pytest.mark.skipif(not PYTHON, reason="OPENAPI_CLIENT_PYTHON names no interpreter that has openapi-python-client")
def test_a_client_generated_from_the_document_compiles_and_is_answered(server: Server, tmp_path: Path) -> None:
    command = [PYTHON, str(SCRIPT), server.url, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.endswith("all well\n"), done.stdout + done.stderr
