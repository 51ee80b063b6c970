"""What a graph costs: parameters and floating point operations, counted from its ONNX file."""

import math

import numpy as np
import onnx
from onnx import numpy_helper, shape_inference

_FLOATING = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16}
_SCALING = {"QuantizeLinear", "DequantizeLinear"}


def parameters(model: onnx.ModelProto) -> int:
    """Numbers that the file holds as weights: floating ones, and whole ones, without the scales that these have."""
    nodes = [node for node in model.graph.node if node.op_type in _SCALING]
    whole = {node.input[0] for node in nodes}
    scales = {node.input[1] for node in nodes}
    weights = (
        tensor
        for tensor in model.graph.initializer
        if tensor.name in whole or (tensor.data_type in _FLOATING and tensor.name not in scales)
    )
    return sum(math.prod(tensor.dims) for tensor in weights)


def operations(model: onnx.ModelProto, side: int = 0) -> int:
    """Floating point operations of one row in convolutions and matrix products, two for each multiplication with its
    addition; everything else is small beside them. Free axes of a picture are `side` long.

    Raises ValueError where the shapes of the graph cannot be told.
    """
    single = onnx.ModelProto()
    single.CopyFrom(model)
    for value in single.graph.input:
        for axis, size in enumerate(value.type.tensor_type.shape.dim):
            if axis == 0 or (side and not size.dim_value):
                size.dim_value = side if axis else 1
    del single.graph.value_info[:]
    for output in single.graph.output:
        output.type.tensor_type.ClearField("shape")
    graph = shape_inference.infer_shapes(single, data_prop=True).graph
    shapes = {value.name: _shape(value) for value in (*graph.input, *graph.value_info, *graph.output)}
    shapes |= {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            value = next((item.t for item in node.attribute if item.name == "value"), None)
            if value is not None:
                shapes[node.output[0]] = np.shape(numpy_helper.to_array(value))
    return sum(_products(node, shapes) for node in graph.node)


def _products(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> int:
    """Operations of one node."""
    match node.op_type:
        case "Conv":
            _, inputs, *window = _known(node.input[1], shapes)
            return 2 * math.prod(_known(node.output[0], shapes)) * inputs * math.prod(window)
        case "ConvTranspose":
            _, outputs, *window = _known(node.input[1], shapes)
            return 2 * math.prod(_known(node.input[0], shapes)) * outputs * math.prod(window)
        case "Gemm":
            across = next((item.i for item in node.attribute if item.name == "transA"), 0)
            return 2 * math.prod(_known(node.output[0], shapes)) * _known(node.input[0], shapes)[0 if across else 1]
        case "MatMul":
            return 2 * math.prod(_known(node.output[0], shapes)) * _known(node.input[0], shapes)[-1]
    return 0


def _known(name: str, shapes: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
    shape = shapes.get(name, (0,))
    if 0 in shape:
        raise ValueError(f"the shape of {name!r} cannot be told")
    return shape


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """Sizes; 0 for one that is open."""
    return tuple(size.dim_value for size in value.type.tensor_type.shape.dim)
