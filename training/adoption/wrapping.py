"""Wrapping: a foreign network between its front and its tail, as one graph of imago's contract.

The network keeps its operators and its version of them; what is around it takes and gives what the contract says.
"""

from collections.abc import Iterator, Mapping

import onnx
from onnx import numpy_helper

from training import onnx_file
from training.adoption.foreign import Foreign
from training.adoption.fronts import Front
from training.adoption.tails import Tail
from training.adoption.text import nodes
from training.export import ExportRefused

_IR = 4
"""Least version of the file format in which weights need not be inputs, too."""


def wrap(network: Foreign, front: Front, tail: Tail) -> bytes:
    """The graph for serving, as one file.

    Raises:
        ExportRefused: an ONNX rule is broken by the file.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(network.proto)
    onnx_file.clean(proto)
    graph = proto.graph
    _prune(graph, {name for key, name in tail.names.items() if key not in tail.expected})
    if front.batch is not None:
        _free_batch(graph, front.batch)
    _rename(graph)
    served = {value.name for value in (*front.inputs, *tail.outputs)}
    before = nodes(front.text, _outside(front.names, served), "front")
    after = nodes(tail.text, _outside(tail.names, served), "tail")
    every = [*before, *graph.node, *after]
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend(every)
    graph.input.extend(front.inputs)
    graph.output.extend(tail.outputs)
    proto.ir_version = max(proto.ir_version, _IR)
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        raise ExportRefused(f"the file breaks a rule of ONNX: {str(error).strip().splitlines()[0]}") from error
    return bytes(proto.SerializeToString(deterministic=True))


def _outside(names: Mapping[str, str], served: set[str]) -> dict[str, str]:
    """What values of a text are called in the graph: as the contract says, or as the network's own."""
    return {key: name if key == name and name in served else _inside(name) for key, name in names.items()}


def _prune(graph: onnx.GraphProto, outputs: set[str]) -> None:
    """Drop the nodes and weights that these outputs do not need: other heads would cost time in every run."""
    needed = set(outputs)
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


def _rename(graph: onnx.GraphProto) -> None:
    """Give all that has a name one that no other part of the graph for serving has."""
    for part in onnx_file.graphs(graph):
        del part.quantization_annotation[:]  # hints by name, which ONNX Runtime does not read
        for node in part.node:
            node.input[:] = map(_inside, node.input)
            node.output[:] = map(_inside, node.output)
        for value in onnx_file.named(part):
            value.name = _inside(value.name)
        for sparse in part.sparse_initializer:
            sparse.values.name = _inside(sparse.values.name)


def _inside(name: str) -> str:
    """The new name of a part of the network; empty ones stand for what was left out."""
    return name and f"network/{name}"
