"""Average precision of detections, by faster-coco-eval: the figures of COCO (Lin et al. 2014, arXiv 1405.0312)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray

MOST = 100
"""Detections of a picture that count, best first."""
_ALL_AREAS = [[0.0, 1e10]]


@dataclass(frozen=True)
class Pictures:
    """What is in some pictures and what was found in each, boxes as left, top, right, bottom in pixels."""

    labels: tuple[str, ...]
    truths: Sequence[NDArray[np.float64]]
    """Of each picture [n,5]: box and number of the label."""
    found: Sequence[NDArray[np.float64]]
    """Of each picture [n,6]: box, score and number of the label."""

    def chosen(self, rows: Sequence[int]) -> "Pictures":
        """Some of the pictures; one may be chosen several times."""
        return Pictures(self.labels, [self.truths[row] for row in rows], [self.found[row] for row in rows])


@dataclass(frozen=True)
class Precision:
    """Average precision of each label, NaN where no picture has one of it, and precision at 101 levels of recall."""

    map50: float
    """Mean over labels at an IoU of 0.5."""
    map: float
    """Mean over labels and over IoUs of 0.50, 0.55, ... 0.95."""
    ap50: NDArray[np.float64]
    ap: NDArray[np.float64]
    curves: NDArray[np.float64]
    """Float [labels,101] at an IoU of 0.5."""
    thresholds: NDArray[np.float64]
    """The score from which on boxes of each label give the best F1 at an IoU of 0.5."""


def precision(pictures: Pictures) -> Precision:
    """The figures of some pictures."""
    truth = COCO(_dataset(pictures))
    evaluation = COCOeval_faster(truth, truth.loadRes(_results(pictures)), "bbox")
    evaluation.params.areaRng, evaluation.params.areaRngLbl = _ALL_AREAS, ["all"]
    evaluation.params.maxDets = [MOST]
    evaluation.evaluate()
    evaluation.accumulate()
    # By IoU, recall, label, area and number of detections; -1 where a label has no object.
    curves, scores = (np.asarray(evaluation.eval[name], np.float64)[:, :, :, 0, 0] for name in ("precision", "scores"))
    curves[curves < 0] = np.nan
    ap50, ap = curves[0].mean(0), curves.mean((0, 1))
    return Precision(_mean(ap50), _mean(ap), ap50, ap, curves[0].T, _best_scores(curves[0], scores[0]))


def _best_scores(precisions: NDArray[np.float64], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each label the score at the level of recall with the best F1; both are [101,labels]."""
    recall = np.linspace(0, 1, len(precisions))[:, None]
    f1 = np.nan_to_num(2 * precisions * recall / np.maximum(precisions + recall, 1e-9))
    return np.asarray(np.take_along_axis(scores, f1.argmax(0)[None], 0)[0])


def _mean(values: NDArray[np.float64]) -> float:
    """Over labels that have an object."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan


def redrawn(pictures: Pictures, rounds: int) -> NDArray[np.float64]:
    """map50 and map of sets of pictures redrawn with replacement (Efron 1979): float [rounds,2]. The sets depend on the
    number of pictures alone, so that two versions are compared on the same ones."""
    random, count = np.random.default_rng(0), len(pictures.truths)
    figures = [precision(pictures.chosen(random.integers(0, count, count).tolist())) for _ in range(rounds)]
    return np.array([(each.map50, each.map) for each in figures])


def _dataset(pictures: Pictures) -> dict[str, list[dict[str, object]]]:
    """Truths in COCO's form, where all numbers begin at 1."""
    objects = [
        {"image_id": number, "bbox": _sides(box), "area": _area(box), "category_id": int(box[4]) + 1, "iscrowd": 0}
        for number, truth in enumerate(pictures.truths, 1)
        for box in truth.tolist()
    ]
    return {
        "images": [{"id": number} for number in range(1, len(pictures.truths) + 1)],
        "annotations": [{"id": number, **each} for number, each in enumerate(objects, 1)],
        "categories": [{"id": number, "name": label} for number, label in enumerate(pictures.labels, 1)],
    }


def _results(pictures: Pictures) -> NDArray[np.float64]:
    """Detections in COCO's form: picture, left, top, width, height, score, label."""
    rows = [np.zeros((0, 7))]
    for number, found in enumerate(pictures.found, 1):
        best = found[np.argsort(-found[:, 4], kind="stable")[:MOST]]
        sides = best[:, 2:4] - best[:, :2]
        rows.append(np.column_stack([np.full(len(best), number), best[:, :2], sides, best[:, 4], best[:, 5] + 1]))
    return np.concatenate(rows)


def _sides(box: list[float]) -> list[float]:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def _area(box: list[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
