"""ONNX files in Triton's layout, without a manifest: tensors over protocol v2, and nothing else."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from app.settings import Settings
from tests.api.service import Service
from tests.make_plain import Nodes, doubled, graph, put


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("plain")
    put(root, "rows", doubled("N", 3))
    (root / "rows" / "config.pbtxt").write_text('name: "rows"')
    put(root, "fixed", doubled(1, 3))
    put(root, "open", doubled(2, "width"))
    sums: Nodes = [("Mul", "x scale", "scaled"), ("ReduceSum", "scaled", "total")]
    put(root, "mixed", graph(sums, {"x": ["N", 3], "scale": []}, {"total": [1, 1]}))
    put(root, "scalar", doubled())
    put(root, "log", graph([("Log", "x", "y")], {"x": ["N", 1]}, {"y": ["N", 1]}))
    put(root, "flat", graph([("Reshape", "x [-1]", "y")], {"x": ["N", 3]}, {"y": ["M"]}))
    return root


def served(root: Path, **settings: Any) -> Service:
    return Service(Settings(models=root, device="cpu", threads=1, plain_models=True, model_control=True, **settings))


@pytest.fixture(scope="module")
def service(root: Path) -> Iterator[Service]:
    running = served(root)
    yield running
    running.close()


def infer(service: Service, name: str, **inputs: Any) -> Any:
    """The outputs, by name; the answer where it is a refusal."""
    arrays = {key: np.asarray(value, np.float32) for key, value in inputs.items()}
    told = [
        {"name": key, "datatype": "FP32", "shape": list(array.shape), "data": array.ravel().tolist()}
        for key, array in arrays.items()
    ]
    answer = service.post(f"/v2/models/{name}/infer", json={"inputs": told})
    if answer.status_code != 200:
        return answer
    outputs = answer.json()["outputs"]
    return {output["name"]: np.array(output["data"], np.float32).reshape(output["shape"]) for output in outputs}


def test_rows_of_a_varying_first_axis_are_served_in_any_number(service: Service) -> None:
    x = np.arange(12).reshape(4, 3)
    assert np.array_equal(infer(service, "rows", x=x)["y"], 2 * x)
    told = service.get("/v2/models/rows").json()
    assert told["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}]
    assert service.get("/v2/models/rows/config").json()["max_batch_size"] >= 1


@pytest.mark.parametrize(
    ("name", "shape", "shown"), [("fixed", (1, 3), [1, 3]), ("open", (2, 5), [2, -1]), ("scalar", (), [])]
)
def test_a_graph_without_rows_takes_and_gives_exactly_its_own_shapes(
    service: Service, name: str, shape: tuple[int, ...], shown: list[int]
) -> None:
    x = np.full(shape, 3, np.float32)
    found = infer(service, name, x=x)["y"]
    assert found.shape == shape
    assert np.array_equal(found, 2 * x)
    told = service.get(f"/v2/models/{name}").json()
    assert [tensor["shape"] for tensor in (*told["inputs"], *told["outputs"])] == [shown, shown]
    config = service.get(f"/v2/models/{name}/config").json()
    assert (config["max_batch_size"], config["input"][0]["dims"]) == (0, shown or [1])
    raw = service.post(f"/v2/models/{name}/infer", x.tobytes(), headers={"Inference-Header-Content-Length": "0"})
    head = json.loads(raw.content[: int(raw.headers["inference-header-content-length"])])
    assert head["outputs"][0]["shape"] == list(shape)
    assert np.array_equal(np.frombuffer(raw.content[-x.nbytes :], np.float32), np.full(x.size, 6))


def test_inputs_without_rows_need_not_be_of_equal_length(service: Service) -> None:
    assert infer(service, "mixed", x=np.ones((5, 3)), scale=2)["total"].tolist() == [[30]]


@pytest.mark.parametrize(
    ("name", "shape", "right"),
    [("fixed", (2, 3), "[1,3]"), ("fixed", (3,), "[1,3]"), ("open", (3, 5), "[2,?]"), ("scalar", (1,), "[]"),
     ("rows", (1, 4), "[N,3]")],
)  # fmt: skip
def test_another_shape_is_refused_with_the_right_one(
    service: Service, name: str, shape: tuple[int, ...], right: str
) -> None:
    refused = infer(service, name, x=np.ones(shape))
    assert refused.status_code == 400
    assert f"takes the shape {right}" in refused.json()["error"]


def test_elements_of_what_has_no_rows_are_not_classified(service: Service) -> None:
    x = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}
    asked = {"inputs": [x], "outputs": [{"name": "y", "parameters": {"classification": 1}}]}
    refused = service.post("/v2/models/fixed/infer", json=asked)
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid-request")


def test_answers_need_not_be_finite(service: Service) -> None:
    """The noise of the warm-up is negative as often as not."""
    assert np.isnan(infer(service, "log", x=[[-1.0], [1.0]])["y"]).tolist() == [[True], [False]]


def test_a_graph_whose_outputs_do_not_follow_its_rows_is_refused(service: Service) -> None:
    told = service.get("/models/flat").json()
    assert (told["state"], told["reason"]) == ("failed", "Output 'y' of 1 rows of noise is not 1 rows.")
    assert infer(service, "flat", x=np.ones((2, 3))).status_code == 503


def test_it_is_shown_as_tensors_and_answers_no_task(service: Service) -> None:
    told = service.get("/models/rows").json()
    assert (told["task"], told["inputs"], told["labels"]) == ("tensors", ["x: float32 [?,3]"], [])
    assert service.get("/models/fixed").json()["inputs"] == ["x: float32 [1,3]"]
    refused = service.post("/classify?model=rows", b"x")
    assert refused.json()["code"] == "wrong-task"
    assert "post to /v2/models/rows/infer" in refused.json()["detail"]
    assert "rows" not in json.dumps(service.get("/tasks").json())


def test_nobody_sees_them_where_the_operator_did_not_ask_for_them(root: Path) -> None:
    running = Service(Settings(models=root, device="cpu", threads=1))
    try:
        assert running.get("/models").json() == {"models": []}
        assert running.get("/v2/models/rows").status_code == 404
    finally:
        running.close()


Start = Callable[[], Service]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a service over a folder of the test's own."""
    started: list[Service] = []

    def begin() -> Service:
        started.append(served(tmp_path))
        return started[-1]

    yield begin
    for one in started:
        one.close()


