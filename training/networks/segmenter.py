"""Segmenter: a residual encoder and a light decoder, made to stay in ONNX Runtime's blocked layout.

Plain 3x3 convolutions, nearest x2 on the way up, sums for skips, and one bilinear step at the very end.
"""

from typing import cast

from torch import Tensor, nn
from torch.nn import functional

from training.networks.blocks import Block, conv

STRIDE = 32
"""Height and width must be multiples of this."""


class Segmenter(nn.Module):
    """Pictures float [N,3,H,W] in 0..1 to logits float [N,classes,H/4,W/4]; H and W multiples of 32."""

    def __init__(self, classes: int, width: int = 32) -> None:
        super().__init__()
        half, double, quad = width // 2, 2 * width, 4 * width
        self.stem = nn.Sequential(conv(3, half, 2), conv(half, width, 2))
        self.quarter = Block(width, width)
        self.eighth = nn.Sequential(Block(width, double, 2), Block(double, double))
        self.sixteenth = nn.Sequential(Block(double, quad, 2), Block(quad, quad))
        self.thirty_second = nn.Sequential(Block(quad, quad, 2), Block(quad, quad))
        self.context = nn.Sequential(nn.Conv2d(quad, quad, 1), nn.ReLU())
        self.up = nn.ModuleList([conv(quad, quad), conv(quad, double), conv(double, width)])
        self.last = nn.Sequential(conv(width, width), nn.Conv2d(width, classes, 1))

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits at a quarter of the size."""
        quarter = self.quarter(self.stem(pictures))
        eighth = self.eighth(quarter)
        sixteenth = self.sixteenth(eighth)
        deep = self.thirty_second(sixteenth)
        deep = deep + self.context(deep.mean((2, 3), keepdim=True))
        for step, skip in zip(self.up, (sixteenth, eighth, quarter), strict=True):
            deep = functional.interpolate(step(deep), scale_factor=2.0, mode="nearest") + skip
        return cast(Tensor, self.last(deep))
