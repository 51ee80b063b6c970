"""Residual classifier for pictures of any size, after He et al. 2016, with a pooled linear head: its class activation
map is exact."""

import math
from typing import cast

from torch import Tensor, nn

from training.networks.blocks import Block, conv

_MAP = 7
"""The last feature map has about this side."""
_WIDEST = 8
"""Times the width of the first stage."""


class ResidualClassifier(nn.Module):
    """Pictures float [N,3,H,W] in 0..1 to logits float [N,classes].

    `size` is the smaller of H and W and decides how often the maps are halved: five times for 224, three for 64.
    """

    def __init__(self, classes: int, size: int, width: int = 32) -> None:
        super().__init__()
        halvings = max(1, round(math.log2(size / _MAP)))
        early = halvings > 3
        widths = [width * min(2**step, _WIDEST) for step in range(halvings - early + 1)]
        self.stem = conv(3, width, 2 if early else 1)
        self.stages = nn.Sequential(*(Block(widths[i], widths[i + 1], 2) for i in range(len(widths) - 1)))
        self.head = nn.Linear(widths[-1], classes)

    @property
    def width(self) -> int:
        """Channels of the first stage."""
        return cast(nn.Conv2d, self.stem[0]).out_channels

    def features(self, pictures: Tensor) -> Tensor:
        """The last feature map, float [N,D,h,w], never negative."""
        return cast(Tensor, self.stages(self.stem(pictures)))

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits of the pictures."""
        return cast(Tensor, self.head(self.features(pictures).mean((2, 3))))
