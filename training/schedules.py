"""Learning-rate schedules: factors of the base rate as functions of the step."""

import math
from collections.abc import Callable


def triangle(steps: int, peak: float) -> Callable[[int], float]:
    """Up to 1 at `peak` (a share of the run), then down to 0."""
    top = max(1.0, peak * steps)
    return lambda step: min((step + 1) / top, max(0.0, (steps - step) / max(1.0, steps - top)))


def two_triangles(steps: int, second: int, height: float) -> Callable[[int], float]:
    """A triangle up to step `second`, then one of `height` up to `steps`; both peak early."""
    first, again = triangle(second, peak=0.05), triangle(steps - second, peak=0.05)
    return lambda step: first(step) if step < second else height * again(step - second)


def cosine(steps: int, warm_up: int) -> Callable[[int], float]:
    """Linear warm-up, then half a cosine down to 0."""

    def factor(step: int) -> float:
        if step < warm_up:
            return (step + 1) / (warm_up + 1)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm_up) / max(1, steps - warm_up))))

    return factor
