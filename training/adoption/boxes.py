"""Boxes, scores and classes as a foreign detector gives them, and whether what was said of them can be true."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.adoption.foreign import Foreign
from training.adoption.fronts import Front
from training.adoption.tails import Ask, Rows, finite, softmax_of
from training.adoption.wanted import Activation, Boxes, Wanted
from training.export import ExportRefused

_DENSE = 1000
"""So many boxes a picture are no choice yet: several lie on each thing."""
_CORNERS: Mapping[str, list[list[float]]] = {
    "xyxy": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
    "yxyx": [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]],
    "xywh": [[1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 1]],
    "cxcywh": [[1, 0, 1, 0], [0, 1, 0, 1], [-0.5, 0, 0.5, 0], [0, -0.5, 0, 0.5]],
}
"""What four numbers have to be multiplied with to be left, top, right, bottom."""
_SOUND = 0.9
"""Least share of boxes with a left, upper corner left of and above the other one."""


@dataclass(frozen=True)
class Said:
    """What a file says of its random rows."""

    boxes: Rows
    """[N,K,4], as it gives them."""
    scores: Rows
    """[N,K,C], or [N,K] where it has chosen the classes."""
    classes: NDArray[np.int64] | None
    """[N,K]."""


def names_of(network: Foreign, wanted: Wanted, ask: Ask) -> dict[str, str]:
    """Which outputs hold boxes (b), scores (s) and, where they are chosen, classes (c). Raises ExportRefused."""
    if len(network.outputs) < 2:
        raise ExportRefused(
            f"detect needs an output with boxes and one with scores; this file has {', '.join(network.outputs)} alone"
        )
    boxes = network.output(wanted.boxes.output, "--boxes", [] if wanted.boxes.output else _fours(network, ask))
    taken = {boxes, wanted.boxes.classes}
    scores = network.output(wanted.output, among=[name for name in network.outputs if name not in taken])
    chosen = {} if wanted.boxes.classes is None else {"c": network.output(wanted.boxes.classes, "--classes")}
    return {"b": boxes, "s": scores, **chosen}


def _fours(network: Foreign, ask: Ask) -> list[str]:
    """Outputs that could hold boxes."""
    return [name for name in network.outputs if ask(name).ndim == 3 and ask(name).shape[2] == 4]


def read(names: Mapping[str, str], ask: Ask) -> Said:
    """What those outputs hold. Raises ExportRefused."""
    boxes, scores = ask(names["b"]), ask(names["s"])
    found = "; ".join(f"{name} is {ask(name).dtype} {list(ask(name).shape)}" for name in names.values())
    if boxes.dtype.kind != "f" or boxes.ndim != 3 or boxes.shape[2] != 4:
        raise ExportRefused(f"boxes are float [N,K,4], chosen with --boxes; {found}")
    wanted = "[N,K,C], chosen with --output" if "c" not in names else "[N,K], chosen with --output, beside --classes"
    if scores.dtype.kind != "f" or scores.ndim != (3 if "c" not in names else 2) or scores.shape[:2] != boxes.shape[:2]:
        hint = ", and what class each box has with --classes" if scores.ndim == 2 and "c" not in names else ""
        raise ExportRefused(f"scores are float {wanted}{hint}; {found}")
    classes = None
    if "c" in names:
        classes = ask(names["c"])
        if classes.shape != scores.shape or (classes.astype(np.float64) % 1).any():
            raise ExportRefused(f"classes are whole numbers [N,K], chosen with --classes; {found}")
    return Said(
        finite(boxes, names["b"]),
        finite(scores, names["s"]),
        None if classes is None else classes.astype(np.int64),
    )


def activation_of(scores: Rows, wanted: Wanted) -> Activation:
    """What makes the scores lie in 0..1. Raises ExportRefused."""
    bounded = bool(((scores >= 0) & (scores <= 1 + 1e-3)).all())
    if wanted.activation == "softmax" and scores.ndim == 2:
        raise ExportRefused("the file has chosen one class a box: --activation is sigmoid, none or auto")
    if wanted.activation in ("softmax", "sigmoid"):
        return wanted.activation
    if not bounded:
        raise ExportRefused(
            f"the scores of the file run from {scores.min():.3g} to {scores.max():.3g}: say --activation sigmoid, or"
            " softmax (with --background, where a class means that there is nothing)"
        )
    return "none"


def labels_of(said: Said, boxes: Boxes, labels: int | None) -> int:
    """How many labels there are without the background. Raises ExportRefused."""
    if said.classes is None:
        return int(said.scores.shape[2]) - (boxes.background != "none")
    if boxes.background == "last":
        raise ExportRefused("where the file has chosen the classes, --background is first or none")
    if labels is None:
        raise ExportRefused("the file gives the number of a class: say with --labels which classes there are")
    first = int(boxes.background == "first")
    if said.classes.max() - first >= labels:
        raise ExportRefused(
            f"--labels names {labels} classes; the file speaks of number {said.classes.max()}"
            + ("" if first else " (--background first, where 0 means that there is nothing)")
        )
    return labels


def corners_of(boxes: Rows, front: Front, wanted: Boxes) -> Rows:
    """Float [4,4]: four numbers of a box times this are its left, upper, right and lower edge in pixels.

    Raises ExportRefused.
    """
    assert front.image is not None
    largest = float(np.abs(boxes).max())
    fractions = wanted.unit == "fractions" or (wanted.unit == "auto" and largest <= 2)
    if wanted.unit == "pixels" and largest <= 2:
        raise ExportRefused(f"no number of a box is larger than {largest:.2g}: say --box-unit fractions")
    if wanted.unit == "fractions" and largest > 20:
        raise ExportRefused(f"numbers of boxes go up to {largest:.4g}: say --box-unit pixels")
    sides = [front.image.width, front.image.height] * 2 if fractions else [1] * 4
    corners: Rows = np.array(_CORNERS[wanted.form]) * np.array(sides)
    edges = boxes @ corners
    sound = ((edges[..., 0] <= edges[..., 2]) & (edges[..., 1] <= edges[..., 3])).mean()
    middle = (edges[..., :2] + edges[..., 2:]) / 2
    within = ((middle >= 0) & (middle <= [front.image.width, front.image.height])).all(-1).mean()
    if min(sound, within) < _SOUND:
        raise ExportRefused(
            f"read as {wanted.form} in {'fractions' if fractions else 'pixels'}, {sound:.0%} of the boxes have their"
            f" corners in order and {within:.0%} their middle in the picture: say another --box-format"
            f" ({', '.join(_CORNERS)}) or --box-unit"
        )
    return corners


def suppression_of(said: Said, boxes: Boxes) -> float | None:
    """The IoU from which on a surer box of a class drops others, or None. Raises ExportRefused."""
    count = said.boxes.shape[1]
    if said.classes is not None:
        if boxes.suppress is not None:
            raise ExportRefused("the file has chosen classes and boxes already: leave --suppress away")
        return None
    if boxes.suppress is None and count > _DENSE:
        raise ExportRefused(
            f"the file gives {count} boxes a picture, several for each thing: say with --suppress from which IoU on the"
            " surer one stays alone (0.65), or 1 if nothing is to be dropped"
        )
    return None if boxes.suppress is None or boxes.suppress >= 1 else boxes.suppress


def sure_of(scores: Rows, activation: Activation, boxes: Boxes) -> Rows:
    """Scores in 0..1, without the background's."""
    if activation == "sigmoid":
        scores = 1 / (1 + np.exp(-scores))
    elif activation == "softmax":
        scores = softmax_of(scores.transpose(0, 2, 1)).transpose(0, 2, 1)
    if scores.ndim == 2:
        return scores
    return {"none": scores, "first": scores[..., 1:], "last": scores[..., :-1]}[boxes.background]
