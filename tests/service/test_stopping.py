"""A real server process that is told to stop: what is said, what is answered, and how it ends."""

import asyncio
import http.client
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

from app.imaging.codec import encode_png
from benchmarks.server import running_server
from benchmarks.stops import stop_under_load
from tests.make_models import make_classifier
from tests.service.processes import Client, ask, until

PICTURE = encode_png(np.full((8, 8, 3), (250, 100, 50), np.uint8))
HELD = "max_queue_delay_ms = 10000\nmax_batch_size = 4\n"
"""A request that comes alone waits for ten seconds."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    make_classifier(root)
    return root


def status(url: str, path: str) -> int:
    return ask(url, path).status


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_server_that_stops_is_not_ready_first_and_answers_for_its_delay(root: Path, workers: str) -> None:
    flags = ("--workers", workers, "--drain-delay-seconds", "1.5", "--log-level", "error")
    with running_server(root, *flags) as server:
        until(lambda: status(server.url, "/readyz") == 200)
        server.process.send_signal(signal.SIGTERM)
        until(lambda: status(server.url, "/readyz") == 503)
        assert ask(server.url, "/readyz").json["draining"] is True
        assert status(server.url, "/livez") == 200
        assert ask(server.url, "/classify", PICTURE).status == 200
        assert server.process.poll() is None
        assert server.process.wait(20) == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_interrupt_by_hand_waits_for_no_balancer(root: Path, workers: str) -> None:
    flags = ("--workers", workers, "--drain-delay-seconds", "3600", "--log-level", "error")
    with running_server(root, *flags) as server:
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(20) == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_second_signal_ends_the_server_whatever_runs(tmp_path: Path, workers: str) -> None:
    make_classifier(tmp_path)
    (tmp_path / "tiny-classifier" / "serving.toml").write_text(HELD)
    with running_server(
        tmp_path, "--workers", workers, "--drain-delay-seconds", "60", "--log-level", "error"
    ) as server:
        until(lambda: status(server.url, "/readyz") == 200)
        client = Client(server.url)
        asking = threading.Thread(target=_ask_in_vain, args=(client,))
        asking.start()
        until(lambda: b'queue_depth{model="tiny-classifier",task="classify"} 1.0' in ask(server.url, "/metrics").body)
        server.process.send_signal(signal.SIGTERM)
        until(lambda: status(server.url, "/readyz") == 503)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(5) == 1
        asking.join(10)


def _ask_in_vain(client: Client) -> None:
    with pytest.raises((OSError, http.client.HTTPException)):
        client.post("/classify", PICTURE)


def test_workers_that_are_told_twice_by_an_init_system_answer_all_the_same(tmp_path: Path) -> None:
    """systemd sends its signal to every process of a service, and the supervisor tells its workers, too."""
    make_classifier(tmp_path)
    (tmp_path / "tiny-classifier" / "serving.toml").write_text("max_queue_delay_ms = 700\nmax_batch_size = 4\n")
    answers: list[int] = []
    with running_server(tmp_path, "--workers", "2", "--log-level", "error") as server:
        until(lambda: status(server.url, "/readyz") == 200)
        asking = threading.Thread(target=lambda: answers.append(ask(server.url, "/classify", PICTURE).status))
        asking.start()
        until(lambda: b'queue_depth{model="tiny-classifier",task="classify"} 1.0' in ask(server.url, "/metrics").body)
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
        for pid in (*map(int, children), server.process.pid):
            os.kill(pid, signal.SIGTERM)
        asking.join(20)
        assert server.process.wait(20) == 0
    assert answers == [200]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_no_request_that_was_sent_is_lost_by_a_stop_under_load(root: Path, workers: str) -> None:
    for after in (0.2, 0.35):
        with running_server(root, "--workers", workers, "--log-level", "error") as server:
            stop = asyncio.run(stop_under_load(server, "/classify", PICTURE, rate=150, after=after))
        assert stop.clean, stop
        assert stop.statuses[200] > 10
