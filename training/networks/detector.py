"""Detector: the encoder, a light way up to an eighth of the size, and two heads that say what is at each place.

In one head several places answer for each object, which teaches the encoder quickly; in the other, which is exported,
one place does, so that nothing has to be suppressed after it (dual assignments, Wang et al. 2024, arXiv 2405.14458).
"""

import math
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from training.networks.blocks import conv
from training.networks.encoder import Encoder

CELL = 8
"""Pixels from one place to the next."""
_RARE = 0.01
"""What an untrained head says of every place: objects are rare (Lin et al. 2017, arXiv 1708.02002)."""
_REACH = math.log(3.0)
"""Logarithm of the cells from an untrained place to each edge."""
_FURTHEST = 6.0
"""Largest such logarithm: 400 cells, more than any picture has."""


class Said(NamedTuple):
    """What a head says: logits float [N,classes,h,w], and cells from the centre of each place to the left, upper, right
    and lower edge of its object, float [N,4,h,w]."""

    logits: Tensor
    reach: Tensor


class Head(nn.Module):
    """Maps float [N,width,h,w] to what is said of each place; in full precision, because edges are compared."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.kind = _branch(width, classes, math.log(_RARE / (1 - _RARE)))
        self.reach = _branch(width, 4, _REACH)

    def forward(self, maps: Tensor) -> Said:
        """What is said."""
        return Said(self.kind(maps).float(), self.reach(maps).float().clamp_max(_FURTHEST).exp())


def _branch(width: int, outgoing: int, bias: float) -> nn.Sequential:
    """Two convolutions and a last one that says about `bias` at first."""
    last = nn.Conv2d(width, outgoing, 1)
    nn.init.normal_(last.weight, std=0.01)
    assert last.bias is not None
    nn.init.constant_(last.bias, bias)
    return nn.Sequential(conv(width, width), conv(width, width), last)


class Detector(Encoder):
    """Pictures float [N,3,H,W] in 0..1 to what is said at H/8 x W/8 places; H and W multiples of 32."""

    def __init__(self, classes: int, width: int = 32) -> None:
        super().__init__(width)
        double, quad = 2 * width, 4 * width
        self.up = nn.ModuleList([conv(quad, quad), conv(quad, double)])
        self.single, self.several = Head(double, classes), Head(double, classes)

    def features(self, pictures: Tensor) -> Tensor:
        """What both heads read, float [N, 2 x width, H/8, W/8]."""
        _, eighth, sixteenth, deep = self.maps(pictures)
        for step, skip in zip(self.up, (sixteenth, eighth), strict=True):
            deep = functional.interpolate(step(deep), scale_factor=2.0, mode="nearest") + skip
        return deep

    def forward(self, pictures: Tensor) -> Said:
        """What the head says that one place of each object answers for."""
        said: Said = self.single(self.features(pictures))
        return said
