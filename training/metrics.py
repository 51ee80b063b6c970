"""Scores as plain functions of predictions and truth, shared by validation and verification."""

import torch
from torch import Tensor


def accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Share of equal entries of two int64 [N]."""
    return float((predicted == labels).double().mean())


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The T that minimises the cross entropy of float [N,C] logits / T (Guo et al. 2017, arXiv 1706.04599)."""
    inverse = torch.ones((), requires_grad=True)
    optimiser = torch.optim.LBFGS([inverse], max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(logits * inverse, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return 1 / float(inverse.detach())


def confusion(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Counts int64 [classes, classes] (row: truth) of two integer tensors; labels from `classes` on do not count."""
    counted = labels.flatten() < classes
    pairs = labels.flatten()[counted].long() * classes + predicted.flatten()[counted].long()
    return torch.bincount(pairs, minlength=classes * classes).view(classes, classes)


def intersection_over_union(matrix: Tensor) -> Tensor:
    """Per-class IoU float [classes] of a confusion matrix; NaN for a class neither shown nor predicted."""
    hits = matrix.diagonal().double()
    return hits / (matrix.sum(0) + matrix.sum(1) - hits)
