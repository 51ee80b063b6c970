"""What the Open Inference Protocol v2 tells of server, models, configuration and statistics, as its clients read it."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from app.settings import Settings
from tests.api.service import Service
from tests.imaging.pictures import noise, save
from tests.make_models import make_classifier

PICTURE = save(noise(9, 9))
RAW = {"inference-header-content-length": "0"}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One model with two versions, one with a broken graph, one whose name is taken."""
    root = tmp_path_factory.mktemp("mixed")
    for version in (1, 2):
        make_classifier(root, name="twice", version=version)
    (root / "twice" / "serving.toml").write_text('versions = "all"\nmax_queue_delay_ms = 1.5\n', encoding="utf-8")
    broken = make_classifier(root, name="broken") / "model.onnx"
    broken.write_bytes(broken.read_bytes()[:100])
    make_classifier(root, name="stats")
    running = Service(Settings(models=root, device="cpu", threads=1, request_timeout_seconds=7))
    yield running
    running.close()


def test_the_server_names_itself_and_what_it_can_do(service: Service) -> None:
    for path in ("/v2", "/v2/"):
        told = service.get(path).json()
        assert (told["name"], told["version"]) == ("imago", "0.1.0")
        assert {"statistics", "binary_tensor_data", "classification", "model_configuration"} <= set(told["extensions"])


def test_health_has_the_members_that_clients_read(service: Service) -> None:
    assert service.get("/v2/health/live").json() == {"live": True}
    assert service.get("/v2/health/ready").json() == {"live": True, "ready": True}
    assert service.get("/v2/models/tiny-segmenter/ready").json() == {"name": "tiny-segmenter", "ready": True}


def test_a_model_tells_its_tensors_with_their_rows(service: Service) -> None:
    told = service.get("/v2/models/tiny-generator").json()
    assert told == {
        "name": "tiny-generator",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [
            {"name": "z", "datatype": "FP32", "shape": [-1, 4]},
            {"name": "class", "datatype": "INT64", "shape": [-1]},
        ],
        "outputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, 8, 8, 3]}],
    }
    assert service.get("/v2/models/tiny-generator/versions/1").json() == told


def test_every_version_that_answers_is_told(mixed: Service) -> None:
    assert mixed.get("/v2/models/twice").json()["versions"] == ["1", "2"]
    for version in ("1", "2"):
        path = f"/v2/models/twice/versions/{version}"
        assert mixed.post(f"{path}/infer", PICTURE, headers=RAW).headers["x-model-version"] == version
    assert mixed.post("/v2/models/twice/infer", PICTURE, headers=RAW).headers["x-model-version"] == "2"


@pytest.mark.parametrize("name", ["tiny-classifier", "tiny-segmenter", "tiny-generator"])
def test_a_configuration_has_what_perf_analyzer_reads(service: Service, name: str) -> None:
    config = service.get(f"/v2/models/{name}/config").json()
    metadata = service.get(f"/v2/models/{name}").json()
    assert (config["name"], config["platform"]) == (name, "onnxruntime_onnx")
    assert config["max_batch_size"] >= 1
    assert "dynamic_batching" in config
    assert not {"sequence_batching", "ensemble_scheduling", "model_transaction_policy"} & config.keys()
    assert config["response_cache"] == {"enable": False}
    for configured, told in ((config["input"], metadata["inputs"]), (config["output"], metadata["outputs"])):
        assert [entry["name"] for entry in configured] == [entry["name"] for entry in told]
        assert [entry["data_type"] for entry in configured] == [f"TYPE_{entry['datatype']}" for entry in told]
        for entry, tensor in zip(configured, told, strict=True):
            assert entry.get("reshape", {"shape": entry["dims"]})["shape"] == tensor["shape"][1:]
            assert entry["dims"]
    assert all((entry["optional"], entry["is_shape_tensor"]) == (False, False) for entry in config["input"])


def test_a_configuration_tells_what_the_operator_chose(mixed: Service) -> None:
    config = mixed.get("/v2/models/twice/versions/1/config").json()
    assert config["version_policy"] == {"all": {}}
    assert config["dynamic_batching"]["max_queue_delay_microseconds"] == 1500
    assert config["dynamic_batching"]["default_queue_policy"]["default_timeout_microseconds"] == 7_000_000
    assert {entry["name"] for entry in config["output"] if entry["label_filename"]} == {"probabilities"}


