"""Wrapping: from a foreign network to a graph of imago's contract, `image: uint8 [N,H,W,C]` to `probabilities`.

The network keeps its operators and its version of them; what surrounds it turns bytes into the floats that it was
trained on, and its scores into probabilities float32 [N,C].
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from app.tensors import Tensor
from training import onnx_file
from training.export import ExportRefused
from training.foreign import Foreign

_IR = 4
"""Least version of the file format in which weights need not be inputs, too."""
_OUTPUT = "probabilities"


@dataclass(frozen=True)
class Pixels:
    """What the network was trained on: `(byte / 255 * input_range - mean) / std`, channel by channel in its own order.

    `mean` and `std` hold one number for all channels, or one for each.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    input_range: Literal[1, 255] = 1
    channels: Literal["rgb", "bgr"] = "rgb"

    def plain(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Images uint8 [N,H,W,C] the way training code writes it, to float32 [N,C,H,W]."""
        ordered = images[..., ::-1] if self.channels == "bgr" else images
        values = ordered.astype(np.float32) / np.float32(255) * np.float32(self.input_range)
        normal = (values - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.ascontiguousarray(normal.transpose(0, 3, 1, 2))

    def folded(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The same as one multiplication and one addition: scale and shift of a byte."""
        mean, std = np.array(self.mean), np.array(self.std)
        return self.input_range / (255 * std), -mean / std


def wrap(foreign: Foreign, pixels: Pixels, scores: Tensor, softmax: bool) -> bytes:
    """The graph for serving, as one file; `scores` are the network's own, for dtype and shape of its output.

    Raises:
        ExportRefused: an ONNX rule is broken by the file.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(foreign.proto)
    onnx_file.clean(proto)
    graph = proto.graph
    _prune(graph, foreign.output)
    if foreign.batch is not None:
        _free_batch(graph, foreign.batch)
    tail = list(_tail(scores, softmax))
    _rename(graph, {} if tail else {foreign.output: _OUTPUT})
    constants: dict[str, Tensor] = {}
    head = _chain("image", list(_head(foreign, pixels, constants)), _inside(foreign.input))
    nodes = [*head, *graph.node, *_chain(_inside(foreign.output), tail, _OUTPUT)]
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend(nodes)
    shape: list[str | int | None] = ["batch", foreign.height, foreign.width, foreign.channels]
    graph.input.append(helper.make_tensor_value_info("image", TensorProto.UINT8, shape))
    graph.output.append(helper.make_tensor_value_info(_OUTPUT, TensorProto.FLOAT, ["batch", scores[0].size]))
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    proto.ir_version = max(proto.ir_version, _IR)
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        raise ExportRefused(f"the file breaks a rule of ONNX: {str(error).strip().splitlines()[0]}") from error
    return bytes(proto.SerializeToString(deterministic=True))


def _prune(graph: onnx.GraphProto, output: str) -> None:
    """Drop the nodes and weights that `output` does not need: other heads would cost time in every run."""
    needed = {output}
    kept = []
    for node in reversed(graph.node):  # nodes stand in order of execution (ONNX IR)
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(_used(node))
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    nodes = kept[::-1]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(weights)


def _used(node: onnx.NodeProto) -> Iterator[str]:
    """What a node reads, from within its branches and bodies, too."""
    yield from node.input
    for part in onnx_file.graphs(onnx.GraphProto(node=[node])):
        for inner in part.node:
            yield from inner.input
        yield from (value.name for value in part.output)


def _free_batch(graph: onnx.GraphProto, batch: int) -> None:
    """Let every Reshape to a fixed `batch` of rows take over as many as come: 0 copies the size of the axis.

    Exporters write `x.view(len(x), -1)` as a constant shape. Whether an axis that was taken for the batch is it, is
    found out by running the graph.
    """
    known = {tensor.name: tensor for tensor in graph.initializer}
    known |= {node.output[0]: node.attribute[0].t for node in graph.node if _is_tensor(node)}
    for node in graph.node:
        if node.op_type != "Reshape" or node.input[1] not in known:
            continue
        shape = numpy_helper.to_array(known[node.input[1]]).copy()
        literal = any(attribute.i for attribute in node.attribute)  # allowzero: a 0 means no elements, not a copy
        if not shape.size or shape[0] != batch or (literal and not shape.all()):
            continue
        shape[0] = 0
        del node.attribute[:]
        node.input[1] = f"{node.output[0]}/free_shape"
        graph.initializer.append(numpy_helper.from_array(shape, node.input[1]))


def _is_tensor(node: onnx.NodeProto) -> bool:
    return node.op_type == "Constant" and node.attribute[0].name == "value"


def _rename(graph: onnx.GraphProto, special: dict[str, str]) -> None:
    """Give all that has a name one that no other part of the graph for serving has."""

    def new(name: str) -> str:
        return special.get(name) or _inside(name)

    for part in onnx_file.graphs(graph):
        del part.quantization_annotation[:]  # hints by name, which ONNX Runtime does not read
        for node in part.node:
            node.input[:] = map(new, node.input)
            node.output[:] = map(new, node.output)
        for value in onnx_file.named(part):
            value.name = new(value.name)
        for sparse in part.sparse_initializer:
            sparse.values.name = new(sparse.values.name)


def _inside(name: str) -> str:
    """The new name of a part of the network; empty ones stand for what was left out."""
    return name and f"network/{name}"


Step = tuple[str, list[str], dict[str, Any]]
"""An operator, its inputs after the first, its attributes."""


def _head(foreign: Foreign, pixels: Pixels, constants: dict[str, Tensor]) -> Iterator[Step]:
    """From bytes to what the network takes.

    The bytes are transposed before they become floats: on 224x224x3, with ONNX Runtime 1.31 on one core, all steps take
    0.11 ms so, and 1.2 ms where scale and shift come first, applied to the three neighbours of one pixel at a time.
    """
    yield "Transpose", [], {"perm": [0, 3, 1, 2]}
    if pixels.channels == "bgr":
        constants["order"] = np.array([2, 1, 0], np.int64)
        yield "Gather", ["order"], {"axis": 1}
    yield "Cast", [], {"to": TensorProto.FLOAT}
    scale, shift = pixels.folded()
    for operator, name, values, neutral in (("Mul", "scale", scale, 1), ("Add", "shift", shift, 0)):
        if (values != neutral).any():
            constants[name] = values.astype(np.float32).reshape(-1, 1, 1)
            yield operator, [name], {}
    if foreign.dtype == "float16":  # last: a mean taken off in half precision would lose what it is close to
        yield "Cast", [], {"to": TensorProto.FLOAT16}


def _tail(scores: Tensor, softmax: bool) -> Iterator[Step]:
    """From what the network says to probabilities float32 [N,C]."""
    if scores.dtype != np.float32:
        yield "Cast", [], {"to": TensorProto.FLOAT}
    if scores.ndim > 2:
        yield "Flatten", [], {"axis": 1}
    if softmax:
        yield "Softmax", [], {"axis": 1}


def _chain(first: str, steps: Sequence[Step], last: str) -> list[onnx.NodeProto]:
    """Nodes one after the other, from the value `first` to the value `last`."""
    between = [f"{operator.lower()}_to_{last}" for operator, _, _ in steps[:-1]]
    names = [first, *between, last]
    return [
        helper.make_node(operator, [names[place], *more], [names[place + 1]], **attributes)
        for place, (operator, more, attributes) in enumerate(steps)
    ]
