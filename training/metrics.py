"""Scores as plain functions of predictions and truth, shared by validation and verification."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc, multiclass_calibration_error

from app.manifest import Conformal

COVERAGES = tuple(round(0.5 + step / 100, 2) for step in range(50))
"""The levels that label sets are calibrated for."""


def accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Share of equal entries of two int64 [N]."""
    return float((predicted == labels).double().mean())


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The T that minimises the cross entropy of float [N,C] logits / T (Guo et al. 2017, arXiv 1706.04599).

    Where all are right no T is small enough, and every answer would be as sure as can be: there one picture more is
    counted, of which nothing is known (Platt 1999, section 2.2, smooths his targets for the same reason).

    In 1/T the loss is convex, so the zero of its slope is found by halving.
    """
    low, high = 0.01, 100.0
    wanted = logits.gather(1, labels[:, None])[:, 0]
    if bool((logits.argmax(1) == labels).all()):
        wanted = wanted + (logits.mean(1) - wanted) / (len(labels) + 1)
    for _ in range(50):
        middle = (low * high) ** 0.5
        expected = (torch.softmax(middle * logits, 1) * logits).sum(1)
        if float((expected - wanted).mean()) > 0:
            high = middle
        else:
            low = middle
    return 1 / low


def calibrate_sets(right: NDArray[np.floating]) -> Conformal:
    """From which probability on a label belongs to its set, by coverage; `right` is float [n], what held-out pictures
    gave to their right label.

    The k-th smallest score 1 - p with k = ceil((n + 1) * coverage) covers a new picture with at least that probability
    (split conformal prediction; Sadinle et al. 2019). Where n is too small for that, every label belongs to the set.
    """
    falling = np.sort(right)[::-1]
    ranks = {coverage: math.ceil((len(right) + 1) * coverage - 1e-9) for coverage in COVERAGES}
    least = {f"{level:.2f}": float(falling[rank - 1]) if rank <= len(right) else 0.0 for level, rank in ranks.items()}
    return Conformal(count=len(right), least=least)


def separation(inside: NDArray[np.floating], outside: NDArray[np.floating]) -> float:
    """The probability that a score of `outside` is above one of `inside` (area under the ROC curve); 0.5 is chance."""
    scores = torch.from_numpy(np.concatenate([inside, outside]))
    target = torch.cat([torch.zeros(len(inside), dtype=torch.long), torch.ones(len(outside), dtype=torch.long)])
    # Scores are ranked alike after this, and torchmetrics wants them in 0..1.
    low, high = scores.min(), scores.max()
    return float(binary_auroc((scores - low) / (high - low).clamp_min(1e-12), target))


def retrieval(embeddings: NDArray[np.floating], labels: NDArray[np.integer]) -> dict[str, float]:
    """How often a picture's nearest others are of its class: of float [N,D] of length 1, each row asked of the others.

    recall@k: whether one of the k nearest is. mAP@R: the mean precision at each hit among the R nearest, R the number
    of others of the class (Musgrave et al. 2020, "A metric learning reality check", section 3.2).
    """
    others = np.bincount(labels)[labels] - 1
    count = min(len(labels) - 1, max(5, int(others.max(initial=1))))
    near = nearest(embeddings, embeddings, count, apart=True)
    hits = labels[near] == labels[:, None]
    within = np.arange(count) < others[:, None]
    precision = hits.cumsum(1) / np.arange(1, count + 1)
    mean = (precision * (hits & within)).sum(1) / np.maximum(1, others)
    return {
        "recall_at_1": float(hits[:, 0].mean()),
        "recall_at_5": float(hits[:, :5].any(1).mean()),
        "map_at_r": float(mean[others > 0].mean()),
    }


def nearest(
    asked: NDArray[np.floating], known: NDArray[np.floating], count: int, apart: bool = False
) -> NDArray[np.integer]:
    """Row numbers [N,count] of the rows of float [M,D] with the largest inner product with each of float [N,D], largest
    first; with `apart` the row of the same number is left out."""
    found = []
    for start in range(0, len(asked), 500):
        likeness = asked[start : start + 500] @ known.T
        if apart:
            likeness[np.arange(len(likeness)), np.arange(start, start + len(likeness))] = -np.inf
        best = np.argpartition(-likeness, count - 1, axis=1)[:, :count]
        order = np.argsort(-np.take_along_axis(likeness, best, 1), axis=1, kind="stable")
        found.append(np.take_along_axis(best, order, 1))
    return np.concatenate(found)


def calibration_error(probabilities: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Expected calibration error of float [N,C] in 15 bins (Guo et al. 2017)."""
    # A rounding above 1 would make torchmetrics take all of them for logits.
    bounded = torch.from_numpy(probabilities.clip(0, 1))
    return float(multiclass_calibration_error(bounded, torch.from_numpy(labels), num_classes=probabilities.shape[1]))


def confusion(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Counts int64 [classes, classes] (row: truth) of two integer tensors; labels from `classes` on do not count."""
    counted = labels.flatten() < classes
    pairs = labels.flatten()[counted].long() * classes + predicted.flatten()[counted].long()
    return torch.bincount(pairs, minlength=classes * classes).view(classes, classes)


def intersection_over_union(matrix: Tensor) -> Tensor:
    """Per-class IoU float [classes] of a confusion matrix; NaN for a class neither shown nor predicted."""
    hits = matrix.diagonal().double()
    return hits / (matrix.sum(0) + matrix.sum(1) - hits)
