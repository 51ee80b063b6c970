"""Tails: what stands after a foreign network, from what it says to the outputs of imago's contract.

Each task's function judges what the file itself said of random rows, says in the terms of the command line what does
not fit, and gives the same answers in plain numpy, for the graph to be held against. That of classifiers is here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from app.tensors import Tensor, Tensors
from training.adoption.foreign import Foreign
from training.adoption.fronts import Front
from training.adoption.text import chain
from training.adoption.wanted import Wanted
from training.export import ExportRefused

Rows = NDArray[np.float64]
TOLERANCE = {"float32": 5e-4, "float16": 5e-3}
"""Largest difference of a probability. A ResNet-50 with confident outputs gave 1.4e-4 between batches and single rows,
by rounding alone; rows that depend on one another differ by far more."""
_ROUNDING = 1e-3
"""How far the probabilities of a row may be from 1 in sum, in half precision, too."""


@dataclass(frozen=True)
class Tail:
    """One tail."""

    text: str
    names: Mapping[str, str]
    """What the values of the text are called outside of it: outputs of the file and of the contract."""
    outputs: tuple[onnx.ValueInfoProto, ...]
    """Those of the contract."""
    expected: Tensors
    """What they hold for the random rows of the front."""
    limits: Mapping[str, float]
    """How far the graph may be from that, by the names of `parity`: most of a difference, least of agreement."""
    labels: int
    facts: Mapping[str, str]
    """For the manifest."""


Ask = Callable[[str], Tensor]
"""What an output of the file says of the random rows, one after the other."""


def classify_tail(network: Foreign, front: Front, wanted: Wanted, ask: Ask, labels: int | None) -> Tail:
    """Scores [N,C] to `probabilities`. Raises ExportRefused."""
    output = network.output(wanted.output)
    scores = ask(output)
    count = len(front.served["image"])
    if (
        scores.ndim < 2
        or scores.shape[0] != count
        or scores.size != count * scores.shape[1]
        or scores.dtype.kind != "f"
    ):
        maps = scores.ndim == 4 and min(scores.shape[2:]) > 1
        raise ExportRefused(
            f"{output} is {scores.dtype} {list(scores.shape)} for {count} pictures: not a row of scores for each"
            + (" (--task segment is for maps of scores)" if maps else "")
        )
    rows = finite(scores, output).reshape(count, -1)
    if rows.shape[1] < 2:
        raise ExportRefused("the file gives one score a picture, a yes or no: classify needs one for each label")
    if wanted.activation == "sigmoid":
        raise ExportRefused("classify needs probabilities that add up to 1: --activation is softmax, none or auto")
    softmax = needs_softmax(rows, wanted)
    steps = ["Cast <to = 1> ($)", "Flatten <axis = 1> ($)", *(["Softmax <axis = 1> ($)"] if softmax else [])]
    return Tail(
        chain("x", steps, "probabilities"),
        {"x": output, "probabilities": "probabilities"},
        (helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", rows.shape[1]]),),
        {"probabilities": softmax_of(rows) if softmax else rows},
        {"probabilities_max_abs_diff": TOLERANCE[str(scores.dtype)], "top1_agreement": 1.0},
        rows.shape[1],
        {"output": output, "activation": "softmax" if softmax else "none"},
    )


def needs_softmax(rows: Rows, wanted: Wanted) -> bool:
    """Whether scores [N,C,...] are no probabilities yet. Raises ExportRefused where they cannot become such."""
    if wanted.activation == "softmax":
        return True
    bounded = bool((rows >= 0).all() and (rows <= 1 + _ROUNDING).all())
    if bounded and np.allclose(rows.sum(1), 1, atol=_ROUNDING):
        return False
    if wanted.activation == "none":
        raise ExportRefused(
            "the rows of the file are no probabilities: they are negative, or their sum is not 1 (--activation softmax)"
        )
    if bounded:
        raise ExportRefused(
            "every score lies in 0..1 and the rows do not add up to 1, as those of a sigmoid for several labels a"
            f" picture do, which {wanted.task} does not serve; if they are logits all the same, say --activation"
            " softmax"
        )
    return True


def softmax_of(rows: Rows) -> Rows:
    """Along the second axis."""
    powers = np.exp(rows - rows.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def finite(values: Tensor, output: str) -> Rows:
    """The same in double precision. Raises ExportRefused where something is no number."""
    if not np.isfinite(values).all():
        raise ExportRefused(f"{output} is not finite for random rows: check --mean, --std and --input-range")
    return values.astype(np.float64)
