"""The tail of segmenters: maps of scores or of labels to a label and a confidence for every pixel."""

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto, helper

from app.tensors import Tensor, Tensors
from training.adoption.foreign import Foreign
from training.adoption.fronts import Front
from training.adoption.tails import Ask, Rows, Tail, finite, needs_softmax, softmax_of
from training.adoption.text import chain, floats, whole
from training.adoption.wanted import Activation, Wanted
from training.export import ExportRefused

_MOST_LABELS = 256
"""A mask is one byte a pixel."""


def segment_tail(network: Foreign, front: Front, wanted: Wanted, ask: Ask, labels: int | None) -> Tail:
    """Maps of scores [N,C,h,w], of one score [N,1,h,w] (nothing, something) or of labels [N,h,w] to `mask` and
    `confidence`. Raises ExportRefused."""
    output = network.output(wanted.output)
    assert front.image is not None
    sides = (front.image.height, front.image.width)
    maps = ask(output)
    first = []
    if maps.ndim == 3:
        maps, first = maps[:, None], ["Unsqueeze ($, second)"]
    elif maps.ndim == 4 and wanted.layout == "nhwc":
        maps, first = maps.transpose(0, 3, 1, 2), ["Transpose <perm = [0, 3, 1, 2]> ($)"]
    _check_maps(maps, output, sides, wanted)
    factors = [_enlarging(side, small) for side, small in zip(sides, maps.shape[2:], strict=True)]
    plan = _Maps(maps, sides, first, None if factors == [1.0, 1.0] else [1.0, 1.0, *factors])
    activation, count = "none", labels or 0
    if maps.dtype.kind == "f":
        activation, count = _map_activation(finite(maps, output), wanted), max(2, maps.shape[1])
        text, expected = _scores_text(plan, activation), _scores_expected(plan, activation)
    else:
        _check_labels(maps, output, labels)
        text, expected = _labels_text(plan), _labels_expected(plan)
    dims: list[str | int | None] = ["batch", *sides]
    return Tail(
        text,
        {"x": output, "mask": "mask", "confidence": "confidence"},
        tuple(helper.make_tensor_value_info(name, TensorProto.UINT8, dims) for name in ("mask", "confidence")),
        expected,
        {"mask_agreement": 0.999, "confidence_max_abs_diff": 3},
        count,
        {"output": output, "activation": activation},
    )


@dataclass(frozen=True)
class _Maps:
    """What a file says of every pixel, or of every few."""

    values: Tensor
    """[N,C,h,w]"""
    sides: tuple[int, int]
    """Height and width of the pictures."""
    first: list[str]
    """Steps that give the output of the file these axes."""
    factors: list[float] | None
    """How much larger the pictures are, axis by axis; None where they are not."""


def _check_maps(maps: Tensor, output: str, sides: tuple[int, int], wanted: Wanted) -> None:
    found = f"{output} is {maps.dtype} {list(maps.shape)} for pictures of {sides[1]}x{sides[0]}"
    if maps.ndim != 4 or maps.dtype.kind not in "fiu":
        hint = ": --task classify is for rows of scores" if maps.ndim == 2 else ""
        raise ExportRefused(f"{found}, no map of scores [N,C,h,w] or of labels [N,h,w]{hint}")
    if max(maps.shape[2:]) == 1:
        raise ExportRefused(f"{found}, one score a picture and no map: --task classify is for those")
    if maps.shape[2] > sides[0] or maps.shape[3] > sides[1] or maps.shape[1] > _MOST_LABELS:
        raise ExportRefused(
            f"{found}, larger than those or with more than {_MOST_LABELS} classes: --output chooses the output with the"
            f" scores, --layout says whether channels are first (as they were read: {wanted.layout})"
        )


def _check_labels(maps: Tensor, output: str, labels: int | None) -> None:
    if maps.shape[1] != 1:
        raise ExportRefused(
            f"{output} holds {maps.shape[1]} whole numbers for each pixel: choose another with --output"
        )
    if labels is None:
        raise ExportRefused(f"{output} is a map of labels, not of scores: say with --labels which labels there are")
    if not 0 <= maps.min() <= maps.max() < min(labels, _MOST_LABELS):
        raise ExportRefused(
            f"{output} holds labels from {maps.min()} to {maps.max()}; --labels names {labels}, {_MOST_LABELS} at most"
        )