def test_weights_beside_the_graph_are_read(tmp_path: Path, start: Start) -> None:
    model = graph([("Mul", "x weights", "y")], {"x": ["N", 3]}, {"y": ["N", 3]})
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 2, 3], np.float32), "weights"))
    put(tmp_path, "beside", model, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert infer(start(), "beside", x=[[1, 1, 1]])["y"].tolist() == [[1, 2, 3]]


def test_another_file_in_the_place_of_the_first_is_loaded_and_swapped(tmp_path: Path, start: Start) -> None:
    folder = put(tmp_path, "rows", doubled("N", 3))
    service = start()
    assert infer(service, "rows", x=[[1, 1, 1]])["y"].tolist() == [[2, 2, 2]]
    onnx.save(graph([("Add", "x two", "y")], {"x": ["N", 3]}, {"y": ["N", 3]}), folder / "model.onnx")
    assert service.post("/v2/repository/models/rows/load").status_code == 200
    assert infer(service, "rows", x=[[1, 1, 1]])["y"].tolist() == [[3, 3, 3]]


def test_versions_of_tensors_shadow_one_another(tmp_path: Path, start: Start) -> None:
    for version in (1, 2):
        put(tmp_path, "fixed", doubled(1, 3), version)
    (tmp_path / "fixed" / "serving.toml").write_text("aliases = { stable = 1 }\nshadow = { version = 2 }\n")
    service = start()
    assert infer(service, "fixed", x=[[1, 1, 1]])["y"].tolist() == [[2, 2, 2]]
    wanted = 'imago_shadow_agreement_sum{model="fixed",task="tensors"} 1.0'
    looks = (service.get("/metrics").text for _ in range(200))  # the loop runs while it is asked
    assert any(wanted in look for look in looks)
