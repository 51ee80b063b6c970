"""A session made of a Python function: models without a file, and a stand-in whose behaviour a test decides."""

from collections.abc import Callable

from app.runtime.base import Device
from app.runtime.faults import fault_of
from app.tensors import Tensors, TensorSpec


class FunctionSession:
    """A session that calls `function` with the tensors of a batch, in the thread of the caller."""

    device: Device = "cpu"

    def __init__(
        self,
        function: Callable[[Tensors], Tensors],
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
    ) -> None:
        self._function = function
        self.inputs = inputs
        self.outputs = outputs
        self.closed = False

    def run(self, tensors: Tensors) -> Tensors:
        """Call the function; what it raises is the batch's failure, or what its text says that it is."""
        try:
            return self._function(tensors)
        except Exception as error:
            if (fault := fault_of(error)) is not None:
                raise fault from error
            raise

    def close(self) -> None:
        """Remember that the session was closed."""
        self.closed = True
