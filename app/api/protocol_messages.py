"""An inference request of the Open Inference Protocol v2 from its HTTP body, and its answer to one: JSON, with the
binary tensor data extension in both directions.

What may be asked is left to `app.api.protocol_requests`, the elements of tensors to `app.api.protocol`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from app.api.protocol import (
    BYTES,
    DATATYPES,
    array_from_bytes,
    array_from_json,
    array_to_bytes,
    elements_from_bytes,
    elements_from_json,
    elements_to_bytes,
    size_of,
)
from app.api.protocol_requests import (
    Header,
    InferRequest,
    Signature,
    Wanted,
    check_parameters,
    check_together,
    check_wanted,
    header_of,
    number_in,
    output_of,
    timeout_of,
    wanted_of,
)
from app.api.uploads import from_base64
from app.errors import InvalidRequest
from app.imaging.codec import sniff
from app.tensors import Tensor, Tensors

_FEW: Final = 10_000
"""Lists and objects that a request may have besides those of its tensors: an empty one takes twenty times the memory of
its bytes."""


@dataclass(frozen=True)
class InferAnswer:
    """The body of an answer; `header_length` is that of its JSON where tensors follow it."""

    body: bytes
    header_length: int | None = None


@dataclass
class _Rest:
    """The part of a body that comes after its JSON: tensors, one after the other."""

    data: memoryview
    start: int = 0

    def take(self, name: str, size: int, model: str) -> memoryview:
        missing = self.start + size - len(self.data)
        if missing > 0:
            raise InvalidRequest(
                f"unexpected size for input {name!r}, expecting {missing} additional bytes for model {model!r}"
            )
        self.start += size
        return self.data[self.start - size : self.start]


def read_request(body: bytes, header_length: int | None, signature: Signature) -> InferRequest:
    """The request in a body; `header_length` is the value of `Inference-Header-Content-Length`, None without it.

    Raises:
        InvalidRequest: whatever is wrong with it.
    """
    if header_length == 0:
        return _raw_request(body, signature)
    end = len(body) if header_length is None else header_length
    if end > len(body):
        raise InvalidRequest(f"Inference-Header-Content-Length is {end}; the whole body has {len(body)} bytes.")
    text = body[:end] if end < len(body) else body
    if len(text) > _FEW:
        _check_size(text, signature)
    message = object_in(text)
    parameters = _parameters(message)
    rest = _Rest(memoryview(body)[end:])
    tensors, pictures = _inputs(message, rest, signature)
    if rest.start != len(rest.data):
        raise InvalidRequest(f"unexpected additional input data for model {signature.model!r}")
    identity = message.get("id", "")
    if not isinstance(identity, str):
        raise InvalidRequest("'id' is a string.")
    binary = _flag(parameters, "binary_data_output", False)
    wanted = _outputs(message, binary, signature)
    request = InferRequest(tensors, pictures, wanted, identity, timeout_of(parameters))
    check_wanted(request)
    return request


def write_answer(request: InferRequest, version: int, outputs: Tensors, signature: Signature) -> InferAnswer:
    """The answer of a model version, from all of its outputs. In JSON, what is not a finite number is null."""
    told: list[dict[str, Any]] = []
    buffers: list[bytes] = []
    for wanted in request.wanted:
        datatype, shape, values = output_of(outputs[wanted.name], wanted, signature)
        entry: dict[str, Any] = {"name": wanted.name, "datatype": datatype, "shape": shape}
        if wanted.binary:
            buffers.append(elements_to_bytes(values) if isinstance(values, list) else array_to_bytes(values))
            entry["parameters"] = {"binary_data_size": len(buffers[-1])}
        else:
            entry["data"] = values if isinstance(values, list) else values.ravel()
        told.append(entry)
    head = {"id": request.id} if request.id else {}
    message = {**head, "model_name": signature.model, "model_version": str(version), "outputs": told}
    text = orjson.dumps(message, option=orjson.OPT_SERIALIZE_NUMPY)
    return InferAnswer(b"".join([text, *buffers]), len(text)) if any(buffers) else InferAnswer(text)


def _check_size(text: bytes, signature: Signature) -> None:
    """Refuse JSON that would take far more memory than its bytes, and is no tensor: millions of lists or objects."""
    if text.count(b"{") > _FEW or text.count(b"[") > _FEW + signature.most_lists:
        raise InvalidRequest(f"The JSON holds more lists or objects than a request for model {signature.model!r} has.")


def object_in(text: bytes) -> dict[str, Any]:
    """A JSON object; raises `InvalidRequest` where the text is none."""
    try:
        message = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"The JSON of the request cannot be read: {error.msg} (character {error.pos}).") from None
    if not isinstance(message, dict):
        raise InvalidRequest("The JSON of the request is no object.")
    return message


def _raw_request(body: bytes, signature: Signature) -> InferRequest:
    """A body that is one row of the only input, or an encoded picture; all outputs come back binary."""
    if len(signature.inputs) != 1:
        raise InvalidRequest("A raw binary request (Inference-Header-Content-Length: 0) needs a model with one input.")
    wanted = [Wanted(name, binary=True) for name in signature.outputs]
    spec = next(iter(signature.inputs.values()))
    # A tensor that begins like a picture is refused as a broken one: better than a picture that is taken for a tensor.
    if spec.name == signature.pictures and sniff(body) is not None:
        return InferRequest({}, [body], wanted)
    datatype, dims = DATATYPES[spec.dtype], spec.shape if signature.whole else spec.shape[1:]
    known = size_of(datatype, tuple(size or 1 for size in dims))
    count, rest = divmod(len(body), known)
    if rest or not count or dims.count(None) > 1 or (count > 1 and None not in dims):
        raise InvalidRequest(f"The body of {len(body)} bytes is not {'' if signature.whole else 'one row of '}{spec}.")
    rows = () if signature.whole else (1,)
    shape = (*rows, *(size or count for size in dims))
    return InferRequest({spec.name: array_from_bytes(spec.name, datatype, shape, memoryview(body))}, [], wanted)


def _inputs(message: Mapping[str, Any], rest: _Rest, signature: Signature) -> tuple[dict[str, Tensor], list[bytes]]:
    """Tensors by name, or the pictures that came in their place."""
    entries = _objects(message, "inputs")
    headers = [header_of(entry.get("name"), entry.get("datatype"), entry.get("shape"), signature) for entry in entries]
    check_together(headers, signature)
    tensors: dict[str, Tensor] = {}
    pictures: list[bytes] = []
    for header, entry in zip(headers, entries, strict=True):
        found = _data(header, entry, rest, signature)
        if isinstance(found, list):
            pictures = found
        else:
            tensors[header.name] = found
    return tensors, pictures


def _data(header: Header, entry: Mapping[str, Any], rest: _Rest, signature: Signature) -> Tensor | list[bytes]:
    """The data of one input: those in the JSON, or the next bytes after it; a single input need not say how many."""
    parameters = _parameters(entry)
    sized = "binary_data_size" in parameters
    if not sized and (len(signature.inputs) > 1 or "data" in entry):
        return _data_in_json(header, entry.get("data"))
    if "data" in entry:
        raise InvalidRequest(f"Input {header.name!r} has both 'data' and 'binary_data_size'.")
    size = number_in(parameters, "binary_data_size") if sized else len(rest.data)
    data = rest.take(header.name, size, signature.model)
    if header.datatype == BYTES:
        return elements_from_bytes(header.name, header.shape[0], data)
    return array_from_bytes(header.name, header.datatype, header.shape, data)


def _data_in_json(header: Header, data: object) -> Tensor | list[bytes]:
    if header.datatype != BYTES:
        return array_from_json(header.name, header.datatype, header.shape, data)
    return [_picture(header.name, text) for text in elements_from_json(header.name, header.shape, data)]


def _picture(name: str, text: object) -> bytes:
    found = from_base64(text) if isinstance(text, str) else None
    if not isinstance(found, bytes):
        raise InvalidRequest(f"Input {name!r}: in JSON, pictures are base64 (RFC 4648, section 4).")
    return found


def _outputs(message: Mapping[str, Any], binary: bool, signature: Signature) -> list[Wanted]:
    """The outputs that are asked for, or all."""
    entries = _objects(message, "outputs") if "outputs" in message else []
    asked = [(entry.get("name"), _parameters(entry)) for entry in entries] or [(name, {}) for name in signature.outputs]
    return [wanted_of(name, _flag(own, "binary_data", binary), own, signature) for name, own in asked]


def _objects(message: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    found = message.get(name)
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise InvalidRequest(f"{name!r} is a list of objects.")
    return found


def _parameters(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parameters of a request, an input or an output."""
    found = message.get("parameters", {})
    if not isinstance(found, dict):
        raise InvalidRequest("'parameters' is an object.")
    check_parameters(found)
    return found


def _flag(parameters: Mapping[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise InvalidRequest(f"The parameter {name!r} is true or false.")
    return value
