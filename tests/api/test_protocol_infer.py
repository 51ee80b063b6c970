"""Inference by the Open Inference Protocol v2, through the application: what task routes answer, as tensors."""

import asyncio
import base64
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from app.runtime import BACKENDS
from app.settings import Settings
from tests.api.conftest import MAX_BODY
from tests.api.held import Held
from tests.api.service import Answer, Service, exchange
from tests.imaging.pictures import noise, save
from tests.make_models import make_classifier

CLASSIFIER = "/v2/models/tiny-classifier/infer"
GENERATOR = "/v2/models/tiny-generator/infer"
RAW = {"inference-header-content-length": "0"}
RED, GREEN = (np.full((8, 8, 3), colour, np.uint8) for colour in ((200, 20, 20), (20, 200, 20)))


def tensors(*rows: np.ndarray[Any, Any], **rest: Any) -> dict[str, Any]:
    """A request for the classifier, in JSON."""
    image = {"name": "image", "datatype": "UINT8", "shape": [len(rows), 8, 8, 3], "data": np.stack(rows).tolist()}
    return {"inputs": [image], **rest}


def binary(*rows: np.ndarray[Any, Any], **rest: Any) -> tuple[bytes, dict[str, str]]:
    """The same with the tensor after the JSON: body and headers."""
    data = np.stack(rows).tobytes()
    return with_tail({**tensors(*rows), **rest}, data, {"binary_data_size": len(data)})


def encoded(*pictures: bytes, **rest: Any) -> tuple[bytes, dict[str, str]]:
    """A request with pictures, as BYTES after the JSON."""
    data = b"".join(len(picture).to_bytes(4, "little") + picture for picture in pictures)
    image = {"name": "image", "datatype": "BYTES", "shape": [len(pictures)]}
    return with_tail({"inputs": [image], **rest}, data, {"binary_data_size": len(data)})


def with_tail(message: dict[str, Any], tail: bytes, parameters: dict[str, Any]) -> tuple[bytes, dict[str, str]]:
    (entry,) = message["inputs"]
    entry = {key: value for key, value in entry.items() if key != "data"} | {"parameters": parameters}
    head = json.dumps({**message, "inputs": [entry]}).encode()
    return head + tail, {"inference-header-content-length": str(len(head))}


def read(answer: httpx.Response) -> dict[str, np.ndarray[Any, Any]]:
    """The outputs of an answer, in either form."""
    assert answer.status_code == 200, answer.text
    length = answer.headers.get("inference-header-content-length")
    body = answer.content
    end = len(body) if length is None else int(length)
    found, at = {}, end
    for output in json.loads(body[:end])["outputs"]:
        dtype = {"FP32": "<f4", "UINT8": "u1"}[output["datatype"]]
        if "data" in output:
            values = np.array(output["data"], dtype)
        else:
            size = output["parameters"]["binary_data_size"]
            values = np.frombuffer(body[at : at + size], dtype)
            at += size
        found[output["name"]] = values.reshape(output["shape"])
    assert at == len(body)
    assert answer.headers["content-type"] == ("application/json" if length is None else "application/octet-stream")
    return found


def refused(answer: httpx.Response | Answer, status: int = 400) -> str:
    """The sentence of an error as clients of the protocol read it."""
    code = answer.status_code if isinstance(answer, httpx.Response) else answer.status
    told = answer.json()
    assert (code, told["status"], answer.headers["content-type"]) == (status, status, "application/json"), told
    assert isinstance(told["error"], str)
    return str(told["error"])


def test_tensors_in_either_form_get_what_their_picture_gets(service: Service) -> None:
    as_json = read(service.ask("POST", CLASSIFIER, json=tensors(RED, GREEN)))
    body, headers = binary(RED, GREEN)
    as_binary = read(service.post(CLASSIFIER, body, headers=headers))
    body, headers = encoded(save(RED), save(GREEN), parameters={"binary_data_output": True})
    as_pictures = read(service.post(CLASSIFIER, body, headers=headers))
    labels = service.post("/classify", save(RED)).json()["results"][0]["labels"]
    assert {entry["index"]: entry["probability"] for entry in labels} == {
        index: pytest.approx(float(value), abs=1e-5) for index, value in enumerate(as_json["probabilities"][0])
    }
    assert {name: array.shape for name, array in as_json.items()} == {
        "probabilities": (2, 3), "embedding": (2, 3), "cam": (2, 8, 8), "energy": (2,),
    }  # fmt: skip
    for other in (as_binary, as_pictures):
        for name, array in as_json.items():
            np.testing.assert_allclose(other[name], array, atol=1e-5)


