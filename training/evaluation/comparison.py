"""Paired tests of two versions on the same pictures, so that "better" means something."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Comparison:
    """Difference of two versions in a figure, this one's less the other's."""

    difference: float
    p_value: float
    """How probable so large a difference is between versions that are equally good."""
    test: str

    def sentence(self, this: str, other: str) -> str:
        """What the figures say, in words."""
        if self.p_value >= 0.05:
            return f"{this} and {other} cannot be told apart on these pictures (p = {self.p_value:.3f}, {self.test})."
        word = "better" if self.difference > 0 else "worse"
        points = 100 * abs(self.difference)
        return f"{this} is {word} than {other} by {points:.2f} points (p = {self.p_value:.2g}, {self.test})."

    def figures(self, this: str, other: str) -> dict[str, Any]:
        """All of it, as it goes into JSON."""
        return {**asdict(self), "says": self.sentence(this, other)}


def mcnemar(this: NDArray[np.bool_], other: NDArray[np.bool_]) -> Comparison:
    """McNemar's exact test on which pictures each version had right (McNemar 1947; two-sided binomial)."""
    gained, lost = int((this & ~other).sum()), int((~this & other).sum())
    count, fewer = gained + lost, min(gained, lost)
    tail = sum(math.comb(count, k) for k in range(fewer + 1))
    p_value = 1.0 if gained == lost else min(1.0, 2 * tail / 2**count)
    return Comparison(float(this.mean() - other.mean()), p_value, "McNemar's exact test")


def bootstrap(this: NDArray[np.int64], other: NDArray[np.int64], rounds: int = 2000) -> Comparison:
    """Mean IoU of confusion matrices int64 [pictures,C,C], pictures redrawn with replacement (Efron 1979)."""
    difference = _mean_iou(this.sum(0)) - _mean_iou(other.sum(0))
    random = np.random.default_rng(0)
    drawn = np.empty(rounds)
    for number in range(rounds):
        counts = np.bincount(random.integers(0, len(this), len(this)), minlength=len(this))
        drawn[number] = _mean_iou(np.tensordot(counts, this, 1)) - _mean_iou(np.tensordot(counts, other, 1))
    return by_redrawing(difference, drawn, len(this))


def by_redrawing(difference: float, drawn: NDArray[np.float64], pictures: int) -> Comparison:
    """A difference beside those of redrawn sets of `pictures`: the p-value is twice the share of sets in which its sign
    is the other one, the set that was drawn first counted as one of them (Davison and Hinkley 1997, section 4.2). Sets
    without a figure, NaN, do not count.

    It is at least that of a sign test in which every picture speaks for the same version: a few pictures, redrawn as
    often as one likes, say no more than they do.
    """
    known = drawn[~np.isnan(drawn)]
    against = int((known <= 0).sum()) if difference > 0 else int((known >= 0).sum())
    p_value = max(2 * (against + 1) / (len(known) + 1), 2.0 ** (1 - pictures))
    return Comparison(difference, min(1.0, p_value), f"bootstrap over pictures, {len(known)} rounds")


def _mean_iou(matrix: NDArray[np.int64]) -> float:
    """NaN where no pixel counts."""
    hits = np.diag(matrix).astype(np.float64)
    union = matrix.sum(0) + matrix.sum(1) - hits
    return float((hits[union > 0] / union[union > 0]).mean()) if union.any() else math.nan
