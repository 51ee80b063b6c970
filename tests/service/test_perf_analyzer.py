"""What Triton's perf_analyzer asks of a server, in its order, and what it would read; itself, where it is installed.

`perf_analyzer` lies in the manylinux wheel of tritonclient 2.45.0 and needs `libb64-0d` and `libcudart.so.12`.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from benchmarks.server import Server, running_server
from tests.make_models import make_classifier, make_generator, make_segmenter
from tests.service.processes import until

MODELS = ("inline", "engine", "generator")
STAGES = ("success", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")
SIZES = {"UINT8": np.uint8, "INT64": np.int64, "FP32": np.float32}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("models")
    make_classifier(root, name="inline")
    make_segmenter(root, name="engine")
    make_generator(root, name="generator")
    (root / "engine" / "serving.toml").write_text("concurrency = 1\n")
    with running_server(root, "--workers", "2", "--log-level", "error") as running:
        yield running


@pytest.mark.parametrize("model", MODELS)
def test_its_calls_get_what_it_reads(server: Server, model: str) -> None:
    with httpx.Client(base_url=f"{server.url}/v2") as client:
        metadata = got(client, f"/models/{model}")
        config = got(client, f"/models/{model}/config")
        check_model(model, metadata, config)
        assert "statistics" in got(client, "")["extensions"]
        before = statistics(client, model)
        for _ in range(5):
            infer(client, model, metadata)
        until(lambda: counted(statistics(client, model)) == counted(before) + 5)
        after = statistics(client, model)
        for stage in STAGES[:-2]:
            assert after["inference_stats"][stage]["ns"] >= before["inference_stats"][stage]["ns"]
        assert after["inference_count"] == before["inference_count"] + 5


def got(client: httpx.Client, path: str) -> Any:
    answer = client.get(path)
    assert answer.status_code == 200
    return answer.json()


def check_model(model: str, metadata: dict[str, Any], config: dict[str, Any]) -> None:
    """It gives up where a configured input is not in the metadata, or a field is of another type."""
    assert (metadata["name"], config["name"]) == (model, model)
    assert all(isinstance(version, str) for version in metadata["versions"])
    assert isinstance(config["platform"], str)
    assert config["platform"] != "ensemble"
    assert isinstance(config["max_batch_size"], int)
    assert "dynamic_batching" in config
    assert "sequence_batching" not in config
    assert config["response_cache"]["enable"] is False
    shapes = {tensor["name"]: tensor["shape"] for tensor in metadata["inputs"]}
    for entry in config["input"]:
        assert (entry["optional"], entry["is_shape_tensor"]) == (False, False)
        assert shapes[entry["name"]][0] == -1, "the rows, as it divides by them"
        assert -1 not in shapes[entry["name"]][1:], "it would ask for --shape"
    assert [entry["name"] for entry in config["output"]] == [tensor["name"] for tensor in metadata["outputs"]]


def statistics(client: httpx.Client, model: str) -> dict[str, Any]:
    """The statistics of a model, read as without guards."""
    (found,) = got(client, f"/models/{model}/stats")["model_stats"]
    assert (found["name"], int(found["version"])) == (model, 1)
    for stage in STAGES:
        assert all(isinstance(found["inference_stats"][stage][key], int) for key in ("count", "ns"))
    counts = {stage: found["inference_stats"][stage]["count"] for stage in STAGES}
    assert len({counts[stage] for stage in ("compute_input", "compute_infer", "compute_output")}) == 1
    assert counts["success"] == counts["queue"] == counts["compute_infer"] + counts["cache_hit"]
    assert isinstance(found["execution_count"], int)
    return dict(found)


def counted(found: dict[str, Any]) -> int:
    return int(found["inference_stats"]["success"]["count"])


def infer(client: httpx.Client, model: str, metadata: dict[str, Any]) -> None:
    """Post as Triton's C++ client does: an empty id, all tensors after the JSON, all outputs binary."""
    inputs, buffers = [], []
    for tensor in metadata["inputs"]:
        data = np.zeros([1, *tensor["shape"][1:]], SIZES[tensor["datatype"]])
        buffers.append(data.tobytes())
        size = {"binary_data_size": len(buffers[-1])}
        inputs.append({"name": tensor["name"], "datatype": tensor["datatype"], "shape": data.shape, "parameters": size})
    outputs = [{"name": tensor["name"], "parameters": {"binary_data": True}} for tensor in metadata["outputs"]]
    head = json.dumps({"id": "", "inputs": inputs, "outputs": outputs}).encode()
    answer = client.post(
        f"/models/{model}/infer",
        content=b"".join([head, *buffers]),
        headers={"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"},
    )
    assert answer.status_code == 200, answer.text
    length = int(answer.headers["inference-header-content-length"])
    told = json.loads(answer.content[:length])
    assert [output["name"] for output in told["outputs"]] == [output["name"] for output in outputs]
    sizes = [output["parameters"]["binary_data_size"] for output in told["outputs"]]
    assert length + sum(sizes) == len(answer.content) == int(answer.headers["content-length"])


@pytest.mark.skipif(shutil.which("perf_analyzer") is None, reason="perf_analyzer is not on the PATH")
def test_it_reports_what_the_server_says(server: Server) -> None:
    url = server.url.removeprefix("http://")
    windows = ["--measurement-mode", "count_windows", "--measurement-request-count", "50", "-s", "999"]
    command = ["perf_analyzer", "-m", "engine", "-u", url, "--concurrency-range", "2", *windows]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in (done.stdout + done.stderr).lower()
    assert re.search(r"Server: \s+Inference count: [1-9]", done.stdout)
