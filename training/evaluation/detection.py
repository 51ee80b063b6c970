"""Evaluation of a detector: how much of what is there it finds, how tightly, and how much of what it finds is there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.errors import InvalidModel
from app.imaging import paint
from training.average_precision import MOST, Pictures, Precision, precision, redrawn
from training.data.held_out import Boxed
from training.data.pixels import OWN_PICTURES, decode
from training.evaluation.comparison import Comparison, by_redrawing
from training.figures import precision_figure, sheet
from training.version import Version

_SHOWN = 12
_ROUNDS = 200
_SURE = 0.5
"""Least score of a box that is drawn."""


@dataclass(frozen=True)
class Answers:
    """What a version answered to pictures with boxes."""

    pictures: Pictures


def ask(version: Version, pictures: Boxed) -> Answers:
    """Every picture through the server's own task. Raises InvalidModel where a true label is none of the version's."""
    labels = version.task.labels
    unknown = sorted({box.label for boxes in pictures.boxes for box in boxes} - set(labels))
    if unknown:
        raise InvalidModel(f"The pictures hold {unknown[0]!r}, which is no label of {version.manifest.name}.")
    truths = [
        np.array([(*box.edges, labels.index(box.label)) for box in boxes]).reshape(-1, 5) for boxes in pictures.boxes
    ]
    found = [
        np.array([(*one["box"], one["score"], one["index"]) for one in answer["objects"]]).reshape(-1, 6)
        for answer in version.answers(pictures.files, pictures.names, threshold=0, max_count=MOST)
    ]
    return Answers(Pictures(labels, truths, found))


def figures_of(answers: Answers) -> tuple[Precision, dict[str, float]]:
    """Average precision, and as plain figures: means with the bounds within which they lie in 95 % of redrawn sets of
    pictures (bootstrap), and each label's at an IoU of 0.5."""
    whole = precision(answers.pictures)
    drawn = redrawn(answers.pictures, _ROUNDS)
    low, high = np.nanpercentile(drawn, [2.5, 97.5], axis=0).tolist()
    named = {"map50": whole.map50, "map50_low": low[0], "map50_high": high[0]}
    named |= {"map": whole.map, "map_low": low[1], "map_high": high[1]}
    each = zip(answers.pictures.labels, whole.ap50.tolist(), strict=True)
    return whole, named | {f"ap50_{label}": value for label, value in each if not np.isnan(value)}


def report(answers: Answers, pictures: Boxed) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Figures that go into JSON, and pictures by file name."""
    whole, named = figures_of(answers)
    labels, truths = answers.pictures.labels, np.concatenate(answers.pictures.truths)
    counts = np.bincount(truths[:, 4].astype(np.int64), minlength=len(labels)).tolist()
    single = [precision(answers.pictures.chosen([row])).map50 for row in range(len(pictures.files))]
    # A picture where nothing is has no figure, and sorts last.
    worst = [row for row in np.argsort(single, kind="stable").tolist() if not np.isnan(single[row])][:_SHOWN]
    figures = {
        "pictures": len(pictures.files),
        **named,
        "classes": {
            label: {
                "ap50": float(whole.ap50[row]),
                "ap": float(whole.ap[row]),
                "best_threshold": float(whole.thresholds[row]),
                "objects": counts[row],
            }
            for row, label in enumerate(labels)
            if counts[row]
        },
        "worst": [{"picture": pictures.names[row], "map50": round(float(single[row]), 4)} for row in worst],
    }
    tiles = []
    for row in worst:
        image = decode(pictures.files[row], pictures.names[row], OWN_PICTURES)
        found, truth = answers.pictures.found[row], answers.pictures.truths[row]
        sure = found[found[:, 4] >= _SURE]
        tiles += [
            (image, f"mAP50 {single[row]:.2f}"),
            (_drawn(image, sure[:, [0, 1, 2, 3, 5]], labels), "answered"),
            (_drawn(image, truth, labels), "true"),
        ]
    return figures, {"precision-recall.png": precision_figure(whole.curves, labels), "worst.png": sheet(tiles)}


def compare(this: Answers, other: Answers) -> Comparison:
    """A paired test of two versions on the same pictures."""
    difference = precision(this.pictures).map50 - precision(other.pictures).map50
    drawn = redrawn(this.pictures, _ROUNDS)[:, 0] - redrawn(other.pictures, _ROUNDS)[:, 0]
    return by_redrawing(difference, drawn, len(this.pictures.truths))


def _drawn(image: NDArray[np.uint8], boxes: NDArray[np.float64], labels: Sequence[str]) -> NDArray[np.uint8]:
    """Boxes [n,5] over a picture, a colour a label."""
    colours = paint.default_palette(len(labels))
    return paint.box_overlay(
        image,
        [
            paint.Boxed((left, top, right, bottom), colours[int(kind)], "")
            for left, top, right, bottom, kind in boxes.tolist()
        ],
    )