def stats(service: Service, path: str = "tiny-classifier/stats") -> dict[str, Any]:
    (found,) = service.get(f"/v2/models/{path}").json()["model_stats"]
    assert isinstance(found, dict)
    return found


def test_statistics_count_requests_rows_runs_and_failures(service: Service) -> None:
    def numbers() -> list[int]:
        found = stats(service)
        stages = found["inference_stats"]
        assert stages["success"]["count"] == stages["queue"]["count"] == stages["compute_infer"]["count"]
        assert stages["compute_input"]["count"] == stages["compute_output"]["count"] == stages["success"]["count"]
        assert stages["cache_hit"] == stages["cache_miss"] == {"count": 0, "ns": 0}
        assert found["inference_count"] == sum(one["batch_size"] * runs(one) for one in found["batch_stats"])
        assert found["execution_count"] == sum(map(runs, found["batch_stats"]))
        return [stages["success"]["count"], stages["fail"]["count"], found["inference_count"], found["execution_count"]]

    def runs(batch: dict[str, Any]) -> int:
        counts = {batch[stage]["count"] for stage in ("compute_input", "compute_infer", "compute_output")}
        assert len(counts) == 1
        return int(counts.pop())

    before = numbers()
    rows = {"name": "image", "datatype": "UINT8", "shape": [3, 8, 8, 3], "data": [7] * 576}
    assert service.ask("POST", "/v2/models/tiny-classifier/infer", json={"inputs": [rows]}).status_code == 200
    assert service.post("/classify", PICTURE).status_code == 200
    assert service.post("/v2/models/tiny-classifier/infer", b"{}").status_code == 400
    assert service.post("/classify?model=tiny-classifier", b"x").status_code == 415
    assert [after - then for after, then in zip(numbers(), before, strict=True)] == [2, 2, 4, 2]


def test_statistics_are_whole_numbers_that_add_up(service: Service) -> None:
    service.post("/v2/models/tiny-classifier/infer", PICTURE, headers=RAW)
    text = service.get("/v2/models/tiny-classifier/stats").text
    assert not re.search(r"\d\.\d|\de", text.replace('"tiny-classifier"', ""))
    stages = stats(service)["inference_stats"]
    parts = sum(stages[stage]["ns"] for stage in ("queue", "compute_input", "compute_infer", "compute_output"))
    assert 0 < parts <= stages["success"]["ns"]
    assert stats(service)["last_inference"] > 1_700_000_000_000


def test_statistics_are_of_one_version(mixed: Service) -> None:
    mixed.post("/v2/models/twice/versions/1/infer", PICTURE, headers=RAW)
    before = stats(mixed, "twice/versions/2/stats")["inference_count"]
    mixed.post("/v2/models/twice/versions/1/infer", PICTURE, headers=RAW)
    assert stats(mixed, "twice/versions/2/stats")["inference_count"] == before
    told = mixed.get("/v2/models/twice/stats").json()["model_stats"]
    assert [(entry["name"], entry["version"]) for entry in told] == [("twice", "1"), ("twice", "2")]
    assert mixed.get("/v2/models/stats").json()["model_stats"] == told[::-1]


def test_the_index_tells_the_state_of_every_version(mixed: Service) -> None:
    told = mixed.post("/v2/repository/index", b"").json()
    assert [(entry["name"], entry.get("version"), entry["state"]) for entry in told] == [
        ("broken", "1", "UNAVAILABLE"), ("stats", None, "UNAVAILABLE"),
        ("twice", "2", "READY"), ("twice", "1", "READY"),
    ]  # fmt: skip
    assert all(bool(entry.get("reason")) == (entry["state"] == "UNAVAILABLE") for entry in told)
    ready = mixed.ask("POST", "/v2/repository/index", json={"ready": True}).json()
    assert {entry["name"] for entry in ready} == {"twice"}


@pytest.mark.parametrize("body", [b"[]", b"x", b'{"ready": 1}', b"[" * 250_000])
def test_an_index_that_is_asked_for_wrongly_is_refused(service: Service, body: bytes) -> None:
    answer = service.post("/v2/repository/index", body)
    assert answer.status_code == 400
    assert isinstance(answer.json()["error"], str)


def test_errors_of_the_framework_have_the_member_that_clients_read(service: Service) -> None:
    for method, path, status in (("GET", "/v2/none", 404), ("GET", "/v2/repository/index", 405), ("PUT", "/v2", 405)):
        answer = service.ask(method, path)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
        assert isinstance(answer.json()["error"], str)
    assert "error" not in service.get("/none").json()
