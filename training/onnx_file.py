"""ONNX files: from a graph to the bytes that are served, clean of traces of the machine that wrote them."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.tensors import Tensors
from training.networks.graphs import Graph

OPSET = 20
Arrays = dict[str, NDArray[np.generic]]
_SCORE = 0.05
"""Below it a detector says nothing: which of its many nothings come first is chance."""


def write(graph: Graph, examples: Sequence[Tensor]) -> bytes:
    """The graph as one ONNX file with a free batch axis; `examples` hold at least two rows (one would be baked in)."""
    batch = torch.export.Dim("batch", min=1, max=4096)
    shapes = [{0: batch} | _free(graph.free_axes.get(name, {})) for name in graph.inputs]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside the exporter, none of them ours to act on
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            graph.eval(),
            tuple(examples),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_shapes=tuple(shapes),
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    clean(proto)
    onnx.checker.check_model(proto, full_check=True)
    return bytes(proto.SerializeToString(deterministic=True))


def _free(axes: Mapping[int, int]) -> dict[int, Any]:
    """Axes that may have any length, or any multiple of one."""
    sizes = {axis: torch.export.Dim(f"size_{axis}", min=4, max=4096) for axis in axes}
    return {axis: size if axes[axis] == 1 else axes[axis] * size for axis, size in sizes.items()}


def clean(proto: onnx.ModelProto) -> None:
    """Drop stack traces, docs and metadata, and name the resize mode that stays in ONNX Runtime's blocked layout.

    `half_pixel` and `pytorch_half_pixel` differ for an output side of 1 only.
    """
    proto.doc_string = ""
    del proto.metadata_props[:]
    for graph in graphs(proto.graph):
        graph.doc_string = ""
        del graph.metadata_props[:], graph.value_info[:]
        for value in named(graph):
            value.doc_string = ""
            del value.metadata_props[:]
        for node in graph.node:
            node.doc_string = ""
            del node.metadata_props[:]
            for attribute in node.attribute:
                if attribute.s == b"pytorch_half_pixel":
                    attribute.s = b"half_pixel"


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph, and those inside its nodes (the branches of an If, the body of a Loop)."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            inside = [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs
            for inner in inside:
                yield from graphs(inner)


def named(graph: onnx.GraphProto) -> Iterator[onnx.ValueInfoProto | onnx.TensorProto]:
    """What a graph names beside the outputs of its nodes."""
    yield from graph.input
    yield from graph.output
    yield from graph.initializer


@torch.no_grad()
def torch_outputs(graph: Graph, arrays: Arrays) -> Arrays:
    """What torch answers to the same arrays."""
    outputs = graph.eval()(*(torch.from_numpy(arrays[name]) for name in graph.inputs))
    values = outputs if isinstance(outputs, tuple) else (outputs,)
    return {name: value.numpy() for name, value in zip(graph.outputs, values, strict=True)}


def parity(ours: Tensors, theirs: Tensors) -> dict[str, float]:
    """How far two answers are apart: largest difference of each output, and for whole numbers and boxes the share that
    agrees."""
    found: dict[str, float] = {}
    for name, mine in ours.items():
        other = theirs[name]
        if name == "boxes":
            found["boxes_agreement"] = _same_boxes(mine, other)
            continue
        difference = np.abs(mine.astype(np.float64) - other.astype(np.float64))
        found[f"{name}_max_abs_diff"] = float(difference.max())
        if np.issubdtype(mine.dtype, np.integer):
            found[f"{name}_agreement"] = float((difference == 0).mean())
    if "probabilities" in ours:
        found["top1_agreement"] = float((ours["probabilities"].argmax(1) == theirs["probabilities"].argmax(1)).mean())
    return found


def _same_boxes(ours: NDArray[np.generic], theirs: NDArray[np.generic]) -> float:
    """The share of our boxes [N,K,6] with a score to speak of that are in theirs, too, in whatever order: same class,
    edges within half a pixel, scores within a thousandth."""
    mine, other = ours.astype(np.float64), theirs.astype(np.float64)
    apart = np.abs(mine[:, :, None] - other[:, None])
    same = (apart <= np.array([0.5, 0.5, 0.5, 0.5, 1e-3, 0])).min(3).max(2)
    objects = mine[:, :, 4] >= _SCORE
    return float(same[objects].mean()) if objects.any() else 1.0
