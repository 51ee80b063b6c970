"""Galleries of a real server with two workers: what one keeps the other finds, and whoever is killed loses nothing."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.imaging.pictures import noise, save
from tests.make_models import make_embedder
from tests.service.processes import Client, Processes, ask, starting_server, until

PICTURES = [save(noise(8, 8, seed)) for seed in range(12)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    make_embedder(root)
    return root


@contextmanager
def serving(models: Path, folder: Path) -> Iterator[Processes]:
    flags = ("--workers", "2", "--galleries", str(folder), "--device", "cpu", "--log-level", "error")
    with starting_server(models, *flags) as server:
        processes = Processes(server)
        processes.wait_until_ready(2)
        yield processes
        processes.close_clients()


def nearest(client: Client, picture: int) -> list[str]:
    answer = client.post("/galleries/faces/search?count=20", PICTURES[picture])
    assert answer.status == 200, answer.body
    return [match["id"] for match in answer.json["results"][0]["matches"]]


def test_workers_share_galleries_and_a_kill_loses_nothing(models: Path, tmp_path: Path) -> None:
    with serving(models, tmp_path) as processes:
        first, second = processes.one_client_each()
        for number, client in enumerate([first, second] * 3):
            assert client.put(f"/galleries/faces/id{number}", PICTURES[number]).status == 200
            for other in (first, second):
                assert nearest(other, number)[0] == f"id{number}"
        assert first.delete("/galleries/faces/id0").status == 204
        assert "id0" not in nearest(second, 0)
        assert second.put("/galleries/faces/id1", PICTURES[7]).status == 200
        assert nearest(first, 7)[0] == "id1"
        assert first.get("/metrics").body.count(b"\nimago_gallery_vectors 5.0") == 1

        os.kill(processes.owner(first), signal.SIGKILL)
        assert nearest(second, 7)[0] == "id1"
        until(lambda: len(processes.workers()) == 2)

    with serving(models, tmp_path) as processes:
        found = ask(processes.url, "/galleries/faces").json
        assert [entry["id"] for entry in found["entries"]] == [f"id{number}" for number in range(1, 6)]
        for client in processes.one_client_each():
            assert nearest(client, 3)[0] == "id3"
            assert "id0" not in nearest(client, 0)
