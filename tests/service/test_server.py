"""A real server process, spoken to over a socket, stopped by a signal."""

import http.client
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from app.imaging.codec import encode_png
from benchmarks.server import Server, running_server
from tests.make_models import make_classifier, make_segmenter


def picture(value: int, side: int = 8) -> bytes:
    return encode_png(np.full((side, side, 3), (value, 100, 50), np.uint8))


@pytest.fixture(scope="module")
def server(model_root: Path) -> Iterator[Server]:
    with running_server(model_root, "--log-level", "warning") as running:
        yield running


def test_a_server_answers_each_task(server: Server) -> None:
    with httpx.Client(base_url=server.url) as client:
        labels = client.post("/classify", content=picture(250)).json()["results"][0]["labels"]
        assert labels[0]["index"] == 0
        mask = client.post("/segment", content=picture(250, side=20)).json()["results"][0]
        assert (mask["width"], mask["height"]) == (20, 20)
        assert mask["classes"][0]["share"] == 1
        images = client.post("/generate", json={"count": 2, "seed": 1}).json()["results"]
        assert [image["index"] for image in images] == [0, 1]


def test_thirty_two_clients_get_the_answers_that_one_gets(server: Server) -> None:
    values = list(range(256))
    with httpx.Client(base_url=server.url) as client, ThreadPoolExecutor(32) as crowd:

        def ask(value: int) -> dict[str, float]:
            labels = client.post("/classify", content=picture(value)).json()["results"][0]["labels"]
            return {entry["label"]: entry["probability"] for entry in labels}

        alone = [ask(value) for value in values]
        together = list(crowd.map(ask, values))
    assert together == [pytest.approx(one, abs=1e-4) for one in alone]


def test_an_uploaded_picture_larger_than_a_megabyte_needs_no_disk(server: Server) -> None:
    noise = encode_png(np.random.default_rng(0).integers(0, 256, (700, 700, 3), dtype=np.uint8))
    assert len(noise) > 2**20
    answer = httpx.post(f"{server.url}/classify", files={"file": ("noise.png", noise, "image/png")})
    assert answer.status_code == 200


def test_metrics_count_what_was_asked(server: Server) -> None:
    before = _requests(server)
    httpx.post(f"{server.url}/classify", content=b"no picture")
    after = _requests(server)
    assert after.get("415", 0) == before.get("415", 0) + 1


def _requests(server: Server) -> dict[str, float]:
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    counted = [line for line in lines if line.startswith('imago_requests_total{model="tiny-classifier"')]
    return {line.split('status="')[1].split('"')[0]: float(line.split()[-1]) for line in counted}


def test_requests_that_came_while_the_process_was_paused_are_answered(model_root: Path) -> None:
    with running_server(model_root, "--workers", "1", "--keep-alive-seconds", "1", "--log-level", "error") as server:
        kept = [http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=30) for _ in range(40)]
        for connection in kept:
            connection.request("GET", "/livez")
            assert connection.getresponse().read()
        time.sleep(0.2)
        for number, connection in enumerate(kept):
            connection.request("GET", "/readyz")
            time.sleep(0.002)  # so that it waits when it is paused
            if number == 5:
                server.process.send_signal(signal.SIGSTOP)
        time.sleep(1.5)  # longer than a connection may rest: by the clock all are overdue when the process goes on
        server.process.send_signal(signal.SIGCONT)
        for connection in kept:
            assert connection.getresponse().read()
            connection.close()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_requests_that_run_at_sigterm_are_answered_and_the_server_ends_with_0(tmp_path: Path, workers: str) -> None:
    """The batch is held open by the operator's delay, so that the request certainly runs when the signal comes."""
    make_classifier(tmp_path)
    (tmp_path / "tiny-classifier" / "serving.toml").write_text("max_queue_delay_ms = 700\nmax_batch_size = 4\n")
    answers: list[int] = []
    with running_server(tmp_path, "--workers", workers, "--log-level", "error") as server:
        asking = threading.Thread(
            target=lambda: answers.append(httpx.post(f"{server.url}/classify", content=picture(9)).status_code)
        )
        asking.start()
        while 'imago_queue_depth{model="tiny-classifier",task="classify"} 1.0' not in _metrics(server):
            assert asking.is_alive()
        server.process.send_signal(signal.SIGTERM)
        asking.join(20)
        assert server.process.wait(20) == 0
    assert answers == [200]


def _metrics(server: Server) -> str:
    return httpx.get(f"{server.url}/metrics").text


def _with_a_truncated_classifier(root: Path) -> Path:
    make_segmenter(root)
    graph = make_classifier(root) / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:100])
    return root


def test_a_broken_model_is_named_and_the_others_serve(tmp_path: Path) -> None:
    with running_server(_with_a_truncated_classifier(tmp_path)) as server, httpx.Client(base_url=server.url) as client:
        ready = client.get("/readyz")
        assert ready.status_code == 200
        assert "is not the file that was exported" in ready.json()["failed"]["tiny-classifier/1"]
        assert client.post("/segment", content=picture(1)).status_code == 200
        refused = client.post("/classify?model=tiny-classifier", content=picture(1))
        assert refused.status_code == 503
        assert refused.json()["code"] == "not-ready"


def test_under_strict_readiness_a_broken_model_makes_the_service_unready(tmp_path: Path) -> None:
    with running_server(_with_a_truncated_classifier(tmp_path), "--workers", "1", "--strict-readiness") as server:
        ready = httpx.get(f"{server.url}/readyz")
        assert ready.status_code == 503
        assert "Retry-After" in ready.headers
        assert httpx.get(f"{server.url}/livez").status_code == 200
