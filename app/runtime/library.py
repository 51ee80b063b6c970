"""The import of onnxruntime, which comes with an extra and may be missing."""

import os
from typing import Any

from app.errors import BackendMissing

# Since 1.29 ONNX Runtime reports to Microsoft unless told otherwise before its library is loaded (microsoft/onnxruntime
# #27379): digests and names of models included. What runs here is nobody else's business; who disagrees sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

try:
    import onnxruntime
except ImportError:
    onnxruntime = None


def onnx_runtime() -> Any:
    """The module `onnxruntime`.

    Raises:
        BackendMissing: it is not installed.
    """
    if onnxruntime is None:
        raise BackendMissing(
            "onnxruntime is not installed: pip install 'imago[cpu]', or 'imago[gpu]' on a machine with an NVIDIA GPU."
        )
    return onnxruntime
