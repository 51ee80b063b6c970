"""Sessions of ONNX Runtime, on CPU or CUDA: opened, run and closed. Buffers on a GPU: `app.runtime.binding`."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from app.errors import BackendMissing, InvalidModel
from app.runtime.base import Device
from app.runtime.binding import BoundRuns
from app.runtime.cores import usable_cores
from app.runtime.cuda import gpu_count
from app.runtime.faults import fault_of
from app.runtime.library import onnx_runtime
from app.runtime.memory import keep_large_blocks_apart, return_freed_memory
from app.tensors import Tensors, TensorSpec

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
    built = "CUDAExecutionProvider" in onnx_runtime().get_available_providers()
    return "cuda" if built and gpu_count() else "cpu"


class OrtSession:
    """One ONNX file, opened. ONNX Runtime releases the interpreter lock while it runs."""

    def __init__(
        self, graph: bytes, device: Device = "cpu", threads: int = 0, files: Mapping[str, bytes] = MappingProxyType({})
    ) -> None:
        self.device: Device = device
        self._session: Any = _open(graph, device, threads, files)
        if device == "cuda" and "CUDAExecutionProvider" not in self._session.get_providers():
            raise BackendMissing("CUDA was asked for and ONNX Runtime fell back to CPU: check driver, CUDA and cuDNN.")
        self.inputs = tuple(_spec(node) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(node) for node in self._session.get_outputs())
        self._names = [spec.name for spec in self.outputs]
        has_rows = all(spec.shape[:1] in ((None,), (1,)) for spec in (*self.inputs, *self.outputs))
        self._bound = (
            BoundRuns(self._session, self.inputs, self.outputs, device) if device == "cuda" and has_rows else None
        )

    def __repr__(self) -> str:
        return f"<OrtSession {self.device}: {', '.join(map(str, self.inputs))}>"

    def run(self, tensors: Tensors) -> Tensors:
        """Run one batch; the outputs are new arrays."""
        try:
            if self._bound is not None:
                return self._bound.run(tensors)
            return dict(zip(self._names, self._session.run(self._names, dict(tensors)), strict=True))
        except Exception as error:  # of classes that say little
            if (fault := fault_of(error)) is not None:
                raise fault from error
            raise

    def close(self) -> None:
        """Drop the session: ONNX Runtime frees memory with the last reference."""
        self._session = self._bound = None
        return_freed_memory()


def _open(graph: bytes, device: Device, threads: int, files: Mapping[str, bytes]) -> Any:
    keep_large_blocks_apart()
    options, providers = _options(threads), _providers(device)
    try:
        if files:  # from memory: what was checked is what is opened
            lengths = [len(content) for content in files.values()]
            options.add_external_initializers_from_files_in_memory(list(files), list(files.values()), lengths)
        session = onnx_runtime().InferenceSession(graph, options, providers, enable_fallback=0)
    except Exception as error:  # onnxruntime raises its own classes for each status, all straight from Exception
        raise InvalidModel(f"ONNX Runtime does not take the graph: {_first_line(error)}") from error
    # The Python object keeps the file for a fallback that is switched off here. This and the memory that opening left
    # behind are two thirds of what a session holds: a ResNet-50 of 97 MiB came to 334 MiB, and to 100 without them.
    session._model_bytes = None
    return_freed_memory()
    return session


def _options(threads: int) -> Any:
    """What all sessions share.

    Tried and left as it is: without memory patterns a session holds a fifth less and runs 3 to 10 % slower; without an
    arena it runs up to 12 % slower; an arena extended by what was asked for, and weights from the device's allocator,
    change nothing. Sessions cannot share weights: those of convolutions are laid out anew for each.
    """
    options = onnx_runtime().SessionOptions()
    options.intra_op_num_threads = threads or usable_cores()
    options.inter_op_num_threads = 1
    # Idle threads that spin steal the cores from decoding and from other models' sessions.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options


def _providers(device: Device) -> list[Any]:
    if device == "cpu":
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in onnx_runtime().get_available_providers():
        raise BackendMissing("CUDA was asked for and this onnxruntime is built without it: pip install 'imago[gpu]'.")
    onnx_runtime().preload_dlls()
    # EXHAUSTIVE, the default, searches for seconds at each new batch size.
    return [("CUDAExecutionProvider", {"cudnn_conv_algo_search": "HEURISTIC"}), "CPUExecutionProvider"]


def _spec(node: Any) -> TensorSpec:
    if node.type not in _DTYPES:
        raise InvalidModel(f"Tensor {node.name!r} has type {node.type}, which is not served.")
    shape = tuple(size if isinstance(size, int) else None for size in node.shape)
    return TensorSpec(node.name, np.dtype(_DTYPES[node.type]), shape)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:300] if str(error) else type(error).__name__
