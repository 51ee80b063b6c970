"""What is asked of NVIDIA's driver directly: which GPUs there are, and memory that they copy from quickly.

ONNX Runtime's Python interface offers neither. The calls are those of the CUDA driver API (`libcuda`).
"""

import ctypes
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from app.tensors import Tensor


def gpu_count() -> int:
    """How many GPUs the driver offers: an onnxruntime built for CUDA is no proof of one."""
    count = ctypes.c_int(0)
    driver = _driver()
    return count.value if driver is not None and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0


def gpu_name() -> str:
    """The name of the first GPU, empty without one."""
    name = ctypes.create_string_buffer(256)
    driver = _driver()
    if driver is None or driver.cuDeviceGetName(name, len(name), ctypes.c_int(0)) != 0:
        return ""
    return name.value.decode(errors="replace")


def pinned_array(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Tensor:
    """An array of zeros in page-locked memory, which a GPU reads and writes without a copy in between.

    Where the driver gives none, ordinary memory: slower, and as right.
    """
    size = max(1, int(np.prod(shape)) * dtype.itemsize)
    address = ctypes.c_void_p()
    with _context() as driver:
        if driver is None or driver.cuMemHostAlloc(ctypes.byref(address), ctypes.c_size_t(size), _PORTABLE) != 0:
            return np.zeros(shape, dtype)
    memory = (ctypes.c_ubyte * size).from_address(address.value or 0)
    weakref.finalize(memory, _free, address).atexit = False  # the driver itself may be gone by then
    array: Tensor = np.frombuffer(memoryview(memory), dtype, int(np.prod(shape))).reshape(shape)
    array[...] = 0
    return array


_PORTABLE = ctypes.c_uint(1)
"""CU_MEMHOSTALLOC_PORTABLE: page-locked for all contexts."""


def _free(address: ctypes.c_void_p) -> None:
    with _context() as driver:
        if driver is not None:
            driver.cuMemFreeHost(address)


@contextmanager
def _context() -> Iterator[ctypes.CDLL | None]:
    """The driver, with the first GPU's primary context (the one that ONNX Runtime uses) current in this thread."""
    driver, context = _driver(), ctypes.c_void_p()
    if driver is None or driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), ctypes.c_int(0)) != 0:
        yield None
        return
    try:
        yield driver if driver.cuCtxPushCurrent_v2(context) == 0 else None
    finally:
        driver.cuCtxPopCurrent_v2(ctypes.byref(context))
        driver.cuDevicePrimaryCtxRelease_v2(ctypes.c_int(0))


def _driver() -> ctypes.CDLL | None:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    return driver if driver.cuInit(0) == 0 else None