def test_a_picture_is_fitted_by_the_server(service: Service) -> None:
    large = save(noise(90, 70), "JPEG")
    body, headers = encoded(large, outputs=[{"name": "energy"}])
    found = read(service.post(CLASSIFIER, body, headers=headers))
    told = service.post("/classify", large).json()["results"][0]["energy"]
    assert found["energy"].tolist() == [pytest.approx(told, abs=1e-3)]


def test_in_json_pictures_are_base64(service: Service) -> None:
    image = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(save(RED)).decode()]}
    asked = {"inputs": [image], "outputs": [{"name": "probabilities"}]}
    assert int(read(service.ask("POST", CLASSIFIER, json=asked))["probabilities"].argmax()) == 0
    asked["inputs"] = [{**image, "data": ["no base64!"]}]
    assert "base64" in refused(service.ask("POST", CLASSIFIER, json=asked))


def test_a_raw_body_is_a_picture_or_a_tensor(service: Service) -> None:
    for body in (save(GREEN), save(noise(30, 20)), GREEN.tobytes()):
        found = read(service.post(CLASSIFIER, body, headers=RAW))
        assert set(found) == {"probabilities", "embedding", "cam", "energy"}
    assert "is not one row" in refused(service.post(CLASSIFIER, b"neither", headers=RAW))
    assert "one input" in refused(service.post(GENERATOR, b"\0" * 16, headers=RAW))


def test_several_inputs_make_images(service: Service) -> None:
    z = np.random.default_rng(1).standard_normal((2, 4)).astype("<f4")
    inputs = [
        {"name": "class", "datatype": "INT64", "shape": [2], "data": [0, 2]},
        {"name": "z", "datatype": "FP32", "shape": [2, 4], "data": z.ravel().tolist()},
    ]
    assert read(service.ask("POST", GENERATOR, json={"inputs": inputs}))["image"].shape == (2, 8, 8, 3)


@pytest.mark.parametrize("chosen", [-1, 3, 2**62])
def test_a_value_that_the_graph_would_fail_on_is_refused(service: Service, chosen: int) -> None:
    inputs = [
        {"name": "class", "datatype": "INT64", "shape": [1], "data": [chosen]},
        {"name": "z", "datatype": "FP32", "shape": [1, 4], "data": [0, 0, 0, 0]},
    ]
    assert "indices of labels: 0 to 2" in refused(service.ask("POST", GENERATOR, json={"inputs": inputs}))


def test_outputs_come_as_they_are_asked_for(service: Service) -> None:
    outputs = [
        {"name": "energy", "parameters": {"binary_data": True}},
        {"name": "probabilities", "parameters": {"binary_data": False}},
        {"name": "embedding"},
    ]
    asked = tensors(RED, outputs=outputs, parameters={"binary_data_output": True}, id="mine")
    answer = service.ask("POST", CLASSIFIER, json=asked)
    assert list(read(answer)) == ["energy", "probabilities", "embedding"]
    told = json.loads(answer.content[: int(answer.headers["inference-header-content-length"])])
    assert ["data" in output for output in told["outputs"]] == [False, True, False]
    assert (told["id"], told["model_name"], told["model_version"]) == ("mine", "tiny-classifier", "1")
    assert "id" not in service.ask("POST", CLASSIFIER, json=tensors(RED, id="")).json()


@pytest.mark.parametrize("count", [1, 2, 3, 10**9])
def test_classes_come_with_their_labels(service: Service, count: int) -> None:
    outputs = [{"name": name, "parameters": {"classification": count}} for name in ("probabilities", "cam")]
    answer = service.ask("POST", CLASSIFIER, json=tensors(RED, GREEN, outputs=outputs)).json()
    probabilities, cam = answer["outputs"]
    assert (probabilities["datatype"], probabilities["shape"]) == ("BYTES", [2, min(3, count)])
    best = [text.split(":") for text in probabilities["data"][:: min(3, count)]]
    assert [(index, label) for _, index, label in best] == [("0", "red"), ("1", "green")]
    assert (cam["shape"], len(cam["data"][0].split(":"))) == ([2, min(64, count)], 2)


def test_classes_come_binary_too(service: Service) -> None:
    outputs = [{"name": "probabilities", "parameters": {"classification": 1, "binary_data": True}}]
    answer = service.ask("POST", CLASSIFIER, json=tensors(RED, outputs=outputs))
    length = int(answer.headers["inference-header-content-length"])
    size = json.loads(answer.content[:length])["outputs"][0]["parameters"]["binary_data_size"]
    data = answer.content[length:]
    assert len(data) == size == 4 + int.from_bytes(data[:4], "little")
    assert data.endswith(b":0:red")


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_bodies_are_taken_compressed(service: Service, encoding: str, pack: Any) -> None:
    body, headers = binary(RED)
    plain = read(service.post(CLASSIFIER, body, headers=headers))
    packed = read(service.post(CLASSIFIER, pack(body), headers=headers | {"content-encoding": encoding}))
    np.testing.assert_array_equal(packed["probabilities"], plain["probabilities"])
    bomb = pack(b" " * (MAX_BODY + 1))
    answer = service.post(CLASSIFIER, bomb, headers={"content-encoding": encoding})
    assert "longer than" in refused(answer, 413)
    assert encoding in refused(service.post(CLASSIFIER, body, headers={"content-encoding": encoding}))


