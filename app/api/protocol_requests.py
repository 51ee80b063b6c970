"""What an inference request of the Open Inference Protocol v2 may ask of a model, whichever way it came.

Names, datatypes, shapes and parameters are checked against the `Signature` of the model before an array is made. How a
body is read is left to `app.api.protocol_messages`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from app.api.protocol import BINARY_ONLY, BYTES, DATATYPES, DTYPES, Shape, classified
from app.errors import InvalidRequest
from app.servable import Servable
from app.tasks.base import PictureTask
from app.tensors import Tensor, Tensors, TensorSpec

MOST_CLASSIFIED: Final = 1_000_000
"""Elements that one request may have classified, as in Triton."""
_KNOWN: Final = ("triton_enable_empty_final_response",)
"""Reserved ones that mean nothing where there is one answer; perf_analyzer sends it over gRPC."""
_LARGEST: Final = 2**63 - 1


@dataclass(frozen=True)
class Signature:
    """What one model version takes and gives."""

    model: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    labels: Mapping[str, Sequence[str]]
    """Of outputs whose elements are classes."""
    pictures: str | None
    """The input that may come as encoded pictures, BYTES [N], instead of pixels."""
    most_rows: int
    whole: bool = False
    """Whether tensors have no rows: each has the shape that the graph gives it."""

    @classmethod
    def of(cls, servable: Servable, most_pictures: int) -> "Signature":
        """That of a loaded version; a request may always have as many rows as a batch."""
        running, task = servable.running, servable.task
        inputs = {spec.name: spec for spec in servable.graph.inputs}
        return cls(
            servable.manifest.name,
            inputs,
            {spec.name: spec for spec in servable.graph.outputs},
            labels_by_output(servable),
            "image" if isinstance(task, PictureTask) else None,
            max(most_pictures, running.max_batch_size),
            task.whole,
        )

    @property
    def most_lists(self) -> float:
        """Lists that the tensors of one request take in JSON at most, whichever of them are nested."""
        shapes = [tuple(math.inf if size is None else size for size in spec.shape[1:]) for spec in self.inputs.values()]
        return sum(1 + self.most_rows * sum(math.prod(one[:at]) for at in range(len(one))) for one in shapes)


def labels_by_output(servable: Servable) -> dict[str, Sequence[str]]:
    """The labels of a model, for those outputs that have one element for each of them, and that its task knows."""
    task = servable.task
    return {
        spec.name: task.labels
        for spec in servable.running.outputs
        if spec.shape[1:] == (len(task.labels),) and (not task.outputs or spec.name in task.outputs)
    }


@dataclass(frozen=True)
class Header:
    """Name, datatype and shape of an input, found to be what the model takes."""

    name: str
    datatype: str
    shape: Shape


@dataclass(frozen=True)
class Wanted:
    """An output that is asked for."""

    name: str
    binary: bool = False
    classes: int = 0
    """More than 0: as many of the largest elements of each row, as text."""


@dataclass(frozen=True)
class InferRequest:
    """What one request asks of a model."""

    tensors: Tensors
    pictures: Sequence[bytes]
    """Encoded pictures; then there are no tensors."""
    wanted: Sequence[Wanted]
    id: str = ""
    timeout: float | None = None
    """Seconds."""

    @property
    def rows(self) -> int:
        """How many rows it has, where it has some."""
        return len(self.pictures) or sum(next(iter(self.tensors.values())).shape[:1])


def header_of(name: object, datatype: object, shape: object, signature: Signature) -> Header:
    """An input's header, where it is what the model takes.

    Raises:
        InvalidRequest: the name or the datatype is another, or the shape is, or it has too many rows.
    """
    spec = signature.inputs.get(name) if isinstance(name, str) else None
    if spec is None:
        raise InvalidRequest(f"There is no input {_shown(name)}; the inputs are {', '.join(signature.inputs)}.")
    if not isinstance(shape, list | tuple) or not all(type(size) is int and size > 0 for size in shape):
        raise InvalidRequest(f"Input {spec.name!r}: the shape is a list of positive integers.")
    if datatype == BYTES and spec.name == signature.pictures:
        return Header(spec.name, BYTES, _shape(spec.name, shape, (None,), signature))
    if not isinstance(datatype, str) or datatype not in DTYPES or DTYPES[datatype] != spec.dtype:
        raise InvalidRequest(f"Input {spec.name!r} is of datatype {DATATYPES[spec.dtype]}, not {_shown(datatype)}.")
    return Header(spec.name, datatype, _shape(spec.name, shape, spec.shape, signature))


def check_together(headers: Sequence[Header], signature: Signature) -> None:
    """Raises `InvalidRequest` where an input came twice or not at all, or not all have as many rows."""
    names = {header.name for header in headers}
    if len(names) < len(headers):
        raise InvalidRequest("An input came twice.")
    if any(header.datatype == BYTES and header.name == signature.pictures for header in headers):
        if len(headers) > 1:
            raise InvalidRequest(f"All inputs are made from the encoded pictures: send {signature.pictures!r} alone.")
        return
    if missing := [name for name in signature.inputs if name not in names]:
        raise InvalidRequest(f"Input {missing[0]!r} is missing.")
    if not signature.whole and len({header.shape[0] for header in headers}) > 1:
        raise InvalidRequest("The inputs have unequal numbers of rows.")


def wanted_of(name: object, binary: bool, parameters: Mapping[str, Any], signature: Signature) -> Wanted:
    """An output that is asked for, of which no more elements are classified than a row has.

    Raises:
        InvalidRequest: there is no such output, or it cannot be sent so.
    """
    spec = signature.outputs.get(name) if isinstance(name, str) else None
    if spec is None:
        raise InvalidRequest(f"There is no output {_shown(name)}; the outputs are {', '.join(signature.outputs)}.")
    elements = math.prod(size or MOST_CLASSIFIED for size in spec.shape[1:])
    classes = min(number_in(parameters, "classification"), elements)
    if classes and signature.whole:
        raise InvalidRequest(f"Output {spec.name!r} has no rows whose elements could be classified.")
    if not (binary or classes) and DATATYPES[spec.dtype] in BINARY_ONLY:
        raise InvalidRequest(f"Output {spec.name!r}: {DATATYPES[spec.dtype]} cannot be sent as JSON, ask for binary.")
    return Wanted(spec.name, binary, classes)


def check_wanted(request: InferRequest) -> None:
    """Raises `InvalidRequest` where an output is asked for twice, or too many elements would be classified."""
    wanted = request.wanted
    if len({output.name for output in wanted}) < len(wanted):
        raise InvalidRequest("An output is asked for twice.")
    if sum(output.classes for output in wanted) * request.rows > MOST_CLASSIFIED:
        raise InvalidRequest(f"At most {MOST_CLASSIFIED} elements are classified in one request.")


def timeout_of(parameters: Mapping[str, Any]) -> float | None:
    """Seconds of the parameter `timeout`, which is in microseconds; None without it, or where it is 0.

    Raises:
        InvalidRequest: it is something else, or `priority` is, or a parameter is of those that Triton reserves.
    """
    if any(name.startswith("triton_") and name not in _KNOWN for name in parameters):
        raise InvalidRequest("Parameters whose names begin with 'triton_' are reserved.")
    number_in(parameters, "priority")
    return number_in(parameters, "timeout") / 1e6 or None


def number_in(parameters: Mapping[str, Any], name: str) -> int:
    """A parameter that is an unsigned integer, 0 where it is absent. Raises `InvalidRequest` where it is none."""
    value = parameters.get(name, 0)
    if type(value) is not int or not 0 <= value <= _LARGEST:
        raise InvalidRequest(f"The parameter {name!r} is an unsigned integer.")
    return value


def check_parameters(parameters: Mapping[str, Any]) -> None:
    """Raises `InvalidRequest` where the parameters of a tensor ask for shared memory."""
    if any(name.startswith("shared_memory_") for name in parameters):
        raise InvalidRequest("Shared memory is not offered: send the tensors.")


def output_of(array: Tensor, wanted: Wanted, signature: Signature) -> tuple[str, list[int], Tensor | list[str]]:
    """Datatype, shape and values of an output as it is asked for."""
    if not wanted.classes:
        return DATATYPES[array.dtype], list(array.shape), array
    rows = classified(array, wanted.classes, signature.labels.get(wanted.name, ()))
    return BYTES, [len(rows), len(rows[0])], [element for row in rows for element in row]


def _shape(name: str, given: Sequence[int], known: Sequence[int | None], signature: Signature) -> Shape:
    """The shape that was given, where all but its rows fits what is known."""
    rows = 0 if signature.whole else 1
    fits = len(given) == len(known) and all(
        size in (None, own) for own, size in zip(given[rows:], known[rows:], strict=True)
    )
    if (known or signature.whole) and not fits:
        shown = ["N"] * rows + ["?" if size is None else str(size) for size in known[rows:]]
        raise InvalidRequest(f"Input {name!r} takes the shape [{','.join(shown)}].")
    if signature.whole:
        return tuple(given)
    if not given or given[0] > signature.most_rows:
        raise InvalidRequest(f"Input {name!r}: a request has 1 to {signature.most_rows} rows.")
    return tuple(given)


def _shown(word: object) -> str:
    """A word of the caller's, short enough to be repeated."""
    return repr(word[:64]) if isinstance(word, str) else "that is no text"
