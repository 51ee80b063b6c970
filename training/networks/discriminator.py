"""Discriminator: tells real pictures from made ones, for data sets that bring no features to look through."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


class Discriminator(nn.Module):
    """Pictures float [N,3,S,S] in 0..1 and classes int64 [N] to verdicts float [N]; positive means real.

    Spectral norm (Miyato et al. 2018, arXiv 1802.05957), a projection of the class (Miyato and Koyama 2018, arXiv
    1802.05637), and the deviation over the batch as one more channel (Karras et al. 2018, arXiv 1710.10196). S is 4,
    doubled by each width but the last.
    """

    def __init__(self, classes: int, widths: Sequence[int]) -> None:
        super().__init__()
        steps = [_conv(3, widths[0], 3, 1)]
        steps += [_conv(widths[i], widths[i + 1], 4, 2) for i in range(len(widths) - 1)]
        self.body = nn.Sequential(*steps)
        self.last = nn.Sequential(_conv(widths[-1] + 1, widths[-1], 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.verdict = spectral_norm(nn.Linear(widths[-1], 1))
        self.embedding = spectral_norm(nn.Embedding(classes, widths[-1]))

    def forward(self, pictures: Tensor, classes: Tensor) -> Tensor:
        """Verdicts."""
        maps = self.body(2 * pictures - 1)
        # The deviation of a batch of one is not defined; unbiased=False makes it 0.
        varied = maps.std(0, unbiased=False).mean().expand(len(maps), 1, *maps.shape[2:])
        deep = self.last(torch.cat((maps, varied), 1))
        return cast(Tensor, self.verdict(deep)[:, 0] + (deep * self.embedding(classes)).sum(1)).float()


def _conv(incoming: int, outgoing: int, size: int, stride: int) -> nn.Sequential:
    return nn.Sequential(spectral_norm(nn.Conv2d(incoming, outgoing, size, stride, padding=1)), nn.LeakyReLU(0.2))
