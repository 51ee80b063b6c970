"""What a backend offers: a session that maps named arrays to named arrays, and nothing else."""

from typing import Literal, Protocol

from app.tensors import Tensors, TensorSpec

Device = Literal["cpu", "cuda"]


class Session(Protocol):
    """One opened model file. `run` may be called from any thread, by several at once."""

    device: Device
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, tensors: Tensors) -> Tensors:
        """Run one batch: the first dimension of every array is the same number of rows, in and out.

        Raises:
            OutOfMemory: a smaller batch may run.
            DeviceLost: none will in this process.
        """

    def close(self) -> None:
        """Give memory and device back; `run` must not be called afterwards."""
