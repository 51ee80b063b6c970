"""Sessions of ONNX Runtime, on CPU or CUDA."""

import ctypes
import os
from typing import Any, Final

import numpy as np

from app.errors import BackendMissing, InvalidModel
from app.runtime.base import Device
from app.tensors import Tensors, TensorSpec

# Since 1.29 ONNX Runtime reports to Microsoft unless told otherwise before its library is loaded (microsoft/onnxruntime
# #27379): digests and names of models included. What runs here is nobody else's business; who disagrees sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

try:
    import onnxruntime as ort
except ImportError:  # the base install has no inference library: it comes with an extra
    ort = None

_DTYPES: Final = {
    "tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8, "tensor(int8)": np.int8, "tensor(uint16)": np.uint16, "tensor(int16)": np.int16,
    "tensor(uint32)": np.uint32, "tensor(int32)": np.int32, "tensor(uint64)": np.uint64, "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}  # fmt: skip


def available_device() -> Device:
    """`cuda` where the installed onnxruntime can use one, `cpu` elsewhere.

    Raises:
        BackendMissing: onnxruntime is not installed.
    """
    built = "CUDAExecutionProvider" in _require().get_available_providers()
    return "cuda" if built and _cuda_devices() else "cpu"


class OrtSession:
    """One ONNX file, opened. ONNX Runtime releases the interpreter lock while it runs."""

    def __init__(self, graph: bytes, device: Device = "cpu", threads: int = 0) -> None:
        runtime = _require()
        self.device: Device = device
        try:
            self._session: Any = runtime.InferenceSession(
                graph, sess_options=_options(threads), providers=_providers(device)
            )
        except Exception as error:  # onnxruntime raises its own classes for each status, all straight from Exception
            raise InvalidModel(f"ONNX Runtime does not take the graph: {_first_line(error)}") from error
        if device == "cuda" and "CUDAExecutionProvider" not in self._session.get_providers():
            raise BackendMissing("CUDA was asked for and ONNX Runtime fell back to CPU: check driver, CUDA and cuDNN.")
        self.inputs = tuple(_spec(node) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(node) for node in self._session.get_outputs())
        self._names = [spec.name for spec in self.outputs]

    def __repr__(self) -> str:
        return f"<OrtSession {self.device}: {', '.join(map(str, self.inputs))}>"

    def run(self, tensors: Tensors) -> Tensors:
        """Run one batch; the outputs are new arrays."""
        return dict(zip(self._names, self._session.run(self._names, dict(tensors)), strict=True))

    def close(self) -> None:
        """Drop the session: ONNX Runtime frees memory with the last reference."""
        self._session = None


def _require() -> Any:
    if ort is None:
        raise BackendMissing(
            "onnxruntime is not installed: pip install 'imago[cpu]', or 'imago[gpu]' on a machine with an NVIDIA GPU."
        )
    return ort


def _cuda_devices() -> int:
    """How many GPUs the driver offers (CUDA driver API): an onnxruntime built for CUDA is no proof of one."""
    count = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    asked = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    return count.value if asked else 0


def _options(threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or os.cpu_count() or 1
    options.inter_op_num_threads = 1
    # Idle threads that spin steal the cores from decoding and from other models' sessions.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options


def _providers(device: Device) -> list[Any]:
    if device == "cpu":
        return ["CPUExecutionProvider"]
    ort.preload_dlls()
    # EXHAUSTIVE, the default, searches for seconds at each new batch size.
    return [("CUDAExecutionProvider", {"cudnn_conv_algo_search": "HEURISTIC"}), "CPUExecutionProvider"]


def _spec(node: Any) -> TensorSpec:
    if node.type not in _DTYPES:
        raise InvalidModel(f"Tensor {node.name!r} has type {node.type}, which is not served.")
    shape = tuple(size if isinstance(size, int) else None for size in node.shape)
    return TensorSpec(node.name, np.dtype(_DTYPES[node.type]), shape)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:300] if str(error) else type(error).__name__
