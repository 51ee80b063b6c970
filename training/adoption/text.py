"""Parts of graphs in ONNX's own text form (onnx/docs/Syntax.md), which reads more easily than calls that build them."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx.parser
from numpy.typing import ArrayLike


def nodes(text: str, names: Mapping[str, str], prefix: str) -> list[onnx.NodeProto]:
    """The nodes of some lines; values in `names` are called so, all others get a prefix of their own."""
    graph = onnx.parser.parse_graph(f"part () => () {{\n{text}\n}}")
    for node in graph.node:
        node.input[:] = [name and names.get(name, f"{prefix}/{name}") for name in node.input]
        node.output[:] = [names.get(name, f"{prefix}/{name}") for name in node.output]
    return list(graph.node)


def chain(first: str, steps: Sequence[str], last: str) -> str:
    """Lines from the value `first` to the value `last`; in each step `$` is what the one before gave."""
    ends = [first, *(f"{last}_{place}" for place in range(1, len(steps))), last]
    every = steps or ["Identity ($)"]
    return "\n".join(f"{ends[place + 1]} = {step.replace('$', ends[place])}" for place, step in enumerate(every))


def floats(name: str, values: ArrayLike) -> str:
    """A line with a constant float32 of any shape."""
    array = np.atleast_1d(np.asarray(values, np.float32))
    listed = ", ".join(repr(float(value)) for value in array.ravel())
    return f"{name} = Constant <value = float[{','.join(map(str, array.shape))}] {{{listed}}}> ()"


def whole(name: str, *values: int) -> str:
    """A line with a constant int64 [n]."""
    return f"{name} = Constant <value = int64[{len(values)}] {{{', '.join(map(str, values))}}}> ()"
