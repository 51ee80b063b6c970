"""What a session's failure means, where it is not the fault of the batch: told by the text, since ONNX Runtime has one
class for all of these, and says no more (microsoft/onnxruntime#16307)."""

import re
from typing import Final

from app.errors import DeviceLost, OutOfMemory, SessionFault

_CUDA: Final = re.compile(r"CUDA failure (\d+):")
_CUDA_MEMORY: Final = 2
_CUDA_LOST: Final = frozenset((46, 100, 101, 214, 220, 700, 702, 709, 710, *range(714, 722), 802, 999))
"""Numbers of `cudaError_t` after which "the process must be terminated and relaunched" (CUDA Runtime API, section on
data types), or the device is not there (any more)."""
_MEMORY: Final = ("Failed to allocate memory", "_STATUS_ALLOC_FAILED", "std::bad_alloc", "bad allocation")
"""ONNX Runtime's arenas; cuBLAS and cuDNN; C++, on Linux and on Windows."""


def fault_of(error: Exception) -> SessionFault | None:
    """The fault of a session that an exception tells of; None where the batch may be to blame."""
    text = str(error)
    number = int(found[1]) if (found := _CUDA.search(text)) else 0
    if number in _CUDA_LOST:
        return DeviceLost(text)
    if number == _CUDA_MEMORY or isinstance(error, MemoryError) or any(words in text for words in _MEMORY):
        return OutOfMemory(text)
    return None
