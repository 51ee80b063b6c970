"""Triton's gRPC client against a server process, alone and as several workers with an engine."""

import os
import queue
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from app.imaging.codec import encode_png
from benchmarks.server import Server, running_server
from tests.make_models import make_classifier, make_generator
from tests.service.processes import Processes, ask, until
from tests.service.test_tritonclient import IN_ENGINE, MODELS, expected, rows


class Served(NamedTuple):
    server: Server
    address: str
    """Of gRPC."""


def rpc_address(server: Server) -> str:
    """Where a server says that gRPC listens: in the line after that of HTTP."""
    assert server.process.stdout is not None
    found = re.search(r"listens on grpc://(\S+)", server.process.stdout.readline())
    assert found is not None
    return found[1]


@pytest.fixture(scope="module", params=["1", "2"], ids=["one process", "two workers"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """With several workers `small` runs in each of them, the others in the engine. Who asks `gathering` waits for two
    seconds for others to fill a batch."""
    root = tmp_path_factory.mktemp("models")
    make_classifier(root, name="small")
    make_classifier(root, name="large")
    make_generator(root, name="generator")
    make_classifier(root, name="gathering")
    (root / "large" / "serving.toml").write_text(IN_ENGINE)
    (root / "gathering" / "serving.toml").write_text(f"{IN_ENGINE}max_batch_size = 4\nmax_queue_delay_ms = 2000\n")
    flags = ("--workers", request.param, "--grpc-port", "0", "--model-control", "--log-level", "error")
    with running_server(root, *flags) as server:
        yield Served(server, rpc_address(server))


@pytest.fixture
def client(served: Served) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(served.address) as connected:
        yield connected


def given(values: np.ndarray[Any, Any], name: str = "image") -> triton.InferInput:
    datatype = {"f": "FP32", "i": "INT64", "u": "UINT8", "O": "BYTES"}[values.dtype.kind]
    tensor = triton.InferInput(name, list(values.shape), datatype)
    tensor.set_data_from_numpy(values)
    return tensor


def test_health_and_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    metadata = client.get_server_metadata()
    assert metadata.name == "imago"
    assert "statistics" in metadata.extensions
    for model in MODELS:
        assert client.is_model_ready(model)
        assert client.is_model_ready(model, "1")
        assert not client.is_model_ready(model, "7")
        told = client.get_model_metadata(model)
        assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in told.inputs] == [
            ("image", "UINT8", [-1, 8, 8, 3])
        ]
    assert not client.is_model_ready("unknown")


def test_the_configuration_is_that_of_http(client: triton.InferenceServerClient) -> None:
    config = client.get_model_config("large").config
    assert config.max_batch_size >= 1
    assert config.HasField("dynamic_batching")
    assert [tensor.name for tensor in config.input] == ["image"]
    assert list(config.input[0].dims) == [8, 8, 3]
    labelled = {tensor.name: tensor.label_filename for tensor in config.output}
    assert labelled == {"probabilities": "labels.txt", "embedding": "", "cam": "", "energy": ""}
    assert config.version_policy.latest.num_versions == 1


def test_the_repository_index(client: triton.InferenceServerClient) -> None:
    index = client.get_model_repository_index().models
    assert {(entry.name, entry.version, entry.state) for entry in index} == {
        (name, "1", "READY") for name in ("small", "large", "generator", "gathering")
    }


def test_a_model_is_unloaded_and_loaded_for_all_processes(served: Served, client: triton.InferenceServerClient) -> None:
    client.unload_model("generator")
    for _ in range(4):  # the kernel shares connections out among the workers
        with triton.InferenceServerClient(served.address) as one:
            assert not one.is_model_ready("generator")
    chosen = '{"version_policy": {"specific": {"versions": [1]}}}'
    client.load_model("generator", config=chosen)
    for _ in range(4):
        with triton.InferenceServerClient(served.address) as one:
            assert one.is_model_ready("generator", "1")
    for asked, sentence in (({"config": '{"backend": "python"}'}, "backend"), ({"files": {"file:1/a": b""}}, "Files")):
        with pytest.raises(InferenceServerException, match=sentence) as told:
            client.load_model("generator", **({"config": "{}"} | asked))
        assert told.value.status() == "StatusCode.INVALID_ARGUMENT"
    with pytest.raises(InferenceServerException) as told:
        client.unload_model("unknown")
    assert told.value.status() == "StatusCode.NOT_FOUND"


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("count", [1, 5, 32])
def test_inference(client: triton.InferenceServerClient, model: str, count: int) -> None:
    values = rows(count)
    result = client.infer(model, [given(values)], request_id="mine")
    np.testing.assert_allclose(result.as_numpy("probabilities"), expected(values), atol=1e-5)
    assert result.as_numpy("cam").shape == (count, 8, 8)
    assert result.as_numpy("energy").shape == (count,)
    response = result.get_response()
    assert (response.id, response.model_name, response.model_version) == ("mine", model, "1")


@pytest.mark.parametrize("model", MODELS)
def test_encoded_pictures_and_classification(client: triton.InferenceServerClient, model: str) -> None:
    pictures = [encode_png(np.full((30, 40, 3), colour, np.uint8)) for colour in ((9, 9, 200), (9, 200, 9))]
    asked = [triton.InferRequestedOutput("probabilities", class_count=1)]
    found = client.infer(model, [given(np.array(pictures, dtype=object))], outputs=asked).as_numpy("probabilities")
    assert [row[0].decode().split(":")[1:] for row in found] == [["2", "blue"], ["1", "green"]]


def test_several_inputs(client: triton.InferenceServerClient) -> None:
    inputs = [given(np.array([0, 1]), "class"), given(np.zeros((2, 4), np.float32), "z")]
    assert client.infer("generator", inputs).as_numpy("image").shape == (2, 8, 8, 3)


@pytest.mark.parametrize("model", MODELS)
def test_asynchronous_inference(client: triton.InferenceServerClient, model: str) -> None:
    asked = [rows(count) for count in (1, 2, 3, 4, 1, 2, 3, 4)]
    answers: dict[int, Any] = {}
    done = threading.Event()

    def note(place: int, result: Any, error: Any) -> None:
        answers[place] = result if error is None else error
        if len(answers) == len(asked):
            done.set()

    for place, values in enumerate(asked):
        client.async_infer(model, [given(values)], lambda result, error, place=place: note(place, result, error))
    assert done.wait(30)
    for place, values in enumerate(asked):
        np.testing.assert_allclose(answers[place].as_numpy("probabilities"), expected(values), atol=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_statistics_are_those_of_all_processes_and_of_both_ways_to_ask(served: Served, model: str) -> None:
    def counts() -> tuple[int, int]:
        with triton.InferenceServerClient(served.address) as one:
            (found,) = one.get_inference_statistics(model).model_stats
        return found.inference_stats.success.count, found.inference_count

    requests, inferences = counts()
    for _ in range(6):  # the kernel shares connections out among the workers
        with triton.InferenceServerClient(served.address) as one:
            one.infer(model, [given(rows(3))])
    until(lambda: counts() == (requests + 6, inferences + 18))
    with triton.InferenceServerClient(served.address) as one:
        assert {entry.name for entry in one.get_inference_statistics().model_stats} == {
            "small", "large", "generator", "gathering",
        }  # fmt: skip


@pytest.mark.parametrize(
    ("model", "version", "values", "status", "sentence"),
    [
        ("unknown", "", rows(1), "NOT_FOUND", "not served"),
        ("small", "9", rows(1), "NOT_FOUND", "not served"),
        ("small", "x", rows(1), "NOT_FOUND", "not served"),
        ("small", "", rows(1)[:, :4], "INVALID_ARGUMENT", r"takes the shape \[N,8,8,3\]"),
        ("large", "", rows(1).astype(np.float32), "INVALID_ARGUMENT", "is of datatype UINT8"),
        ("large", "", np.array([b"no picture"], dtype=object), "INVALID_ARGUMENT", "no picture"),
    ],
)
def test_errors_are_told(
    client: triton.InferenceServerClient, model: str, version: str, values: np.ndarray[Any, Any], status: str,
    sentence: str,
) -> None:  # fmt: skip
    with pytest.raises(InferenceServerException, match=sentence) as told:
        client.infer(model, [given(values)], version)
    assert told.value.status() == f"StatusCode.{status}"


def cancelled(served: Served) -> float:
    """Jobs whose caller left."""
    lines = ask(served.server.url, "/metrics").body.decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("imago_cancelled_total"))


def test_a_deadline_of_the_client_and_a_call_that_it_cancels_drop_their_jobs(
    served: Served, client: triton.InferenceServerClient
) -> None:
    before = cancelled(served)
    with pytest.raises(InferenceServerException) as told:
        client.infer("gathering", [given(rows(1))], client_timeout=0.2)
    assert told.value.status() == "StatusCode.DEADLINE_EXCEEDED"
    heard: queue.SimpleQueue[Any] = queue.SimpleQueue()
    call = client.async_infer("gathering", [given(rows(1))], lambda result, error: heard.put(error))
    call.cancel()
    assert "CANCELLED" in str(heard.get(timeout=20).status())
    until(lambda: cancelled(served) >= before + 1)  # the cancelled call may not have come to a queue


def test_a_compressed_message_is_refused_before_it_is_unpacked(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="gzip") as told:
        client.infer("small", [given(rows(1))], compression_algorithm="gzip")
    assert told.value.status() == "StatusCode.UNIMPLEMENTED"
    assert client.is_server_live()


def test_a_message_beyond_the_limit_is_refused(client: triton.InferenceServerClient) -> None:
    huge = np.zeros((1, 26 * 2**20), np.uint8)
    with pytest.raises(InferenceServerException) as told:
        client.infer("small", [given(huge)])
    assert told.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
    assert client.is_server_live()


def test_what_is_no_message_is_refused(served: Served) -> None:
    with grpc.insecure_channel(served.address) as channel:
        for method in ("ModelInfer", "ModelConfig", "RepositoryIndex"):
            call = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
            with pytest.raises(grpc.RpcError):
                call(b"\xff" * 100, timeout=20)
        with pytest.raises(grpc.RpcError) as told:
            channel.unary_unary("/inference.GRPCInferenceService/ModelLoad")(b"", timeout=20)
        assert told.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_worker_that_dies_leaves_the_port_to_the_others_and_its_successor(served: Served) -> None:
    processes = Processes(served.server)
    if len(processes.children()) < 2:
        pytest.skip("there is one process")
    dead = processes.workers()[0]
    os.kill(dead, signal.SIGKILL)
    until(lambda: dead not in processes.children())
    processes.wait_until_ready(workers=2)
    for _ in range(8):
        with triton.InferenceServerClient(served.address) as one:
            assert one.infer("large", [given(rows(1))]).as_numpy("energy").shape == (1,)


def test_a_taken_port_is_named(served: Served, tmp_path: Path) -> None:
    make_classifier(tmp_path)
    with (
        pytest.raises(RuntimeError, match="ended with 2"),
        running_server(tmp_path, "--grpc-port", served.address.rpartition(":")[2]),
    ):
        pass


def keep_asking(client: triton.InferenceServerClient) -> None:
    """Ask until that is refused."""
    while True:
        client.get_server_metadata()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_at_sigterm_calls_under_way_are_answered_and_new_ones_refused(tmp_path: Path, workers: str) -> None:
    make_classifier(tmp_path)
    (tmp_path / "tiny-classifier" / "serving.toml").write_text(
        f"{IN_ENGINE}max_batch_size = 4\nmax_queue_delay_ms = 1500\n"
    )
    flags = ("--workers", workers, "--grpc-port", "0", "--log-level", "error")
    with running_server(tmp_path, *flags) as server, triton.InferenceServerClient(rpc_address(server)) as client:
        heard: queue.SimpleQueue[Any] = queue.SimpleQueue()
        client.async_infer("tiny-classifier", [given(rows(1))], lambda result, error: heard.put((result, error)))
        until(lambda: b'queue_depth{model="tiny-classifier",task="classify"} 1.0' in ask(server.url, "/metrics").body)
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(InferenceServerException) as told:
            keep_asking(client)
        assert heard.empty()
        assert told.value.status() == "StatusCode.UNAVAILABLE"
        result, error = heard.get(timeout=20)
        assert error is None
        assert result.as_numpy("probabilities").shape == (1, 3)
        assert server.process.wait(20) == 0
