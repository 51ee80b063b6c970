"""Encoder: the residual half that segmenter and detector share, made to stay in ONNX Runtime's blocked layout."""

from typing import cast

from torch import Tensor, nn

from training.networks.blocks import Block, conv

STRIDE = 32
"""Height and width of pictures must be multiples of this."""


class Encoder(nn.Module):
    """Pictures float [N,3,H,W] in 0..1 to maps at a quarter, an eighth, a sixteenth and a 32nd of their size, with
    `width`, 2, 4 and 4 times `width` channels; the last knows its mean over the picture."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half, double, quad = width // 2, 2 * width, 4 * width
        self.stem = nn.Sequential(conv(3, half, 2), conv(half, width, 2))
        self.quarter = Block(width, width)
        self.eighth = nn.Sequential(Block(width, double, 2), Block(double, double))
        self.sixteenth = nn.Sequential(Block(double, quad, 2), Block(quad, quad))
        self.thirty_second = nn.Sequential(Block(quad, quad, 2), Block(quad, quad))
        self.context = nn.Sequential(nn.Conv2d(quad, quad, 1), nn.ReLU())

    def maps(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All four, from fine to coarse."""
        quarter = self.quarter(self.stem(pictures))
        eighth = self.eighth(quarter)
        sixteenth = self.sixteenth(eighth)
        deep = cast(Tensor, self.thirty_second(sixteenth))
        return quarter, eighth, sixteenth, deep + self.context(deep.mean((2, 3), keepdim=True))