def _map_activation(planes: Rows, wanted: Wanted) -> Activation:
    if planes.shape[1] > 1:
        if wanted.activation == "sigmoid":
            raise ExportRefused("a pixel has one label of several: --activation is softmax, none or auto")
        return "softmax" if needs_softmax(planes, wanted) else "none"
    bounded = bool(((planes >= 0) & (planes <= 1)).all())
    if wanted.activation == "softmax":
        raise ExportRefused("the file gives one score a pixel: --activation is sigmoid, none or auto")
    if wanted.activation == "none" and not bounded:
        raise ExportRefused("the scores of the file leave 0..1: say --activation sigmoid")
    return "none" if bounded and wanted.activation != "sigmoid" else "sigmoid"


def _enlarging(side: int, small: int) -> float:
    """The least factor in single precision that makes `side` of `small`: ONNX rounds the product down."""
    factor = np.float32(side / small)
    while int(np.floor(factor * np.float32(small))) < side:
        factor = np.nextafter(factor, np.float32(np.inf))
    return float(factor)


_BILINEAR = 'Resize <mode = "linear", coordinate_transformation_mode = "half_pixel"> ($, , scales)'
_NEAREST = (
    'Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"> ($, , scales)'
)


def _scores_text(plan: _Maps, activation: Activation) -> str:
    steps = [*plan.first, "Cast <to = 1> ($)", *([_BILINEAR] if plan.factors else [])]
    steps += {"softmax": ["Softmax <axis = 1> ($)"], "sigmoid": ["Sigmoid ($)"]}.get(activation, [])
    lines = [whole("second", 1), floats("byte", 255), floats("scales", plan.factors or 1), chain("x", steps, "sure")]
    if plan.values.shape[1] == 1:
        lines += [floats("one", 1), "nothing = Sub (one, sure)", "shares = Concat <axis = 1> (nothing, sure)"]
    else:
        lines += ["shares = Identity (sure)"]
    return "\n".join([
        *lines, "best, which = TopK <axis = 1> (shares, second)",
        chain("which", ["Squeeze ($, second)", "Cast <to = 2> ($)"], "mask"),
        chain("best", ["Squeeze ($, second)", "Mul ($, byte)", "Round ($)", "Cast <to = 2> ($)"], "confidence"),
    ])  # fmt: skip


def _scores_expected(plan: _Maps, activation: Activation) -> Tensors:
    masks, confidences = [], []
    for row in plan.values:  # one by one: maps of many classes are large
        shares = bilinear(row.astype(np.float64), *plan.sides)
        if activation == "softmax":
            shares = softmax_of(shares[None])[0]
        elif activation == "sigmoid":
            shares = 1 / (1 + np.exp(-shares))
        if len(shares) == 1:
            shares = np.concatenate((1 - shares, shares))
        masks.append(shares.argmax(0).astype(np.uint8))
        confidences.append(np.round(255 * shares.max(0)).astype(np.uint8))
    return {"mask": np.stack(masks), "confidence": np.stack(confidences)}


def bilinear(maps: Rows, height: int, width: int) -> Rows:
    """Maps [C,h,w] enlarged to [C,height,width], where pixels are squares and samples lie in their middles."""
    for axis, side in ((1, height), (2, width)):
        small = maps.shape[axis]
        place = np.clip((np.arange(side) + 0.5) * small / side - 0.5, 0, small - 1)
        low = np.floor(place).astype(int)
        share = (place - low).reshape((-1, 1) if axis == 1 else (1, -1))
        maps = maps.take(low, axis) * (1 - share) + maps.take(np.minimum(low + 1, small - 1), axis) * share
    return maps


def _labels_text(plan: _Maps) -> str:
    steps = [*plan.first, "Cast <to = 1> ($)", *([_NEAREST] if plan.factors else [])]
    certain = ["Shape ($)", "ConstantOfShape <value = uint8[1] {255}> ($)"]  # the file does not say how sure it is
    return "\n".join([
        whole("second", 1), floats("scales", plan.factors or 1),
        chain("x", [*steps, "Squeeze ($, second)", "Cast <to = 2> ($)"], "labels"),
        chain("labels", [], "mask"), chain("labels", certain, "confidence"),
    ])  # fmt: skip


def _labels_expected(plan: _Maps) -> Tensors:
    rows, columns = (
        np.arange(side) * small // side for side, small in zip(plan.sides, plan.values.shape[2:], strict=True)
    )
    mask = plan.values[:, 0][:, rows][:, :, columns].astype(np.uint8)
    return {"mask": mask, "confidence": np.full_like(mask, 255)}
