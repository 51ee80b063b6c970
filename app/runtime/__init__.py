"""Inference libraries, devices and threads. The one home of onnxruntime."""

from collections.abc import Callable, Mapping

from app.errors import InvalidSettings
from app.manifest import nearest
from app.runtime.base import Device, Session
from app.runtime.ort import OrtSession, available_device

__all__ = ["BACKENDS", "Device", "Session", "available_device", "open_session"]

BACKENDS: Mapping[str, Callable[[bytes, Device, int], Session]] = {"onnxruntime": OrtSession}


def open_session(graph: bytes, device: Device = "cpu", threads: int = 0, backend: str = "onnxruntime") -> Session:
    """Open the bytes of a model file; `threads` 0 means one for each core.

    Raises:
        InvalidModel: the backend does not take the graph.
        BackendMissing: the backend, or its part for this device, is not installed.
        InvalidSettings: no backend has this name.
    """
    if backend not in BACKENDS:
        raise InvalidSettings(f"Backend {backend!r} is unknown{nearest(backend, BACKENDS)}")
    return BACKENDS[backend](graph, device, threads)
