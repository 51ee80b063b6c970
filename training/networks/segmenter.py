"""Segmenter: a residual encoder and a light decoder, made to stay in ONNX Runtime's blocked layout.

Plain 3x3 convolutions, nearest x2 on the way up, sums for skips, and one bilinear step at the very end.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.networks.blocks import conv
from training.networks.encoder import Encoder


class Segmenter(Encoder):
    """Pictures float [N,3,H,W] in 0..1 to logits float [N,classes,H/4,W/4]; H and W multiples of 32."""

    def __init__(self, classes: int, width: int = 32) -> None:
        super().__init__(width)
        double, quad = 2 * width, 4 * width
        self.up = nn.ModuleList([conv(quad, quad), conv(quad, double), conv(double, width)])
        self.last = nn.Sequential(conv(width, width), nn.Conv2d(width, classes, 1))

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits at a quarter of the size."""
        *skips, deep = self.maps(pictures)
        for step, skip in zip(self.up, reversed(skips), strict=True):
            deep = functional.interpolate(step(deep), scale_factor=2.0, mode="nearest") + skip
        return cast(Tensor, self.last(deep))

    @torch.no_grad()
    def add(self, offsets: Tensor) -> None:
        """Add float [classes] to the logits of every pixel from now on."""
        bias = cast(nn.Conv2d, self.last[1]).bias
        assert bias is not None
        bias += offsets
