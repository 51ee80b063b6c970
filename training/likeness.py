"""How like real pictures generated ones are, by sets of features float [n,d] of one network.

Figures of different networks cannot be compared: none of these is an Inception FID.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Features = NDArray[np.floating]
_NEIGHBOURS = 5
_CHUNK = 1000


class Overlap(NamedTuple):
    """Precision and recall (Kynkaanniemi et al. 2019, arXiv 1904.06991), density and coverage (Naeem et al. 2020,
    arXiv 2002.09797), each with five neighbours."""

    precision: float
    """Share of generated pictures within the neighbourhood of a real one."""
    recall: float
    """Share of real pictures within the neighbourhood of a generated one."""
    density: float
    """Neighbourhoods of real pictures that a generated one lies in, divided by five: above 1 where they are crowded."""
    coverage: float
    """Share of real pictures whose neighbourhood holds a generated one."""


def frechet_distance(left: Features, right: Features) -> float:
    """Squared Frechet (Wasserstein-2) distance of the Gaussians fitted to two sets (Dowson and Landau 1982).

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2), the formula of Heusel et al. 2017 (arXiv 1706.08500).
    """
    means = [np.mean(each, 0, dtype=np.float64) for each in (left, right)]
    first, second = (np.cov(each.astype(np.float64), rowvar=False) for each in (left, right))
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ second @ root).clip(0)).sum()
    return float(((means[0] - means[1]) ** 2).sum() + np.trace(first) + np.trace(second) - 2 * shared)


def overlap(real: Features, made: Features) -> Overlap:
    """How the two sets cover one another; at least six of each."""
    ours, theirs = (torch.from_numpy(np.asarray(each, np.float32)) for each in (real, made))
    reach_real, reach_made = _reach(ours), _reach(theirs)
    inside_real = torch.zeros(len(theirs))
    inside_made = torch.zeros(len(ours), dtype=torch.bool)
    covered = torch.zeros(len(ours), dtype=torch.bool)
    for start in range(0, len(ours), _CHUNK):
        part = slice(start, start + _CHUNK)
        apart = torch.cdist(ours[part], theirs)
        within = apart <= reach_real[part, None]
        inside_real += within.sum(0)
        covered[part] = within.any(1)
        inside_made[part] = (apart <= reach_made).any(1)
    return Overlap(
        precision=float((inside_real > 0).double().mean()),
        recall=float(inside_made.double().mean()),
        density=float(inside_real.double().mean() / _NEIGHBOURS),
        coverage=float(covered.double().mean()),
    )


def nearest(made: Features, real: Features, count: int) -> NDArray[np.int64]:
    """Rows int64 [n,count] of the real pictures nearest to each generated one, nearest first."""
    apart = torch.cdist(torch.from_numpy(made), torch.from_numpy(real))
    return apart.topk(count, largest=False).indices.numpy()


def _reach(features: Tensor) -> Tensor:
    """Distance of each row to its fifth neighbour, itself not counted."""
    parts = [
        torch.cdist(features[start : start + _CHUNK], features).topk(_NEIGHBOURS + 1, largest=False).values[:, -1]
        for start in range(0, len(features), _CHUNK)
    ]
    return torch.cat(parts)
