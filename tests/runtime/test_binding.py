"""Bound, padded runs, carried out on the CPU: the same code drives a GPU."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from app.runtime.binding import BoundRuns, bucket
from app.runtime.cuda import gpu_count, gpu_name, pinned_array
from app.runtime.ort import OrtSession
from app.runtime.probe import noise
from app.tensors import Tensors
from tests.make_models import make_classifier, make_generator, make_segmenter


def graph_of(nodes: list[object], inputs: list[object], outputs: list[object]) -> bytes:
    graph = helper.make_graph(nodes, "tiny", inputs, outputs)
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )


def value(name: str, shape: list[str | int], dtype: int = TensorProto.FLOAT) -> object:
    return helper.make_tensor_value_info(name, dtype, shape)


def bound(graph: bytes) -> tuple[OrtSession, BoundRuns]:
    plain = OrtSession(graph, threads=1)
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return plain, BoundRuns(session, plain.inputs, plain.outputs, "cpu")


def assert_same(left: Tensors, right: Tensors) -> None:
    assert set(left) == set(right)
    for name, array in left.items():
        assert array.dtype == right[name].dtype
        np.testing.assert_allclose(array, right[name], rtol=1e-6)


@pytest.mark.parametrize(("rows", "size"), [(1, 1), (2, 2), (3, 4), (5, 8), (8, 8), (9, 16), (64, 64)])
def test_a_batch_runs_in_the_next_power_of_two(rows: int, size: int) -> None:
    assert bucket(rows) == size


@pytest.mark.parametrize("make", [make_classifier, make_segmenter, make_generator])
@pytest.mark.parametrize("rows", [1, 2, 3, 7, 8])
def test_padded_and_bound_runs_answer_as_plain_ones_do(tmp_path: Path, make: object, rows: int) -> None:
    assert callable(make)
    plain, runs = bound((make(tmp_path) / "model.onnx").read_bytes())
    batch = noise(plain.inputs, rows)
    for _ in range(2):  # the second run finds buffers that the first one left
        assert_same(runs.run(batch), plain.run(batch))


def test_the_graph_meets_powers_of_two_only() -> None:
    """`seen` is the batch size that the graph had before it, for each row."""
    graph = graph_of(
        [
            helper.make_node("Constant", [], ["zero"], value_float=0.0),
            helper.make_node("Mul", ["x", "zero"], ["zeros"]),
            helper.make_node("Shape", ["x"], ["shape"], start=0, end=1),
            helper.make_node("Cast", ["shape"], ["size"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["zeros", "size"], ["seen"]),
        ],
        [value("x", ["N", 1])],
        [value("seen", ["N", 1])],
    )
    _, runs = bound(graph)
    seen = [runs.run({"x": np.zeros((rows, 1), np.float32)})["seen"].ravel().tolist() for rows in (1, 3, 4, 5)]
    assert seen == [[1], [4] * 3, [4] * 4, [8] * 5]


@pytest.mark.parametrize("shape", [["N", "width"], ["N", 3]], ids=["free-width", "fixed-width"])
def test_sizes_that_the_graph_leaves_open_are_answered(shape: list[str | int]) -> None:
    """`doubled` has a known size, `wide` one that only a run tells; a free width changes from run to run."""
    graph = graph_of(
        [helper.make_node("Concat", ["x", "x"], ["wide"], axis=1), helper.make_node("Add", ["x", "x"], ["doubled"])],
        [value("x", shape)],
        [value("wide", ["N", "any"]), value("doubled", shape)],
    )
    plain, runs = bound(graph)
    for rows, width in ((3, 3), (5, 4 if shape[1] == "width" else 3), (3, 3)):
        batch = {"x": np.random.default_rng(rows).standard_normal((rows, width), dtype=np.float32)}
        assert_same(runs.run(batch), plain.run(batch))


def test_answers_stay_what_they_were_when_the_buffers_are_used_again(tmp_path: Path) -> None:
    _, runs = bound((make_classifier(tmp_path) / "model.onnx").read_bytes())
    dark = runs.run({"image": np.zeros((2, 8, 8, 3), np.uint8)})
    before = {name: array.copy() for name, array in dark.items()}
    runs.run({"image": np.full((2, 8, 8, 3), 255, np.uint8)})
    assert_same(dark, before)


def test_callers_at_once_have_buffers_of_their_own(tmp_path: Path) -> None:
    plain, runs = bound((make_segmenter(tmp_path) / "model.onnx").read_bytes())
    random = np.random.default_rng(3)
    batches = [{"image": random.integers(0, 256, (1 + call % 3, 8, 8, 3), dtype=np.uint8)} for call in range(60)]
    together = threading.Barrier(4)

    def run(batch: Tensors) -> Tensors:
        together.wait(timeout=30)
        return runs.run(batch)

    with ThreadPoolExecutor(4) as threads:
        for answer, batch in zip(threads.map(run, batches), batches, strict=True):
            assert_same(answer, plain.run(batch))


def test_a_batch_that_fails_leaves_the_next_one_whole(tmp_path: Path) -> None:
    plain, runs = bound((make_classifier(tmp_path) / "model.onnx").read_bytes())
    with pytest.raises(ValueError, match="broadcast"):
        runs.run({"image": np.zeros((2, 9, 9, 3), np.uint8)})
    batch = noise(plain.inputs, 2)
    assert_same(runs.run(batch), plain.run(batch))


def test_page_locked_arrays_are_arrays_of_zeros_with_or_without_a_gpu() -> None:
    array = pinned_array((3, 2), np.dtype(np.float16))
    assert array.shape == (3, 2)
    assert array.dtype == np.float16
    assert not array.any()
    array[1] = 2
    assert array.sum() == 4


def test_a_gpu_has_a_name_and_none_has_none() -> None:
    assert bool(gpu_name()) == bool(gpu_count())


def test_telemetry_is_off_before_the_library_is_loaded() -> None:
    code = (
        "import app.runtime.binding, os, sys\n"
        "assert 'onnxruntime' in sys.modules\n"
        "print(os.environ['ORT_DISABLE_TELEMETRY'])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, env={})
    assert ended.stdout.strip() == "1"