@pytest.mark.parametrize("path", [CLASSIFIER, "/v2/repository/index", "/v2/models/stats", "/classify"])
def test_other_encodings_and_other_routes_are_not_unpacked(service: Service, path: str) -> None:
    encoding = "br" if path == CLASSIFIER else "gzip"
    answer = service.post(path, gzip.compress(b"{}"), headers={"content-encoding": encoding})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported-content-encoding")
    assert answer.headers["accept-encoding"] == ("identity" if path == "/classify" else "gzip, deflate")


@pytest.mark.parametrize(("encoding", "unpack"), [("gzip", gzip.decompress), ("deflate", zlib.decompress)])
def test_long_answers_come_compressed_where_that_is_asked_for(service: Service, encoding: str, unpack: Any) -> None:
    body, headers = binary(*8 * [RED], parameters={"binary_data_output": True})
    sent = [(name.encode(), value.encode()) for name, value in headers.items()]
    plain = service.exchange("POST", CLASSIFIER, headers=sent, body=body)
    packed = service.exchange("POST", CLASSIFIER, headers=[*sent, (b"accept-encoding", encoding.encode())], body=body)
    assert packed.headers["content-encoding"] == encoding
    assert int(packed.headers["content-length"]) == len(packed.body) < len(plain.body)
    assert unpack(packed.body) == plain.body
    assert packed.headers["inference-header-content-length"] == plain.headers["inference-header-content-length"]
    assert "content-encoding" not in plain.headers


@pytest.mark.parametrize(
    "value", [b"", b"-1", b"+1", b"1e3", b"1.0", b"0x10", b"\xd9\xa3", b"9" * 11, b"9" * 5000, b" 1"]
)
def test_a_header_length_that_is_no_number_is_refused(service: Service, value: bytes) -> None:
    headers = [(b"inference-header-content-length", value)]
    answer = service.exchange("POST", CLASSIFIER, headers=headers, body=json.dumps(tensors(RED)).encode())
    assert "whole number of bytes" in refused(answer)


@pytest.mark.parametrize("version", ["2", "01", "-1", "+1", "1e3", "1.0", "9" * 400, "x", "%201", "\uff11"])
def test_a_version_that_is_not_there_is_unknown(service: Service, version: str) -> None:
    path = f"/v2/models/tiny-classifier/versions/{version}"
    assert "not served here" in refused(service.ask("POST", f"{path}/infer", json=tensors(RED)), 404)
    for tail in ("", "/ready", "/config", "/stats"):
        assert "not served here" in refused(service.get(path + tail), 404)


def test_a_version_may_be_asked_for_by_number(service: Service) -> None:
    answer = service.ask("POST", "/v2/models/tiny-classifier/versions/1/infer", json=tensors(RED))
    assert (answer.status_code, answer.headers["x-model-version"]) == (200, "1")


def test_the_most_rows_are_those_of_pictures_or_of_a_batch(service: Service) -> None:
    most = max(4, service.registry.get(None, "tiny-classifier").running.max_batch_size)
    body, headers = binary(*most * [RED])
    assert read(service.post(CLASSIFIER, body, headers=headers))["energy"].shape == (most,)
    body, headers = binary(*(most + 1) * [RED])
    assert f"1 to {most} rows" in refused(service.post(CLASSIFIER, body, headers=headers))


def test_a_broken_picture_is_refused_as_by_its_task(service: Service) -> None:
    for picture, status in ((b"no picture", 415), (save(noise(30, 30))[:200], 422), (b"", 400)):
        body, headers = encoded(save(RED), picture)
        refused(service.post(CLASSIFIER, body, headers=headers), status)
        assert service.post("/classify", picture).status_code == status


@pytest.mark.parametrize(
    "path",
    ["/v2/models/tiny-classifier", "/v2/models/tiny-classifier/infer/", "/v2/models//infer", "/v2/models/infer",
     "/v2/models/a/b/infer", "/v2/models/tiny-classifier/versions/infer", "/v2/models/tiny-classifier/infer\n"],
)  # fmt: skip
def test_other_paths_run_nothing(service: Service, path: str) -> None:
    answer = service.exchange("POST", path, body=json.dumps(tensors(RED)).encode())
    assert answer.status in {307, 404, 405}
    if answer.status != 307:
        assert isinstance(answer.json()["error"], str)


