"""Two workers and an engine behind one port: they answer as one process does, whichever of them is killed."""

import http.client
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np
import pytest

from app.imaging.codec import encode_png
from benchmarks.server import running_server
from tests.make_models import make_classifier, make_detector, make_generator, make_segmenter
from tests.service.processes import Answer, Client, Processes, alive, ask, starting_server, until

pytestmark = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="processes are watched through /proc")

IN_ENGINE = "concurrency = 1\n"
"""Whoever chooses how many batches run at once has chosen the engine."""


def picture(value: int, side: int = 8) -> bytes:
    return encode_png(np.full((side, side, 3), (value, 100, 50), np.uint8))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`small` and the generator run in the workers, `large`, the segmenter and the detector in the engine."""
    root = tmp_path_factory.mktemp("models")
    make_classifier(root, name="small")
    make_generator(root)
    make_classifier(root, name="large")
    make_segmenter(root)
    make_detector(root)
    for name in ("large", "tiny-segmenter", "tiny-detector"):
        (root / name / "serving.toml").write_text(IN_ENGINE)
    return root


@pytest.fixture(scope="module")
def running(root: Path) -> Iterator[Processes]:
    with running_server(root, "--workers", "2", "--log-level", "error") as server:
        yield Processes(server)


@pytest.fixture
def service(running: Processes) -> Iterator[Processes]:
    """The server, whole and idle again, whatever the last test did to it."""
    running.wait_until_ready(workers=2)
    yield running
    running.close_clients()


def counters(client: Client) -> dict[str, float]:
    """Everything in `/metrics` that may only grow, by name and labels."""
    lines = client.get("/metrics").body.decode().splitlines()
    pairs = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
    return {name: float(value) for name, value in pairs if name.split("{")[0].endswith(("_total", "_count", "_bucket"))}


def requests(found: dict[str, float], model: str) -> dict[str, float]:
    """How many were answered, by status."""
    return {
        name.split('status="')[1].split('"')[0]: value
        for name, value in found.items()
        if name.startswith("imago_requests_total{") and f'model="{model}"' in name
    }


def test_one_process_and_several_give_the_same_answers(service: Processes, root: Path) -> None:
    asked = [("/classify?model=small", picture(value)) for value in (3, 99, 250)]
    asked += [("/classify?model=large", picture(value, side=300)) for value in (3, 99, 250)]
    asked += [("/segment", picture(250, side=side)) for side in (8, 20, 200)]
    asked += [
        ("/detect", picture(250, side=20)),
        ("/generate?count=3&seed=5", b""),
        ("/classify?model=large", b"no picture"),
        ("/segment?model=small", b"x"),
    ]

    def answers(url: str) -> list[Answer]:
        return [ask(url, path, body, {"X-Request-ID": "same"}) for path, body in asked]

    with running_server(root, "--workers", "1", "--log-level", "error") as alone:
        expected = answers(alone.url)
    assert [answer.status for answer in expected] == 11 * [200] + [415, 400]
    assert [answer.body for answer in answers(service.url)] == [answer.body for answer in expected]
    with ThreadPoolExecutor(8) as crowd:
        for found in crowd.map(answers, 8 * [service.url]):
            assert [probabilities(answer) for answer in found] == [
                pytest.approx(probabilities(answer), abs=1e-4)
                for answer in expected  # batches round otherwise
            ]
            assert [answer.body for answer in found[6:]] == [answer.body for answer in expected[6:]]


def probabilities(answer: Answer) -> dict[str, float]:
    """Those of a classification by label, none of anything else."""
    labels = answer.json.get("results", [{}])[0].get("labels", ())
    return {entry["label"]: entry["probability"] for entry in labels}


def test_each_worker_has_as_many_connections(service: Processes) -> None:
    clients = service.clients(10)
    assert [service.connections(pid) for pid in service.workers()] == [5, 5]
    for client in clients[::2]:
        client.close()
    until(lambda: sum(service.connections(pid) for pid in service.workers()) == 5)
    clients += service.clients(5)
    assert [service.connections(pid) for pid in service.workers()] == [5, 5]


def test_metrics_are_those_of_all_whichever_worker_is_asked(service: Processes) -> None:
    one, other = service.one_client_each()
    before = {model: requests(counters(one), model).get("200", 0) for model in ("small", "large")}
    for value in range(20):
        for client, model in ((one, "small"), (other, "small"), (one, "large"), (other, "large")):
            assert client.post(f"/classify?model={model}", picture(value)).status == 200
    found = [counters(client) for client in (one, other)]
    for model in ("small", "large"):
        assert [requests(each, model)["200"] - before[model] for each in found] == [40, 40]
    assert found[0].keys() == found[1].keys()


class Load:
    """Clients that ask again and again, each on its own connection, until the end of `with` or of the connection."""

    def __init__(self, service: Processes, clients: int, path: str) -> None:
        self.clients = service.clients(clients)
        self.statuses: list[list[int]] = [[] for _ in self.clients]
        self.lost = [False] * clients
        self._path = path
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(index,)) for index in range(clients)]

    @property
    def seen(self) -> set[int]:
        """Every status that was answered."""
        return {status for statuses in self.statuses for status in statuses}

    def wait_for(self, answers: int) -> None:
        """Wait until each client that is still connected got so many answers more."""
        wanted = [len(statuses) + answers for statuses in self.statuses]
        until(lambda: all(self.lost[i] or len(self.statuses[i]) >= count for i, count in enumerate(wanted)))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)

    def _ask(self, index: int) -> None:
        while not self._over.is_set():
            try:
                answer = self.clients[index].post(self._path, picture(len(self.statuses[index]) % 256))
            except (http.client.HTTPException, OSError):
                self.lost[index] = True
                return
            self.statuses[index].append(answer.status)


@pytest.mark.parametrize("model", ["small", "large"])
def test_a_worker_killed_under_load_takes_only_its_own_connections_along(service: Processes, model: str) -> None:
    (watching,) = service.clients(1)
    with Load(service, 6, f"/classify?model={model}") as load:
        load.wait_for(5)
        survivor = service.owner(watching)
        (victim,) = set(service.workers()) - {survivor}
        doomed = [service.owner(client) == victim for client in load.clients]
        assert sum(doomed) in (3, 4)
        seen = [counters(watching)]
        os.kill(victim, signal.SIGKILL)
        fresh: list[int] = []
        while victim in service.children() or len(service.workers()) < 2:
            try:
                fresh.append(ask(service.url, f"/classify?model={model}", picture(1)).status)
            except (http.client.HTTPException, OSError):
                assert not fresh  # the victim had accepted it
            seen.append(counters(watching))
        fresh.append(ask(service.url, f"/classify?model={model}", picture(1)).status)
        load.wait_for(20)
        seen.append(counters(watching))
    assert load.lost == doomed
    assert load.seen == set(fresh) == {200}
    for earlier, later in pairwise(seen):
        assert all(later[name] >= value for name, value in earlier.items())


def test_an_engine_that_is_killed_comes_back_and_small_models_answer_all_the_time(service: Processes) -> None:
    clients = service.one_client_each()
    with Load(service, 2, "/classify?model=small") as load:
        engine = service.engine()
        os.kill(service.supervisor, signal.SIGSTOP)  # so that it cannot be replaced before all was seen
        try:
            os.kill(engine, signal.SIGKILL)
            for client in clients:
                until(lambda client=client: client.get("/readyz").json["loading"] != [])  # type: ignore[misc]
                ready = client.get("/readyz")
                assert ready.status == 200
                assert ready.json["loading"] == ["large/1", "tiny-detector/1", "tiny-segmenter/1"]
                refused = client.post("/classify?model=large", picture(1))
                assert (refused.status, refused.json["code"]) == (503, "not-ready")
                assert int(refused.headers["retry-after"]) >= 1
            load.wait_for(5)
        finally:
            os.kill(service.supervisor, signal.SIGCONT)
        for client in clients:
            answers: list[Answer] = []
            while not answers or answers[-1].status == 503:
                answers.append(client.post("/classify?model=large", picture(1)))
            assert answers[-1].status == 200
        load.wait_for(5)
    assert engine not in service.children()
    assert load.lost == [False, False]
    assert load.seen == {200}


def test_processes_that_are_killed_again_and_again_leave_neither_handles_nor_zombies(service: Processes) -> None:
    kept = service.workers()[0]

    def kill_and_replace(victim: int) -> None:
        os.kill(victim, signal.SIGKILL)
        until(lambda: victim not in service.children())
        service.wait_until_ready(workers=2)

    def other_worker() -> int:
        return next(pid for pid in service.workers() if pid != kept)

    kill_and_replace(service.engine())
    before = {pid: service.handles(pid) for pid in (service.supervisor, kept, service.engine())}
    for _ in range(3):
        kill_and_replace(other_worker())
    assert kept in service.workers()
    until(lambda: all(service.handles(pid) <= count for pid, count in before.items()))
    clients = service.clients(10)
    assert [sum(service.owner(client) == pid for client in clients) for pid in service.workers()] == [5, 5]


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """A model in the engine whose batches wait to be filled, so that a test knows what waits; nothing else may wait
    for it. The last test that uses the server stops it."""
    root = tmp_path_factory.mktemp("held")
    make_classifier(root, name="held")
    (root / "held" / "serving.toml").write_text(IN_ENGINE + "max_queue_delay_ms = 800\nmax_batch_size = 4\n")
    with running_server(root, "--workers", "2", "--max-queue-seconds", "0.000001", "--log-level", "error") as server:
        service = Processes(server)
        service.wait_until_ready(workers=2)
        yield service


def waiting(client: Client) -> bool:
    return b'imago_queue_depth{model="held",task="classify"} 1.0' in client.get("/metrics").body


def test_both_workers_refuse_at_once_what_would_wait_too_long_for_the_engine(held: Processes) -> None:
    clients = held.one_client_each()
    with ThreadPoolExecutor(1) as crowd:
        first = crowd.submit(ask, held.url, "/classify", picture(1))
        until(lambda: waiting(clients[0]))
        for client in clients:
            refused = client.post("/classify", picture(2))
            assert (refused.status, refused.json["code"]) == (429, "overloaded")
            assert int(refused.headers["retry-after"]) >= 1
        assert not first.done()
        assert first.result().status == 200
    counted = {name: value for name, value in counters(clients[0]).items() if "rejected" in name and value}
    assert counted == {'imago_rejected_total{model="held",reason="overloaded",task="classify"}': 2}
    held.close_clients()


def test_a_deadline_that_passes_in_the_engine_is_answered_so(held: Processes) -> None:
    late = ask(held.url, "/classify", picture(1), {"X-Request-Timeout-Ms": "20"})
    assert (late.status, late.json["code"]) == (504, "deadline-exceeded")


def test_at_sigterm_what_runs_in_the_engine_is_answered_and_idle_connections_hold_up_nobody(held: Processes) -> None:
    silent = [Client(held.url) for _ in range(2)]
    idle = held.clients(2)
    processes = held.children()
    with ThreadPoolExecutor(1) as crowd:
        running = crowd.submit(ask, held.url, "/classify", picture(1))
        until(lambda: waiting(idle[0]))
        os.kill(held.supervisor, signal.SIGTERM)
        assert running.result().status == 200
    until(lambda: not any(map(alive, [held.supervisor, *processes])), seconds=15)  # a drain may take 30
    for client in (*silent, *idle):
        client.close()


def test_children_of_a_supervisor_that_is_killed_end_by_themselves(root: Path) -> None:
    with running_server(root, "--workers", "2", "--log-level", "error") as server:
        service = Processes(server)
        service.wait_until_ready(workers=2)
        children = service.children()
        os.kill(service.supervisor, signal.SIGKILL)
        until(lambda: not any(map(alive, children)), seconds=15)


def test_before_the_models_are_loaded_every_worker_says_so_at_once(tmp_path: Path) -> None:
    """Opening the graph waits for the test, which is at the other end of a pipe in the place of the file."""
    graph = make_classifier(tmp_path, name="large") / "model.onnx"
    (tmp_path / "large" / "serving.toml").write_text(IN_ENGINE)
    content = graph.read_bytes()
    graph.unlink()
    os.mkfifo(graph)
    with starting_server(tmp_path, "--workers", "2", "--log-level", "error") as server:
        service = Processes(server)
        until(lambda: len(service.workers()) == 2)
        clients = service.one_client_each()
        for client in clients:
            assert client.get("/readyz").status == 503
            refused = client.post("/classify", picture(1))
            assert (refused.status, refused.json["code"]) == (503, "not-ready")
        graph.write_bytes(content)
        for client in clients:
            until(lambda client=client: client.get("/readyz").status == 200)  # type: ignore[misc]
            assert client.post("/classify", picture(1)).status == 200
        service.close_clients()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(15) == 0


def serve(root: Path, *flags: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Serve until the service ends by itself."""
    command = [sys.executable, "-m", "app", "serve", "--models", str(root), *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, env={**os.environ, **environment})


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_in_use_is_refused_with_one_sentence(running: Processes, root: Path, workers: str) -> None:
    port = running.url.rpartition(":")[2]
    ended = serve(root, "--port", port, "--workers", workers)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr == f"invalid-settings: host '127.0.0.1', port {port}: Address already in use.\n"


def test_what_the_operator_has_to_mend_ends_every_process_with_its_sentence(root: Path, tmp_path: Path) -> None:
    ended = serve(root, "--port", "0", "--workers", "2", "--default-models", "paint=small")
    assert ended.returncode == 2
    assert "invalid-settings: default_models: task 'paint' is unknown" in ended.stderr
    assert "Traceback" not in ended.stderr
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('there is none')\n")
    ended = serve(root, "--port", "0", "--workers", "2", PYTHONPATH=str(tmp_path))
    assert ended.returncode == 2
    assert "backend-missing: " in ended.stderr
    assert "Traceback" not in ended.stderr
