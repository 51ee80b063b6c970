"""The messages of the service, and an inference request and answer in them.

Their classes are made of `grpc_predict_v2.binpb`, which protoc compiled from `grpc_predict_v2.proto`: unlike generated
code it is bound to no version of protobuf. They live in a pool of their own, so that a process may know the messages of
other clients and servers of the protocol, too.
"""

from collections.abc import Mapping
from importlib import resources
from typing import Any, Final

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.message import DecodeError

from app.api.protocol import BYTES, DTYPES, array_from_bytes, array_to_bytes, elements_from_bytes, elements_to_bytes
from app.api.protocol_requests import (
    Header,
    InferRequest,
    Signature,
    check_parameters,
    check_together,
    check_wanted,
    header_of,
    output_of,
    timeout_of,
    wanted_of,
)
from app.errors import InvalidRequest
from app.tensors import Tensor, Tensors

Message = Any
"""An instance of a class that protobuf made."""

_CONTENTS: Final = {
    "BOOL": "bool_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", BYTES: "bytes_contents",
}  # fmt: skip
"""The field that the elements of each datatype are in."""


def _pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    compiled = resources.files("app.rpc").joinpath("grpc_predict_v2.binpb").read_bytes()
    for file in descriptor_pb2.FileDescriptorSet.FromString(compiled).file:
        pool.Add(file)
    return pool


_POOL: Final = _pool()
SERVICE: Final = _POOL.FindServiceByName("inference.GRPCInferenceService")


def class_of(descriptor: Any) -> Any:
    """The class of the messages that a descriptor describes."""
    return message_factory.GetMessageClass(descriptor)


ModelInferResponse: Final = class_of(SERVICE.methods_by_name["ModelInfer"].output_type)


def message_of(cls: Any, told: Mapping[str, Any]) -> Message:
    """A message from a dictionary in the protocol's words; what messages leave out is passed over."""
    return json_format.ParseDict(told, cls(), ignore_unknown_fields=True)


def message_in(cls: Any, data: bytes) -> Message | None:
    """The message in some bytes; None where they are none."""
    try:
        return cls.FromString(data)
    except DecodeError:
        return None


def parameters_of(message: Message) -> dict[str, Any]:
    """The parameters of a message as those of JSON are: numbers, texts and truths by name."""
    found = ((name, value, value.WhichOneof("parameter_choice")) for name, value in message.parameters.items())
    return {name: None if chosen is None else getattr(value, chosen) for name, value, chosen in found}


def read_request(message: Message, signature: Signature) -> InferRequest:
    """The request in a `ModelInferRequest`.

    Raises:
        InvalidRequest: whatever is wrong with it.
    """
    headers = [header_of(entry.name, entry.datatype, tuple(entry.shape), signature) for entry in message.inputs]
    check_together(headers, signature)
    raw = list(message.raw_input_contents)
    if raw and len(raw) != len(headers):
        raise InvalidRequest(f"There are {len(raw)} raw_input_contents for {len(headers)} inputs.")
    tensors: dict[str, Tensor] = {}
    pictures: list[bytes] = []
    for place, (header, entry) in enumerate(zip(headers, message.inputs, strict=True)):
        check_parameters(parameters_of(entry))
        found = _raw(header, entry, raw[place]) if raw else _typed(header, entry.contents)
        if isinstance(found, list):
            pictures = found
        else:
            tensors[header.name] = found
    asked = [(entry.name, parameters_of(entry)) for entry in message.outputs] or [
        (name, {}) for name in signature.outputs
    ]
    for _, parameters in asked:
        check_parameters(parameters)
    wanted = [wanted_of(name, True, parameters, signature) for name, parameters in asked]
    request = InferRequest(tensors, pictures, wanted, message.id, timeout_of(parameters_of(message)))
    check_wanted(request)
    return request


def write_answer(request: InferRequest, version: int, outputs: Tensors, signature: Signature) -> Message:
    """The `ModelInferResponse` of a model version, from all of its outputs: always in raw bytes, as Triton does."""
    answer = ModelInferResponse(model_name=signature.model, model_version=str(version), id=request.id)
    for wanted in request.wanted:
        datatype, shape, values = output_of(outputs[wanted.name], wanted, signature)
        answer.outputs.add(name=wanted.name, datatype=datatype, shape=shape)
        data = elements_to_bytes(values) if isinstance(values, list) else array_to_bytes(values)
        answer.raw_output_contents.append(data)
    return answer


def _raw(header: Header, entry: Message, data: bytes) -> Tensor | list[bytes]:
    if entry.HasField("contents"):
        raise InvalidRequest(f"Input {header.name!r} has both contents and raw_input_contents.")
    if header.datatype == BYTES:
        return elements_from_bytes(header.name, header.shape[0], memoryview(data))
    return array_from_bytes(header.name, header.datatype, header.shape, memoryview(data))


def _typed(header: Header, contents: Message) -> Tensor | list[bytes]:
    """The elements in the field of a datatype; the others do not count."""
    if (field := _CONTENTS.get(header.datatype)) is None:
        raise InvalidRequest(f"Input {header.name!r}: {header.datatype} has no contents, use raw_input_contents.")
    values = list(getattr(contents, field))
    count = int(np.prod(header.shape, dtype=object))
    if len(values) != count:
        raise InvalidRequest(f"Input {header.name!r} has {len(values)} elements in {field}; its shape takes {count}.")
    if header.datatype == BYTES:
        return values
    try:
        return np.array(values, DTYPES[header.datatype]).reshape(header.shape)
    except OverflowError:
        raise InvalidRequest(f"Input {header.name!r} has elements beyond the range of {header.datatype}.") from None
