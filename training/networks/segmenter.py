"""Segmenter: a residual encoder and a light decoder, made to stay in ONNX Runtime's blocked layout.

Plain 3x3 convolutions, nearest x2 on the way up, sums for skips, and one bilinear step at the very end.
"""

from typing import cast

from torch import Tensor, nn
from torch.nn import functional

STRIDE = 32
"""Height and width must be multiples of this."""


class Segmenter(nn.Module):
    """Pictures float [N,3,H,W] in 0..1 to logits float [N,classes,H/4,W/4]; H and W multiples of 32."""

    def __init__(self, classes: int, width: int = 32) -> None:
        super().__init__()
        half, double, quad = width // 2, 2 * width, 4 * width
        self.stem = nn.Sequential(_conv(3, half, 2), _conv(half, width, 2))
        self.quarter = _Block(width, width)
        self.eighth = nn.Sequential(_Block(width, double, 2), _Block(double, double))
        self.sixteenth = nn.Sequential(_Block(double, quad, 2), _Block(quad, quad))
        self.thirty_second = nn.Sequential(_Block(quad, quad, 2), _Block(quad, quad))
        self.context = nn.Sequential(nn.Conv2d(quad, quad, 1), nn.ReLU())
        self.up = nn.ModuleList([_conv(quad, quad), _conv(quad, double), _conv(double, width)])
        self.last = nn.Sequential(_conv(width, width), nn.Conv2d(width, classes, 1))

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


class _Block(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016)."""

    def __init__(self, incoming: int, outgoing: int, stride: int = 1) -> None:
        super().__init__()
        self.first = _conv(incoming, outgoing, stride)
        self.second = nn.Sequential(nn.Conv2d(outgoing, outgoing, 3, padding=1, bias=False), nn.BatchNorm2d(outgoing))
        same = stride == 1 and incoming == outgoing
        shortcut = (nn.Conv2d(incoming, outgoing, 1, stride, bias=False), nn.BatchNorm2d(outgoing))
        self.shortcut: nn.Module = nn.Identity() if same else nn.Sequential(*shortcut)

    def forward(self, maps: Tensor) -> Tensor:
        return functional.relu(self.second(self.first(maps)) + self.shortcut(maps))


def _conv(incoming: int, outgoing: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(incoming, outgoing, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outgoing), nn.ReLU()
    )
