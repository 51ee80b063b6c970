"""Foreign: a network that came as an ONNX file, what it takes and what it gives, judged without running it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx.inliner
from onnx import TensorProto

from training import onnx_file
from training.export import ExportRefused

_DOMAINS = {"", "ai.onnx", "com.microsoft"}
FLOATS: Mapping[int, str] = {TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16"}
WHOLE: Mapping[int, str] = {TensorProto.INT64: "int64", TensorProto.INT32: "int32"}


@dataclass(frozen=True)
class Port:
    """One input of a file."""

    name: str
    kind: int
    """Number of the dtype in TensorProto."""
    dims: tuple[int | None, ...]

    @property
    def dtype(self) -> str:
        """In numpy's words."""
        return {**FLOATS, **WHOLE}[self.kind]

    def __str__(self) -> str:
        return f"{self.name} is {TensorProto.DataType.Name(self.kind).lower()} {shape(self.dims)}"


@dataclass(frozen=True)
class Foreign:
    """A file that ONNX Runtime takes as it is."""

    content: bytes
    proto: onnx.ModelProto
    inputs: tuple[Port, ...]
    outputs: tuple[str, ...]

    @property
    def opset(self) -> int:
        """The version of ai.onnx that the file speaks."""
        return _opset(self.proto)

    def output(self, wanted: str | None, flag: str = "--output", among: Sequence[str] = ()) -> str:
        """The output of a name, or the only one. Raises ExportRefused, which names the flag."""
        names = list(among or self.outputs)
        if wanted is None and len(names) == 1:
            return names[0]
        if wanted is None:
            raise ExportRefused(f"the file has several outputs: choose with {flag} one of {', '.join(names)}")
        if wanted not in self.outputs:
            raise ExportRefused(f"{wanted!r} is no output of the file: choose with {flag} one of {', '.join(names)}")
        return wanted


def read(path: Path, least_opset: int) -> Foreign:
    """Read a file, as far as it can be judged without running it.

    Raises:
        ExportRefused: it is no ONNX file, speaks an older opset, or needs operators or files that others lack.
    """
    content, proto = _parse(path)
    _check_parts(proto, least_opset)
    weights = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in weights]
    ports = tuple(Port(value.name, value.type.tensor_type.elem_type, _dims(value)) for value in inputs)
    return Foreign(content, proto, ports, tuple(str(value.name) for value in proto.graph.output))


def _parse(path: Path) -> tuple[bytes, onnx.ModelProto]:
    """The bytes of a file and what they say, its own functions written out."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ExportRefused(f"{path} cannot be read: {error.strerror}") from None
    try:
        proto = onnx.ModelProto.FromString(content)
    except Exception:  # protobuf's DecodeError; bytes from elsewhere make no sense to its parser
        raise ExportRefused(f"{path} is no ONNX file") from None
    if not (proto.graph.node and proto.opset_import):
        raise ExportRefused(f"{path} is no ONNX file, or one without a graph")
    if proto.functions:
        proto = onnx.inliner.inline_local_functions(proto)
    return content, proto


def _check_parts(proto: onnx.ModelProto, least_opset: int) -> None:
    """Domains, version and weights."""
    used = {node.domain for graph in onnx_file.graphs(proto.graph) for node in graph.node}
    if strange := sorted(used - _DOMAINS):
        raise ExportRefused(
            f"the file uses operators of {strange[0]!r}; only those of ai.onnx and com.microsoft run everywhere"
        )
    if (opset := _opset(proto)) < least_opset:
        raise ExportRefused(f"the file has opset {opset}: export it with {least_opset} or later")
    if any(onnx.external_data_helper.uses_external_data(tensor) for tensor in _tensors(proto.graph)):
        raise ExportRefused(
            "the weights lie in other files: put all into one first, as"
            " onnx.save(onnx.load(FILE), ONE_FILE) or torch.onnx.export(..., external_data=False) do"
        )


def _opset(proto: onnx.ModelProto) -> int:
    """The version of ai.onnx; 0 where the file does not use it."""
    return max((int(entry.version) for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def _tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    for part in onnx_file.graphs(graph):
        yield from part.initializer
        for node in part.node:
            for attribute in node.attribute:
                yield attribute.t
                yield from attribute.tensors


def _dims(value: Any) -> tuple[int | None, ...]:
    """Dimensions; None for one that is open, which some exporters write as 0 or -1."""
    return tuple(dim.dim_value if dim.dim_value > 0 else None for dim in value.type.tensor_type.shape.dim)


def shape(dims: Sequence[int | None]) -> str:
    """Dimensions as a reader of errors sees them."""
    return f"[{','.join('?' if size is None else str(size) for size in dims)}]"
