"""Which places of a detector answer for which objects, and how far off they are: task-aligned assignment and loss.

A place is the better for an object the surer it is of its label and the more its box overlaps: score^0.5 x IoU^6 (Feng
et al. 2021, arXiv 2108.07755). Tensors of boxes hold left, top, right, bottom; N pictures, A places, M objects.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from training.networks.detector import CELL, Said
from training.networks.graphs import edges_of, places_of

_SURE, _TIGHT = 0.5, 6.0
_BOX_WEIGHT = 2.0
_TINY = 1e-20


@dataclass(frozen=True)
class Matches:
    """Who answers for what."""

    targets: Tensor
    """What each place should say of each class, float [N,A,C]: the IoU of the best place of an object, less for those
    that fit less, 0 where a place answers for nothing."""
    shares: Tensor
    """How much each place counts for its object, float [N,A]: the best place 1."""
    boxes: Tensor
    """The box that each place answers for, float [N,A,4]; anything where its share is 0."""


def loss(said: Said, truth: Tensor, places: int) -> Tensor:
    """What a head said against truths float [N,M,5] (boxes, label or -1), with so many places for an object: focal
    loss of the scores, and for places that answer for something 1 - CIoU of their boxes."""
    logits, boxes = said.logits.flatten(2).transpose(1, 2), edges_of(said)
    found = match(logits.detach().sigmoid(), boxes.detach(), places_of(said), truth, places)
    kinds = quality_focal(logits, found.targets).sum()
    chosen = found.shares > 0
    # Shares, and not targets: a small object, whose boxes are hardly tight at first, would count for nothing.
    apart = (1 - complete_overlap(boxes[chosen], found.boxes[chosen])) * found.shares[chosen]
    return kinds / found.targets.sum().clamp_min(1) + _BOX_WEIGHT * apart.sum() / found.shares.sum().clamp_min(1)


@torch.no_grad()
def match(scores: Tensor, boxes: Tensor, centres: Tensor, truth: Tensor, places: int) -> Matches:
    """Give each object its best `places` among those whose centre [A,2] lies in it; a place answers for one object.

    Scores are float [N,A,C], boxes [N,A,4], truths [N,M,5].
    """
    wanted, labels = truth[:, :, :4], truth[:, :, 4].long()
    tight = overlap(wanted[:, :, None], boxes[:, None]) * _within(centres, wanted) * (labels >= 0)[:, :, None]
    kinds = labels.clamp_min(0)[:, :, None].expand(-1, -1, scores.shape[1])
    fitness = scores.transpose(1, 2).gather(1, kinds) ** _SURE * tight**_TIGHT
    best, places_of_best = fitness.topk(min(places, fitness.shape[2]), 2)
    taken = torch.zeros_like(fitness).scatter_(2, places_of_best, (best > 0).to(fitness))
    owner = (taken * tight).argmax(1)
    taken = taken * functional.one_hot(owner, truth.shape[1]).transpose(1, 2)
    worth = fitness * taken
    shares = worth / worth.amax(2, keepdim=True).clamp_min(_TINY)
    sure = shares * (tight * taken).amax(2, keepdim=True)
    return Matches(
        torch.einsum("nma,nmc->nac", sure, functional.one_hot(labels.clamp_min(0), scores.shape[2]).to(sure)),
        shares.amax(1),
        wanted.gather(1, owner[:, :, None].expand(-1, -1, 4)),
    )


def quality_focal(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy of scores against targets in 0..1, weighted by the square of their difference (Li et al. 2020,
    arXiv 2006.04388): unweighted, the many places that are nothing keep rare labels from being learned at all."""
    plain = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (logits.sigmoid() - targets).square() * plain


def _within(centres: Tensor, boxes: Tensor) -> Tensor:
    """Whether places lie in boxes [N,M,4], which count as at least one cell wide and high: float [N,M,A]."""
    middle = (boxes[..., :2] + boxes[..., 2:]) / 2
    half = ((boxes[..., 2:] - boxes[..., :2]) / 2).clamp_min(CELL / 2)
    inside = (centres - middle[:, :, None]).abs() <= half[:, :, None]
    return inside.all(3).to(boxes)


def overlap(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union of boxes [...,4] that broadcast: [...]."""
    both = _area(torch.cat((one[..., :2].maximum(other[..., :2]), one[..., 2:].minimum(other[..., 2:])), -1))
    return both / (_area(one) + _area(other) - both).clamp_min(_TINY)


def complete_overlap(one: Tensor, other: Tensor) -> Tensor:
    """CIoU of pairs of boxes [n,4]: IoU less the distance of the middles and the difference in shape (Zheng et al.
    2020, arXiv 1911.08287)."""
    shared = overlap(one, other)
    around = one[:, 2:].maximum(other[:, 2:]) - one[:, :2].minimum(other[:, :2])
    middles = (one[:, :2] + one[:, 2:] - other[:, :2] - other[:, 2:]) / 2
    distance = middles.square().sum(1) / around.square().sum(1).clamp_min(_TINY)
    angles = [torch.atan2(box[:, 2] - box[:, 0], box[:, 3] - box[:, 1]) for box in (one, other)]
    shape = 4 / torch.pi**2 * (angles[0] - angles[1]).square()
    with torch.no_grad():
        share = shape / (1 - shared + shape).clamp_min(_TINY)
    return shared - distance - share * shape


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp_min(0).prod(-1)
