"""The tail of detectors: boxes with a score for each class, or with the one class chosen, to `boxes` [N,K,6].

What files leave to a program beside them, dropping all but the surest of the boxes that lie on one another, is done in
the graph: the server suppresses nothing.
"""

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from app.tensors import Tensor
from training.adoption.boxes import (
    Said,
    activation_of,
    corners_of,
    labels_of,
    names_of,
    read,
    suppression_of,
    sure_of,
)
from training.adoption.foreign import Foreign
from training.adoption.fronts import Front
from training.adoption.tails import Ask, Rows, Tail
from training.adoption.text import chain, floats, whole
from training.adoption.wanted import Activation, Boxes, Wanted

MOST = 100
"""Boxes that are answered, or fewer where the file has fewer."""
_LEAST = 1e-3
"""Score below which a box is not compared with others."""


def detect_tail(network: Foreign, front: Front, wanted: Wanted, ask: Ask, labels: int | None) -> Tail:
    """The tail; `labels` is how many there are, where that was said. Raises ExportRefused."""
    names = names_of(network, wanted, ask)
    said = read(names, ask)
    activation = activation_of(said.scores, wanted)
    count = labels_of(said, wanted.boxes, labels)
    corners = corners_of(said.boxes, front, wanted.boxes)
    suppress = suppression_of(said, wanted.boxes)
    boxes = said.boxes @ corners
    if said.classes is None:
        text = _dense_lines(corners, said, activation, wanted.boxes, suppress)
        expected = _dense(boxes, sure_of(said.scores, activation, wanted.boxes), suppress)
    else:
        text = _chosen_lines(corners, said, activation, wanted.boxes)
        kinds = said.classes - (wanted.boxes.background == "first")
        expected = _chosen(boxes, sure_of(said.scores, activation, wanted.boxes), kinds)
    dims: list[str | int | None] = ["batch", expected.shape[1], 6]
    return Tail(
        text,
        {**names, "boxes": "boxes"},
        (helper.make_tensor_value_info("boxes", TensorProto.FLOAT, dims),),
        {"boxes": expected},
        {"boxes_agreement": 0.99},
        count,
        {
            "output": names["s"],
            "boxes": names["b"],
            **({"classes": names["c"]} if "c" in names else {}),
            "activation": activation,
            "box_format": wanted.boxes.form,
            "background": wanted.boxes.background,
            "suppress": "none" if suppress is None else f"{suppress:g}",
        },
    )


def _dense_lines(corners: Rows, said: Said, activation: Activation, boxes: Boxes, suppress: float | None) -> str:
    """From boxes [N,K,4] and scores [N,K,C] to the best of all pairs of box and class."""
    count, classes = said.scores.shape[1:]
    begin, end = {"none": (0, classes), "first": (1, classes), "last": (0, classes - 1)}[boxes.background]
    steps = ["Cast <to = 1> ($)", *_ACTIVATIONS[activation]]
    steps += [] if boxes.background == "none" else ["Slice ($, begin, end, third)"]
    lines = [
        floats("corners", corners), whole("begin", begin), whole("end", end), whole("third", 2),
        chain("b", ["Cast <to = 1> ($)", "MatMul ($, corners)"], "edges"),
        chain("s", [*steps, "Transpose <perm = [0, 2, 1]> ($)"], "sure"),
    ]  # fmt: skip
    if suppress is None:
        lines.append("kept = Identity (sure)")
    else:
        lines += [
            whole("most", MOST), floats("iou", [suppress]), floats("least", [_LEAST]),
            "alone = NonMaxSuppression (edges, sure, most, iou, least)", "worth = GatherND (sure, alone)",
            "size = Shape (sure)", "nothing = ConstantOfShape <value = float[1] {0.0}> (size)",
            "kept = ScatterND (nothing, alone, worth)",
        ]  # fmt: skip
    lines += [
        whole("few", min(MOST, count * (end - begin))), whole("count", count),
        chain("kept", ["Flatten <axis = 1> ($)"], "pairs"), "best, which = TopK <axis = 1> (pairs, few)",
        "class = Div (which, count)", "place = Mod (which, count)",
    ]  # fmt: skip
    return "\n".join([*lines, _JOINED])


def _chosen_lines(corners: Rows, said: Said, activation: Activation, boxes: Boxes) -> str:
    """From boxes [N,K,4], scores [N,K] and classes [N,K] to the best."""
    steps = ["Cast <to = 7> ($)", *(["Sub ($, one)"] if boxes.background == "first" else [])]
    return "\n".join([
        floats("corners", corners), whole("one", 1), whole("few", min(MOST, said.scores.shape[1])), whole("third", 2),
        chain("b", ["Cast <to = 1> ($)", "MatMul ($, corners)"], "edges"),
        chain("s", ["Cast <to = 1> ($)", *_ACTIVATIONS[activation]], "sure"),
        chain("c", steps, "kinds"), "best, place = TopK <axis = 1> (sure, few)",
        "class = GatherElements <axis = 1> (kinds, place)", _JOINED,
    ])  # fmt: skip


_ACTIVATIONS: dict[str, list[str]] = {"none": [], "sigmoid": ["Sigmoid ($)"], "softmax": ["Softmax <axis = 2> ($)"]}
_JOINED = """
    column = Unsqueeze (place, third)
    four = Constant <value = int64[3] {1, 1, 4}> ()
    columns = Tile (column, four)
    chosen = GatherElements <axis = 1> (edges, columns)
    scores = Unsqueeze (best, third)
    labels = Cast <to = 1> (class)
    numbers = Unsqueeze (labels, third)
    boxes = Concat <axis = 2> (chosen, scores, numbers)
"""
"""From edges [N,K,4], places of the best [N,k], their scores and classes to rows of six."""


def _dense(boxes: Rows, scores: Rows, suppress: float | None) -> Tensor:
    """The same in numpy."""
    rows = []
    for edges, sure in zip(boxes, scores.transpose(0, 2, 1), strict=True):
        kept = sure if suppress is None else np.stack([_alone(edges, each, suppress) for each in sure])
        best = np.argsort(-kept.ravel(), kind="stable")[:MOST]
        rows.append(np.column_stack([edges[best % len(edges)], kept.ravel()[best], best // len(edges)]))
    return np.stack(rows)


def _chosen(boxes: Rows, scores: Rows, classes: NDArray[np.int64]) -> Tensor:
    best = np.argsort(-scores, axis=1, kind="stable")[:, :MOST]
    picked = [np.take_along_axis(values, best, 1)[..., None] for values in (scores, classes)]
    return np.concatenate([np.take_along_axis(boxes, best[..., None], 1), *picked], 2)


def _alone(edges: Rows, scores: Rows, suppress: float) -> Rows:
    """Scores [K] of one class, 0 where a surer box lies on the box [K,4] or a hundred surer ones stay."""
    kept = np.zeros_like(scores)
    left = np.where(scores > _LEAST, scores, 0)
    areas = (edges[:, 2:] - edges[:, :2]).prod(1)
    for _ in range(MOST):
        best = int(left.argmax())
        if left[best] <= 0:
            break
        kept[best] = scores[best]
        sides = np.minimum(edges[:, 2:], edges[best, 2:]) - np.maximum(edges[:, :2], edges[best, :2])
        both = sides.clip(0).prod(1)
        left[both > suppress * (areas + areas[best] - both)] = 0
        left[best] = 0
    return kept
