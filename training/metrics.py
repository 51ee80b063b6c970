"""Scores as plain functions of predictions and truth, shared by validation and verification."""

import torch
from torch import Tensor


def accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Share of equal entries of two int64 [N]."""
    return float((predicted == labels).double().mean())


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The T that minimises the cross entropy of float [N,C] logits / T (Guo et al. 2017, arXiv 1706.04599).

    In 1/T the loss is convex, so the zero of its slope is found by halving.
    """
    low, high = 0.01, 100.0
    for _ in range(50):
        middle = (low * high) ** 0.5
        expected = (torch.softmax(middle * logits, 1) * logits).sum(1)
        if float((expected - logits.gather(1, labels[:, None])[:, 0]).mean()) > 0:
            high = middle
        else:
            low = middle
    return 1 / low


def confusion(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Counts int64 [classes, classes] (row: truth) of two integer tensors; labels from `classes` on do not count."""
    counted = labels.flatten() < classes
    pairs = labels.flatten()[counted].long() * classes + predicted.flatten()[counted].long()
    return torch.bincount(pairs, minlength=classes * classes).view(classes, classes)


def intersection_over_union(matrix: Tensor) -> Tensor:
    """Per-class IoU float [classes] of a confusion matrix; NaN for a class neither shown nor predicted."""
    hits = matrix.diagonal().double()
    return hits / (matrix.sum(0) + matrix.sum(1) - hits)
