"""What the OpenAPI document says of the routes of the Open Inference Protocol v2."""

from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from app.api.protocol import BYTES, DTYPES
from app.api.schemas import BINARY, PIXEL, TIMEOUT


class ProtocolLiveness(BaseModel):
    """Whether every process turns."""

    live: bool
    error: str | None = Field(None, description="Why not.")


class ProtocolReadiness(ProtocolLiveness):
    """Whether models answer."""

    ready: bool


class ServerMetadata(BaseModel):
    """The server, and what it can do of the protocol."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(BaseModel):
    """An input or an output."""

    name: str
    datatype: str = Field(description=f"{', '.join(DTYPES)} or {BYTES}.")
    shape: list[int] = Field(description="-1 for what may vary; the first is the rows.")


class _Named(BaseModel):
    model_config = ConfigDict(protected_namespaces=())


class ModelMetadata(BaseModel):
    """A model, and its tensors."""

    name: str
    versions: list[str] = Field(description="Those that answer.")
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ModelReadiness(BaseModel):
    """A model that answers."""

    name: str
    ready: bool


class ModelStatistics(_Named):
    """Statistics of versions, as Triton's statistics extension defines them."""

    model_stats: list[dict[str, Any]]


class IndexRequest(BaseModel):
    """What the index is to hold."""

    ready: bool = Field(False, description="Only versions that answer.")


class IndexEntry(BaseModel):
    """One version."""

    name: str
    version: str | None = None
    state: str = Field(description="LOADING, READY or UNAVAILABLE.")
    reason: str | None = None


class RequestTensor(BaseModel):
    """An input of a request."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] = Field({}, description="`binary_data_size`: so many bytes after the JSON are the data.")
    data: list[Any] | None = Field(None, description="Row by row, flat or in lists of lists.")


class RequestedOutput(BaseModel):
    """An output that is asked for."""

    name: str
    parameters: dict[str, Any] = Field({}, description="`binary_data`: true or false; `classification`: how many.")


class InferenceRequest(BaseModel):
    """A request in JSON."""

    id: str = ""
    parameters: dict[str, Any] = Field({}, description="`timeout` in microseconds, `binary_data_output`.")
    inputs: list[RequestTensor]
    outputs: list[RequestedOutput] = Field([], description="Without any, all.")


class ResponseTensor(BaseModel):
    """An output of an answer: its data, or how many bytes after the JSON are."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, int] | None = None
    data: list[Any] | None = None


class InferenceAnswer(_Named):
    """An answer in JSON."""

    id: str | None = None
    model_name: str
    model_version: str
    outputs: list[ResponseTensor]


_EXAMPLE: Final = {"inputs": [{"name": "image", "datatype": BYTES, "shape": [1], "data": [PIXEL]}]}
_HEADER: Final = "Inference-Header-Content-Length"


def parameters_of(path: str, infer: bool = False) -> list[dict[str, Any]]:
    """The parameters of a path, and of inference the header that the binary tensor data extension needs."""
    named = [name for name in ("name", "version") if f"{{{name}}}" in path]
    found: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in named
    ]
    if infer:
        told = "Bytes of the JSON that tensors follow; 0: the body is the one input's bytes, or a picture."
        schema = {"type": "integer", "minimum": 0}
        found.append(TIMEOUT)
        found.append({"name": _HEADER, "in": "header", "required": False, "description": told, "schema": schema})
    return found


def infer_operation(path: str) -> dict[str, Any]:
    """Parameters, body and binary answer of an inference route."""
    json = {"schema": {"$ref": "#/components/schemas/InferenceRequest"}}
    return {
        "parameters": parameters_of(path, infer=True),
        "requestBody": {
            "required": True,
            "description": "JSON, perhaps with tensors after it; gzip and deflate are taken.",
            "content": {"application/json": json | {"example": _EXAMPLE}, "application/octet-stream": BINARY},
        },
        "responses": {"200": {"content": {"application/octet-stream": BINARY}}},
    }
