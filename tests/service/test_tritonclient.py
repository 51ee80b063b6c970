"""Triton's own client against a server process, alone and as several workers with an engine."""

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http.aio
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from app.imaging.codec import encode_png
from benchmarks.server import Server, running_server
from tests.make_models import make_classifier, make_generator, make_segmenter
from tests.service.processes import until

IN_ENGINE = "concurrency = 1\n"
"""Whoever chooses how many batches run at once has chosen the engine."""
MODELS = ("small", "large")


@pytest.fixture(scope="module", params=["1", "2"], ids=["one process", "two workers"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With several workers `small` runs in each of them, `large` and the segmenter in the engine."""
    root = tmp_path_factory.mktemp("models")
    for make, name in ((make_classifier, "small"), (make_classifier, "large"), (make_segmenter, "segmenter")):
        make(root, name=name)
    make_generator(root, name="generator")
    for name in ("large", "segmenter"):
        (root / name / "serving.toml").write_text(IN_ENGINE)
    with running_server(root, "--workers", request.param, "--log-level", "error") as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(server.url.removeprefix("http://"), concurrency=4) as connected:
        yield connected


def rows(count: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(count).integers(0, 256, (count, 8, 8, 3), np.uint8)


def given(values: np.ndarray[Any, Any], binary: bool = True, name: str = "image") -> InferInput:
    datatype = {"f": "FP32", "i": "INT64", "u": "UINT8", "O": "BYTES"}[values.dtype.kind]
    tensor = InferInput(name, list(values.shape), datatype)
    tensor.set_data_from_numpy(values, binary_data=binary)
    return tensor


def expected(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What the tiny classifiers do."""
    logits = 8 * (values / 255).mean((1, 2))
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def test_health_and_metadata(client: InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata()["name"] == "imago"
    for model in MODELS:
        assert client.is_model_ready(model)
        assert client.is_model_ready(model, "1")
        assert not client.is_model_ready(model, "7")
        assert client.get_model_metadata(model)["inputs"][0]["shape"] == [-1, 8, 8, 3]
        assert client.get_model_config(model, "1")["max_batch_size"] >= 1
    assert not client.is_model_ready("unknown")


def test_the_repository_index(client: InferenceServerClient) -> None:
    index = client.get_model_repository_index()
    assert {(entry["name"], entry["version"], entry["state"]) for entry in index} == {
        (name, "1", "READY") for name in ("small", "large", "segmenter", "generator")
    }


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("sent", [False, True], ids=["json in", "binary in"])
@pytest.mark.parametrize("got", [False, True], ids=["json out", "binary out"])
def test_inference_in_either_form(client: InferenceServerClient, model: str, sent: bool, got: bool) -> None:
    values = rows(5)
    outputs = [InferRequestedOutput("probabilities", binary_data=got), InferRequestedOutput("cam", binary_data=got)]
    result = client.infer(model, [given(values, sent)], outputs=outputs, request_id="mine")
    np.testing.assert_allclose(result.as_numpy("probabilities"), expected(values), atol=1e-5)
    assert result.as_numpy("cam").shape == (5, 8, 8)
    assert result.get_response()["id"] == "mine"
    assert result.get_response()["model_version"] == "1"


@pytest.mark.parametrize("model", MODELS)
def test_all_outputs_where_none_is_named(client: InferenceServerClient, model: str) -> None:
    result = client.infer(model, [given(rows(2))])
    shapes = {name: result.as_numpy(name).shape for name in ("probabilities", "embedding", "cam", "energy")}
    assert shapes == {"probabilities": (2, 3), "embedding": (2, 3), "cam": (2, 8, 8), "energy": (2,)}


@pytest.mark.parametrize("model", MODELS)
def test_more_rows_than_a_batch_come_back_in_order(client: InferenceServerClient, model: str) -> None:
    values = rows(32)
    found = client.infer(model, [given(values)]).as_numpy("probabilities")
    np.testing.assert_allclose(found, expected(values), atol=1e-5)


@pytest.mark.parametrize("binary", [False, True])
def test_classification(client: InferenceServerClient, binary: bool) -> None:
    colours = np.zeros((2, 8, 8, 3), np.uint8)
    colours[0, ..., 2] = colours[1, ..., 1] = 200
    asked = [InferRequestedOutput("probabilities", binary_data=binary, class_count=2)]
    found = client.infer("small", [given(colours)], outputs=asked).as_numpy("probabilities")
    words = [[element.decode() if binary else element for element in row] for row in found]
    assert [row[0].split(":")[1:] for row in words] == [["2", "blue"], ["1", "green"]]
    assert found.shape == (2, 2)


@pytest.mark.parametrize("model", [*MODELS, "segmenter"])
def test_encoded_pictures(client: InferenceServerClient, model: str) -> None:
    pictures = [encode_png(np.full((30, 40, 3), colour, np.uint8)) for colour in ((9, 9, 200), (9, 200, 9))]
    result = client.infer(model, [given(np.array(pictures, dtype=object))])
    if model == "segmenter":
        assert [np.unique(mask).tolist() for mask in result.as_numpy("mask")] == [[2], [1]]
    else:
        assert result.as_numpy("probabilities").argmax(1).tolist() == [2, 1]


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
@pytest.mark.parametrize("model", MODELS)
def test_compression_both_ways(client: InferenceServerClient, model: str, algorithm: str) -> None:
    values = rows(16)
    result = client.infer(
        model, [given(values)], request_compression_algorithm=algorithm, response_compression_algorithm=algorithm
    )
    np.testing.assert_allclose(result.as_numpy("probabilities"), expected(values), atol=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_asynchronous_inference(client: InferenceServerClient, model: str) -> None:
    asked = [rows(count) for count in (1, 2, 3, 4, 1, 2, 3, 4)]
    waiting = [client.async_infer(model, [given(values)]) for values in asked]
    for values, running in zip(asked, waiting, strict=True):
        np.testing.assert_allclose(running.get_result().as_numpy("probabilities"), expected(values), atol=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_the_asyncio_client(server: Server, model: str) -> None:
    async def scenario() -> None:
        async with tritonclient.http.aio.InferenceServerClient(server.url.removeprefix("http://")) as client:
            assert await client.is_server_ready()
            asked = [rows(count) for count in (1, 5, 16)]
            results = await asyncio.gather(*(client.infer(model, [given(values)]) for values in asked))
            for values, result in zip(asked, results, strict=True):
                np.testing.assert_allclose(result.as_numpy("probabilities"), expected(values), atol=1e-5)

    asyncio.run(scenario())


def test_several_inputs(client: InferenceServerClient) -> None:
    z, chosen = np.zeros((2, 4), np.float32), np.array([0, 1])
    result = client.infer("generator", [given(chosen, name="class"), given(z, name="z")])
    assert result.as_numpy("image").shape == (2, 8, 8, 3)
    np.testing.assert_array_equal(
        result.as_numpy("image"),
        client.infer("generator", [given(z, False, "z"), given(chosen, False, "class")]).as_numpy("image"),
    )


@pytest.mark.parametrize("model", MODELS)
def test_statistics_are_those_of_all_processes(server: Server, model: str) -> None:
    def counts() -> tuple[int, int]:
        with InferenceServerClient(server.url.removeprefix("http://")) as one:
            (found,) = one.get_inference_statistics(model)["model_stats"]
        return found["inference_stats"]["success"]["count"], found["inference_count"]

    requests, inferences = counts()
    for _ in range(6):  # connections are shared out among the workers
        with InferenceServerClient(server.url.removeprefix("http://")) as one:
            one.infer(model, [given(rows(3))])
    until(lambda: counts() == (requests + 6, inferences + 18))  # a worker counts when it has sent its answer


@pytest.mark.parametrize(
    ("model", "version", "values", "status", "sentence"),
    [
        ("unknown", "", rows(1), "404", "not served"),
        ("small", "9", rows(1), "404", "not served"),
        ("small", "", rows(1)[:, :4], "400", r"takes the shape \[N,8,8,3\]"),
        ("large", "", rows(1).astype(np.float32), "400", "is of datatype UINT8"),
        ("large", "", np.array([b"no picture"], dtype=object), "415", "no picture"),
    ],
)
def test_errors_are_told(
    client: InferenceServerClient, model: str, version: str, values: np.ndarray[Any, Any], status: str, sentence: str
) -> None:
    with pytest.raises(InferenceServerException, match=sentence) as told:
        client.infer(model, [given(values)], version)
    assert told.value.status() == status


def test_a_timeout_in_microseconds_is_a_deadline(client: InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException) as told:
        client.infer("large", [given(rows(1))], timeout=1)
    assert told.value.status() in {"429", "504"}
    assert client.infer("large", [given(rows(1))], timeout=10_000_000).as_numpy("energy").shape == (1,)
