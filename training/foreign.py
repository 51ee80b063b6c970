"""Foreign: a classifier that came as an ONNX file, what it takes and what it gives, judged without running it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx.inliner
from onnx import TensorProto

from training import onnx_file
from training.export import ExportRefused

_DOMAINS = {"", "ai.onnx", "com.microsoft"}
_FLOATS = {TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16"}
_OPSET = 7
"""Least version of ai.onnx: Mul and Add broadcast since then, and ONNX Runtime promises no more."""


@dataclass(frozen=True)
class Foreign:
    """A file that can be adopted: one picture in, rows of scores out."""

    content: bytes
    proto: onnx.ModelProto
    input: str
    output: str
    dtype: str
    batch: int | None
    """Rows that the file insists on; None where the axis is free."""
    channels: int
    height: int
    width: int

    @property
    def opset(self) -> int:
        """The version of ai.onnx that the file speaks."""
        return _opset(self.proto)


def read(path: Path, output: str | None = None, size: tuple[int, int] | None = None) -> Foreign:
    """Read a file, as far as it can be judged without running it; `size` is (width, height).

    Raises:
        ExportRefused: it is no ONNX file, or not that of a network which answers about one NCHW picture.
    """
    content, proto = _parse(path)
    _check_parts(proto)
    name, dtype, dims = _picture(proto)
    batch, channels, *sides = dims
    if channels not in (1, 3):
        raise ExportRefused(_channels_sentence(name, dims))
    height, width = _sides(sides, size)
    return Foreign(content, proto, name, _output(proto, output), dtype, batch, channels, height, width)


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


def _check_parts(proto: onnx.ModelProto) -> None:
    """Domains, version and weights."""
    used = {node.domain for graph in onnx_file.graphs(proto.graph) for node in graph.node}
    if strange := sorted(used - _DOMAINS):
        raise ExportRefused(
            f"the file uses operators of {strange[0]!r}; only those of ai.onnx and com.microsoft run everywhere"
        )
    if (opset := _opset(proto)) < _OPSET:
        raise ExportRefused(f"the file has opset {opset}: export it with {_OPSET} or later")
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


def _picture(proto: onnx.ModelProto) -> tuple[str, str, list[int | None]]:
    """Name, dtype and dimensions of the one input."""
    weights = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise ExportRefused(f"a classifier has one input, its picture; this file has {names}")
    kind = inputs[0].type.tensor_type
    if len(kind.shape.dim) != 4 or kind.elem_type not in _FLOATS:
        raise ExportRefused(f"the input is float [N,C,H,W]; {inputs[0].name} is {_spoken(kind)}")
    return inputs[0].name, _FLOATS[kind.elem_type], [_size(dim) for dim in kind.shape.dim]


def _size(dim: Any) -> int | None:
    """A dimension; None for one that is open, which some exporters write as 0 or -1."""
    return dim.dim_value if dim.dim_value > 0 else None


def _spoken(kind: Any) -> str:
    dtype = TensorProto.DataType.Name(kind.elem_type).lower()
    return f"{dtype} {_shape([_size(dim) for dim in kind.shape.dim])}"


def _shape(dims: Sequence[int | None]) -> str:
    return f"[{','.join('?' if size is None else str(size) for size in dims)}]"


def _channels_sentence(name: str, dims: list[int | None]) -> str:
    if dims[3] in (1, 3):
        return (
            f"{name} is {_shape(dims)}, channels last (NHWC): export the network with channels first (NCHW),"
            " with tf2onnx by --inputs-as-nchw"
        )
    return f"{name} is {_shape(dims)}: the second axis has to be 1 (grey) or 3 channels"


def _sides(found: Sequence[int | None], size: tuple[int, int] | None) -> tuple[int, int]:
    """Height and width: the file's own, or where it leaves them open those of `size`."""
    if size is None:
        height, width = found
        if height is None or width is None:
            raise ExportRefused("the file takes pictures of any size: choose one with --size")
        return height, width
    wanted = size[::-1]
    if any(own not in (None, given) for own, given in zip(found, wanted, strict=True)):
        raise ExportRefused(f"--size says {size[0]}x{size[1]}, and the file takes height and width {_shape(found)}")
    return wanted


def _output(proto: onnx.ModelProto, wanted: str | None) -> str:
    names = [str(value.name) for value in proto.graph.output]
    if wanted is None:
        if len(names) > 1:
            raise ExportRefused(f"the file has several outputs: choose with --output one of {', '.join(names)}")
        return names[0]
    if wanted not in names:
        raise ExportRefused(f"{wanted!r} is no output of the file: choose with --output one of {', '.join(names)}")
    return wanted
