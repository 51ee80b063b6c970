"""Loading and unloading over HTTP: what the routes take, what they refuse, and that they are off by default."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.imaging.codec import encode_png
from app.settings import Settings
from tests.api.service import Service
from tests.make_models import make_classifier

NAME = "tiny-classifier"
LOAD, UNLOAD = (f"/v2/repository/models/{NAME}/{what}" for what in ("load", "unload"))
PICTURE = encode_png(np.zeros((8, 8, 3), np.uint8))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for version in (1, 2):
        make_classifier(tmp_path, version=version)
    return tmp_path


@pytest.fixture
def service(root: Path) -> Iterator[Service]:
    running = Service(Settings(models=root, device="cpu", threads=1, model_control=True))
    yield running
    running.close()


def answering(service: Service) -> tuple[int, str | None]:
    """Status, and the version that answered."""
    answer = service.post("/classify", PICTURE)
    return answer.status_code, answer.headers.get("x-model-version")


def policy(**versions: Any) -> dict[str, Any]:
    """The parameters that tritonclient sends for a configuration."""
    return {"parameters": {"config": json.dumps({"version_policy": versions})}}


def test_nobody_loads_or_unloads_where_the_operator_does_not_allow_it(root: Path) -> None:
    running = Service(Settings(models=root, device="cpu", threads=1))
    try:
        for path in (LOAD, UNLOAD, "/v2/repository/models/nobody/load"):
            refused = running.post(path)
            assert (refused.status_code, refused.json()["code"]) == (403, "model-control-off")
        assert answering(running) == (200, "2")
    finally:
        running.close()


@pytest.mark.parametrize("body", [b"", b"{}", b'{"parameters": {}}'])
def test_a_load_without_parameters_follows_what_is_on_disk(service: Service, root: Path, body: bytes) -> None:
    make_classifier(root, version=3)
    done = service.post(LOAD, body)
    assert (done.status_code, done.json()) == (200, {"name": NAME, "load": True})
    assert answering(service) == (200, "3")


def test_a_version_policy_chooses_versions_as_in_triton_s_configuration(service: Service) -> None:
    assert service.post(LOAD, json=policy(specific={"versions": [1]})).status_code == 200
    assert answering(service) == (200, "1")
    assert service.post(LOAD, json=policy(all={})).status_code == 200
    assert answering(service) == (200, "2")
    assert service.post(f"/classify?model={NAME}&version=1", PICTURE).status_code == 200
    assert service.post(LOAD, json=policy(latest={"num_versions": 1})).status_code == 200
    assert service.post(f"/classify?model={NAME}&version=1", PICTURE).status_code == 404


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"{", "not JSON"),
        (b"[]", "Input should be"),
        (b'{"parameters": {"conifg": "{}"}}', "did you mean 'config'"),
        (b'{"parameters": {"file:1/model.onnx": "AAAA"}}', "Files are not taken"),
        (b'{"parameters": {"config": "{"}}', "config"),
        (b'{"parameters": {"config": "{\\"max_batch_size\\": 4}"}}', "'max_batch_size' is unknown"),
        (b'{"parameters": {"config": "{\\"name\\": \\"other\\"}"}}', "for the model 'other'"),
        (json.dumps(policy(latest={"num_versions": 2})).encode(), "num_versions"),
        (json.dumps(policy(specific={"versions": []})).encode(), "versions"),
        (json.dumps(policy(specific={"versions": [10**30]})).encode(), "versions.0"),
    ],
)
def test_what_a_load_does_not_take_is_refused(service: Service, body: bytes, sentence: str) -> None:
    refused = service.post(LOAD, body)
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid-request")
    assert sentence in refused.json()["detail"]
    assert answering(service) == (200, "2")


def test_a_refused_load_says_why_in_its_answer_and_in_the_list_of_models(service: Service, root: Path) -> None:
    (make_classifier(root, version=3) / "model.onnx").write_bytes(b"no graph")
    refused = service.post(LOAD)
    assert (refused.status_code, refused.json()["code"]) == (400, "load-refused")
    assert "is not the file that was exported" in refused.json()["detail"]
    assert str(root) not in refused.text
    (model,) = service.get("/models").json()["models"]
    assert (model["version"], model["state"], model["versions"], model["loaded"]) == (2, "ready", [1, 2, 3], [2])
    newest, serving = model["states"]
    assert (newest["version"], newest["state"]) == (3, "failed")
    assert "is not the file that was exported" in newest["reason"]
    assert (serving["version"], serving["state"]) == (2, "ready")
    assert service.get("/readyz").status_code == 200
    assert answering(service) == (200, "2")


def test_a_model_that_was_unloaded_is_not_found_and_listed_as_unloaded(service: Service) -> None:
    done = service.post(UNLOAD, json={"parameters": {"unload_dependents": False}})
    assert (done.status_code, done.json()) == (200, {"name": NAME, "unload": True})
    assert answering(service)[0] == 404
    (model,) = service.get("/models").json()["models"]
    assert (model["state"], model["loaded"]) in (("unloading", []), ("unloaded", []))
    assert service.post(LOAD).status_code == 200
    assert answering(service) == (200, "2")


def test_a_model_that_does_not_exist_cannot_be_loaded(service: Service) -> None:
    for what in ("load", "unload"):
        refused = service.post(f"/v2/repository/models/nobody/{what}")
        assert (refused.status_code, refused.json()["code"]) == (404, "model-not-found")


def test_a_body_that_comes_slowly_is_answered_by_the_version_that_took_over_meanwhile(service: Service) -> None:
    """Nothing of it was looked at before."""

    async def chunks() -> Any:
        yield PICTURE[:10]
        await service.app.state.manages.load(NAME, (1,))
        yield PICTURE[10:]

    answer = service.post(f"/classify?model={NAME}", chunks())
    assert (answer.status_code, answer.headers["x-model-version"], answer.json()["version"]) == (200, "1", 1)


def test_a_version_is_asked_for_by_name_wherever_it_is_by_number(service: Service, root: Path) -> None:
    (root / NAME / "serving.toml").write_text("aliases = { stable = 1, next-one = 2 }\n")
    assert service.post(LOAD).status_code == 200
    assert answering(service) == (200, "1")
    for name, number in (("stable", "1"), ("next-one", "2")):
        for path in (f"/classify?model={NAME}&version={name}", f"/classify?version={name}"):
            answer = service.post(path, PICTURE)
            assert (answer.status_code, answer.headers["x-model-version"]) == (200, number)
            assert answer.json()["version"] == int(number)
        assert service.get(f"/models/{NAME}?version={name}").json()["version"] == int(number)
        (statistics,) = service.get(f"/v2/models/{NAME}/versions/{name}/stats").json()["model_stats"]
        assert statistics["version"] == number
    model = service.get(f"/models/{NAME}").json()
    assert (model["version"], model["aliases"]) == (1, {"stable": 1, "next-one": 2})
    for path in (f"/classify?version=nobody&model={NAME}", "/classify?version=nobody"):
        refused = service.post(path, PICTURE)
        assert (refused.status_code, refused.json()["code"]) == (404, "model-not-found")
    assert service.get(f"/models/{NAME}?version=nobody").status_code == 404


def test_a_canary_that_sticks_is_told_by_the_id_of_the_request_whichever_way_it_comes(
    service: Service, root: Path
) -> None:
    canary = 'canary = { version = 2, percent = 50, sticky = "request" }'
    (root / NAME / "serving.toml").write_text(f"aliases = {{ stable = 1 }}\n{canary}\n")
    assert service.post(LOAD).status_code == 200
    tensors = {
        "inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(PICTURE).decode()]}]
    }
    found = set()
    for number in range(20):
        asked = {"headers": {"X-Request-ID": f"visitor-{number}"}}
        answers = [service.post("/classify", PICTURE, **asked) for _ in range(3)]
        answers.append(service.post(f"/classify?model={NAME}", PICTURE, **asked))
        answers.append(service.post(f"/v2/models/{NAME}/infer", json=tensors, **asked))
        assert {answer.status_code for answer in answers} == {200}, answers[-1].text
        (version,) = {answer.headers["x-model-version"] for answer in answers}
        found.add(version)
    assert found == {"1", "2"}
    shown = service.get(f"/models/{NAME}").json()
    assert shown["canary"] == {"version": 2, "percent": 50, "sticky": "request"}
    assert (shown["shadow"], shown["version"]) == (None, 1)