def test_requests_are_counted_and_logged_as_those_of_tasks(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    def count(status: int, task: str = "classify", model: str = "tiny-classifier") -> float:
        found = service.metric("imago_requests_total")
        return found.get(f'{{model="{model}",status="{status}",task="{task}"}}', 0.0)

    before = count(200), count(400), count(404, "tensors", "")
    with caplog.at_level("INFO", "imago.api"):
        answer = service.ask("POST", CLASSIFIER, json=tensors(RED), headers={"x-request-id": "abc"})
        service.post(CLASSIFIER, b"{}")
        service.post("/v2/models/unknown/infer", b"{}")
    assert (count(200), count(400), count(404, "tensors", "")) == tuple(number + 1 for number in before)
    assert f"POST {CLASSIFIER} 200" in caplog.text
    assert answer.headers["x-request-id"] == "abc"
    assert {part.split(";")[0].strip() for part in answer.headers["server-timing"].split(",")} == {
        "decode", "queue", "inference", "encode", "total",
    }  # fmt: skip


@pytest.fixture
def held(tmp_path: Path) -> Iterator[tuple[Held, Service]]:
    """A generator that answers when it is let, with a short queue."""
    model = Held()
    BACKENDS[model.name] = model.open  # type: ignore[index]
    model.model(tmp_path)
    model.may_open.set()
    service = Service(Settings(models=tmp_path, device="cpu", threads=1, request_timeout_seconds=10))
    model.hold()
    try:
        yield model, service
    finally:
        model.may_run.set()
        service.close()
        del BACKENDS[model.name]  # type: ignore[attr-defined]


HELD = "/v2/models/held-generator/infer"


def latent(**parameters: Any) -> bytes:
    inputs = [
        {"name": "class", "datatype": "INT64", "shape": [1], "data": [0]},
        {"name": "z", "datatype": "FP32", "shape": [1, 4], "data": [0, 0, 0, 0]},
    ]
    return json.dumps({"inputs": inputs, "parameters": parameters}).encode()


@pytest.mark.parametrize("by", ["parameter", "header"])
def test_a_request_that_waits_too_long_expires(held: tuple[Held, Service], by: str) -> None:
    model, service = held
    body = latent(timeout=60_000) if by == "parameter" else latent(timeout=0)
    headers = [(b"x-request-timeout-ms", b"60")] if by == "header" else []

    async def scenario() -> Answer:
        first = asyncio.create_task(exchange(service.app, "POST", HELD, chunks=[latent()]))
        await asyncio.to_thread(model.running.wait, 10)
        second = asyncio.create_task(exchange(service.app, "POST", HELD, headers=headers, chunks=[body]))
        loop = asyncio.get_running_loop()
        loop.call_later(0.2, model.may_run.set)
        answer, waited = await asyncio.gather(first, second)
        assert answer.status == 200
        return waited

    assert "deadline" in refused(service.run(scenario()), 504)


def test_a_caller_that_leaves_is_forgotten(held: tuple[Held, Service]) -> None:
    model, service = held

    async def scenario() -> None:
        first = asyncio.create_task(exchange(service.app, "POST", HELD, chunks=[latent()]))
        await asyncio.to_thread(model.running.wait, 10)
        gone = await exchange(service.app, "POST", HELD, chunks=[latent()], leave=True)
        assert gone.status == 0
        model.may_run.set()
        assert (await first).status == 200

    service.run(scenario())
    assert sum(service.metric("imago_cancelled_total").values()) == 1
    assert model.rows == [1]


def test_a_model_that_fails_says_nothing_of_why(held: tuple[Held, Service]) -> None:
    model, service = held
    model.failure = RuntimeError("secret")
    model.may_run.set()
    answer = service.exchange("POST", HELD, body=latent())
    assert "secret" not in refused(answer, 500)


def test_a_model_that_is_not_ready_says_so(tmp_path: Path) -> None:
    broken = make_classifier(tmp_path, name="broken") / "model.onnx"
    broken.write_bytes(broken.read_bytes()[:100])
    service = Service(Settings(models=tmp_path, device="cpu", threads=1))
    try:
        for answer in (service.post("/v2/models/broken/infer", b"{}"), service.get("/v2/models/broken/ready")):
            assert "cannot answer" in refused(answer, 503)
            assert int(answer.headers["retry-after"]) >= 1
        assert refused_ready(service.get("/v2/health/ready"))
    finally:
        service.close()


def refused_ready(answer: httpx.Response) -> bool:
    told = answer.json()
    return answer.status_code == 503 and told["ready"] is False and told["live"] is True and bool(told["error"])
