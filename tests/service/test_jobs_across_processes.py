"""Jobs at a server of several processes: each answers about all, one runs them, and another goes on if that dies."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.server import Server, running_server
from tests.batch.pictures import plain
from tests.jobs.boxes import ZIP, best, box, reds
from tests.make_models import make_classifier
from tests.service.processes import Client, Processes, until

GATHERING = "concurrency = 1\nmax_batch_size = 4\nmax_queue_delay_ms = 2000\n"
"""In the engine: of ten pictures eight are answered at once, two after two seconds."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    make_classifier(root, name="quick")
    make_classifier(root, name="gathering")
    (root / "gathering" / "serving.toml").write_text(GATHERING)
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("jobs")


def flags(folder: Path) -> tuple[str, ...]:
    return "--workers", "2", "--jobs-dir", str(folder), "--log-level", "error"


@pytest.fixture(scope="module")
def server(models: Path, folder: Path) -> Iterator[Server]:
    with running_server(models, *flags(folder)) as running:
        Processes(running).wait_until_ready(workers=2)
        yield running


def leave(url: str, pictures: bytes, model: str) -> dict[str, Any]:
    answer = httpx.post(f"{url}/jobs", params={"task": "classify", "model": model}, content=pictures, headers=ZIP)
    assert answer.status_code == 202, answer.text
    left: dict[str, Any] = answer.json()
    return left


def status(url: str, left: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{url}/jobs/{left['id']}").json()
    return found


def files(url: str, left: dict[str, Any]) -> list[str]:
    """The names in the results of a job, as soon as it is done."""
    until(lambda: bool(status(url, left)["state"] == "done"))
    return [json.loads(line)["file"] for line in httpx.get(f"{url}/jobs/{left['id']}/results").text.splitlines()]


def runs_jobs(pid: int, folder: Path) -> bool:
    """Whether a process has a journal of a job open."""
    try:
        handles = [str(handle.readlink()) for handle in Path(f"/proc/{pid}/fd").iterdir()]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return any(handle.startswith(str(folder)) and handle.endswith("journal.jsonl") for handle in handles)


NAMES = [f"{number:03}.png" for number in range(10)]


def test_every_worker_takes_jobs_in_and_answers_about_all(server: Server) -> None:
    processes = Processes(server)
    clients: list[Client] = processes.one_client_each()
    left = [json.loads(client.post("/jobs?task=classify&model=quick", reds(3), ZIP).body) for client in clients]
    for client in clients:
        for job in left:
            until(lambda job=job, client=client: client.get(f"/jobs/{job['id']}").json["state"] == "done")  # type: ignore[misc]
            lines = client.get(f"/jobs/{job['id']}/results").body.splitlines()
            assert [best(json.loads(line)) for line in lines] == ["red", "red", "red"]
        assert {job["id"] for job in client.get("/jobs").json["jobs"]} >= {job["id"] for job in left}
    processes.close_clients()


def test_a_job_whose_process_is_killed_goes_on_in_another(server: Server, folder: Path) -> None:
    processes = Processes(server)
    left = leave(server.url, reds(10), "gathering")
    until(lambda: bool(status(server.url, left)["answered"] == 8))
    (owner,) = [pid for pid in processes.workers() if runs_jobs(pid, folder)]
    os.kill(owner, signal.SIGKILL)
    assert files(server.url, left) == NAMES
    processes.wait_until_ready(workers=2)


def test_a_job_waits_for_an_engine_that_is_started_again(server: Server) -> None:
    processes = Processes(server)
    left = leave(server.url, reds(10), "gathering")
    until(lambda: bool(status(server.url, left)["answered"] == 8))
    os.kill(processes.engine(), signal.SIGKILL)
    assert files(server.url, left) == NAMES
    assert status(server.url, left)["failed"] == 0
    processes.wait_until_ready(workers=2)


def test_a_large_job_leaves_callers_their_answers(server: Server) -> None:
    left = leave(server.url, box({f"{number}.png": plain("green", 150) for number in range(300)}), "quick")
    with httpx.Client(base_url=server.url) as caller:
        until(lambda: bool(status(server.url, left)["state"] != "waiting"))
        for _ in range(50):
            assert caller.post("/classify?model=quick", content=plain("blue")).status_code == 200
    assert len(files(server.url, left)) == 300


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_server_that_ends_goes_on_with_its_jobs_when_it_is_started_again(
    models: Path, tmp_path: Path, how: signal.Signals
) -> None:
    with running_server(models, *flags(tmp_path)) as first:
        processes = [*Processes(first).children(), first.process.pid]
        left = leave(first.url, reds(10), "gathering")
        until(lambda: bool(status(first.url, left)["answered"] == 8))
        for pid in reversed(processes) if how is signal.SIGKILL else [first.process.pid]:
            os.kill(pid, how)
        first.process.wait(20)
    with running_server(models, *flags(tmp_path)) as second:
        assert files(second.url, left) == NAMES


def test_a_folder_that_cannot_be_used_ends_the_start(models: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-m", "app", "serve", "--models", str(models), "--port", "0", *flags(tmp_path / "file")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "jobs_dir" in done.stderr
