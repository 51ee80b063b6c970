"""Plain ONNX files for tests, in Triton's layout: `NAME/VERSION/model.onnx`, and nothing beside it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Axes = Sequence[int | str]
Nodes = Sequence[tuple[str, str, str]]


def graph(nodes: Nodes, inputs: dict[str, Axes], outputs: dict[str, Axes]) -> onnx.ModelProto:
    """Of nodes `("Add", "a b", "sum")` on floats, and the constants `two` and `[-1]`."""
    made = [helper.make_node(kind, taken.split(), given.split()) for kind, taken, given in nodes]
    sides = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(axes)) for name, axes in side.items()]
        for side in (inputs, outputs)
    ]
    constants = {"two": np.array(2, np.float32), "[-1]": np.array([-1])}
    kept = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    body = helper.make_graph(made, "plain", *sides, kept)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def doubled(*axes: int | str) -> onnx.ModelProto:
    """`x` float to twice of it, `y`."""
    return graph([("Mul", "x two", "y")], {"x": axes}, {"y": axes})


def put(root: Path, name: str, model: onnx.ModelProto, version: int = 1, **rest: Any) -> Path:
    """Save a graph as a version of a model; `rest` goes to `onnx.save`."""
    folder = root / name / str(version)
    folder.mkdir(parents=True)
    onnx.save(model, folder / "model.onnx", **rest)
    return folder
