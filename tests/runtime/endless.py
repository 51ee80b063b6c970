"""A real graph that opens at once and never comes back from its first row."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper


def graph_of(nodes: list[object], **constants: np.ndarray) -> bytes:
    """`x` float [N,1] to `y` of the same shape."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 1]) for name in ("x", "y")]
    kept = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "tried", value[:1], value[1:], kept)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def endless() -> bytes:
    """A loop that adds 0 for some thousand years."""
    step = [
        helper.make_node("Identity", ["go_on"], ["still"]),
        helper.make_node("Add", ["sum", "nothing"], ["next"]),
    ]
    body = helper.make_graph(
        step,
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["N", 1]),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, ["N", 1]),
        ],
    )
    loop = helper.make_node("Loop", ["rounds", "true", "x"], ["y"], body=body)
    return graph_of([loop], rounds=np.int64(2**62), true=np.array(True), nothing=np.float32([0]))
