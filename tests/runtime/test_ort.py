"""`OrtSession` on real, tiny graphs; `FunctionSession` beside it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from app.errors import BackendMissing, InvalidModel, InvalidSettings
from app.runtime import available_device, open_session
from app.runtime.base import Session
from app.runtime.function import FunctionSession
from app.tensors import TensorSpec
from tests.make_models import make_classifier


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return (make_classifier(tmp_path_factory.mktemp("models")) / "model.onnx").read_bytes()


def test_a_session_says_what_it_takes_and_gives(graph: bytes) -> None:
    session = open_session(graph)
    assert [str(spec) for spec in session.inputs] == ["image: uint8 [?,8,8,3]"]
    assert {spec.name for spec in session.outputs} >= {"probabilities", "cam"}
    assert session.device == "cpu"


@pytest.mark.parametrize("rows", [1, 3, 16])
def test_as_many_rows_come_back_as_went_in(graph: bytes, rows: int) -> None:
    outputs = open_session(graph, threads=1).run({"image": np.zeros((rows, 8, 8, 3), np.uint8)})
    assert {array.shape[0] for array in outputs.values()} == {rows}


def test_bytes_that_are_no_graph_are_refused() -> None:
    with pytest.raises(InvalidModel, match="ONNX Runtime does not take the graph"):
        open_session(b"no graph at all")


def test_an_unknown_backend_is_refused_and_the_known_named(graph: bytes) -> None:
    with pytest.raises(InvalidSettings, match="did you mean 'onnxruntime'"):
        open_session(graph, backend="onnxruntim")


def test_a_session_keeps_no_copy_of_its_file(graph: bytes) -> None:
    before = sys.getrefcount(graph)
    session = open_session(graph)
    assert sys.getrefcount(graph) == before
    session.close()


@pytest.mark.skipif(available_device() == "cuda", reason="CUDA can be used here")
def test_cuda_where_there_is_none_is_told_and_not_replaced_by_the_cpu(graph: bytes) -> None:
    with pytest.raises(BackendMissing, match="CUDA was asked for"):
        open_session(graph, "cuda")


def test_without_a_gpu_the_device_is_the_cpu() -> None:
    assert available_device() in ("cpu", "cuda")


def test_a_missing_onnxruntime_is_told_with_the_extras_that_bring_it(tmp_path: Path) -> None:
    blocked = tmp_path / "onnxruntime.py"
    blocked.write_text("raise ImportError('not installed')\n")
    command = [sys.executable, "-m", "app", "check", "--models", str(tmp_path)]
    ended = subprocess.run(
        command, env={"PYTHONPATH": str(tmp_path), "PATH": ""}, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 2
    assert "pip install 'imago[cpu]', or 'imago[gpu]'" in ended.stderr


def test_a_function_is_a_session() -> None:
    spec = TensorSpec("x", np.dtype(np.float32), (None, 2))
    session: Session = FunctionSession(lambda tensors: {"y": tensors["x"] + 1}, (spec,), (spec,))
    assert session.run({"x": np.zeros((1, 2), np.float32)})["y"].tolist() == [[1, 1]]
    session.close()
