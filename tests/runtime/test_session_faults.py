"""What a failure means, by the texts that ONNX Runtime wrote; one of them provoked in a process with little memory."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from app.errors import DeviceLost, OutOfMemory
from app.runtime.faults import fault_of
from app.runtime.function import FunctionSession
from app.tensors import Tensors

NODE = "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Conv node. Name:'c' "
TEXTS = {
    # microsoft/onnxruntime#22702
    NODE + "Status Message: /onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:376 void* "
    "onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, onnxruntime::Stream*, bool, "
    "onnxruntime::WaitNotificationFn) Failed to allocate memory for requested buffer of size 4585490": OutOfMemory,
    NODE + "CUDA failure 2: out of memory ; GPU=0 ; hostname=h ; expr=cudaMalloc((void**)&p, size);": OutOfMemory,
    NODE + "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0 ; expr=cublasCreate(&handle);": OutOfMemory,
    "std::bad_alloc": OutOfMemory,
    # w-okada/voice-changer#1451
    "CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; hostname=h ; expr=cudaStreamSynchronize(s)":
        DeviceLost,
    NODE + "CUDA failure 719: unspecified launch failure ; GPU=0 ; hostname=h ; expr=cudaGetLastError()": DeviceLost,
    NODE + "CUDA failure 214: uncorrectable ECC error encountered ; GPU=0": DeviceLost,
    "CUDA failure 100: no CUDA-capable device is detected ; GPU=-1": DeviceLost,
    "CUDA failure 1: invalid argument ; GPU=0": None,
    "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Got invalid dimensions for input: x": None,
    "": None,
}  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_the_text_of_a_failure_says_what_it_means(text: str) -> None:
    fault = fault_of(RuntimeError(text))
    assert (fault and type(fault)) == TEXTS[text]
    assert fault is None or str(fault) == text


def test_a_function_that_has_no_memory_is_no_other_than_a_graph() -> None:
    def fail(tensors: Tensors) -> Tensors:
        raise MemoryError

    with pytest.raises(OutOfMemory):
        FunctionSession(fail, (), ()).run({})


IN_LITTLE_MEMORY = """
import resource, sys
import numpy as np
from app.errors import OutOfMemory
from app.runtime import open_session

session = open_session(open(sys.argv[1], "rb").read(), threads=1)
resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30, 3 * 2**30))
assert session.run({"x": np.ones((1, 1), np.float32)})["y"].shape == (1, 2**26)
try:
    session.run({"x": np.ones((64, 1), np.float32)})
except OutOfMemory as fault:
    print("out of memory:", type(fault.__cause__).__name__)
assert session.run({"x": np.ones((1, 1), np.float32)})["y"].shape == (1, 2**26)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on a process's memory is Linux's")
def test_a_batch_too_large_for_memory_is_told_so_by_a_real_graph_which_runs_on(tmp_path: Path) -> None:
    nodes = [helper.make_node("Expand", ["x", "shape"], ["y"])]
    shape = numpy_helper.from_array(np.int64([1, 2**26]), "shape")
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", width]) for name, width in (("x", 1), ("y", 2**26))
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [shape])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "large.onnx").write_bytes(model.SerializeToString())
    command = [sys.executable, "-c", IN_LITTLE_MEMORY, str(tmp_path / "large.onnx")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ran.stdout.startswith("out of memory:"), ran.stderr
    assert ran.returncode == 0
