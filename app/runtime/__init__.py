"""Inference libraries, devices and threads. The one home of onnxruntime."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from app.errors import InvalidSettings
from app.manifest import nearest
from app.runtime.base import Device, Session
from app.runtime.cores import usable_cores
from app.runtime.gate import outside_files
from app.runtime.ort import OrtSession, available_device
from app.runtime.plan import Choices, Plan, Ready, make_ready
from app.runtime.plan_cache import PlanCache, plan_key

__all__ = [
    "BACKENDS",
    "Choices",
    "Device",
    "Plan",
    "PlanCache",
    "Ready",
    "Session",
    "available_device",
    "make_ready",
    "open_session",
    "outside_files",
    "plan_key",
    "usable_cores",
]

BACKENDS: Mapping[str, Callable[[bytes, Device, int, Mapping[str, bytes]], Session]] = {"onnxruntime": OrtSession}


def open_session(
    graph: bytes,
    device: Device = "cpu",
    threads: int = 0,
    backend: str = "onnxruntime",
    files: Mapping[str, bytes] = MappingProxyType({}),
) -> Session:
    """Open the bytes of a model file, and of the `files` in which it keeps tensors (see `outside_files`); `threads` 0
    means one for each usable core.

    Raises:
        InvalidModel: the backend does not take the graph.
        BackendMissing: the backend, or its part for this device, is not installed.
        InvalidSettings: no backend has this name.
    """
    if backend not in BACKENDS:
        raise InvalidSettings(f"Backend {backend!r} is unknown{nearest(backend, BACKENDS)}")
    return BACKENDS[backend](graph, device, threads, files)
