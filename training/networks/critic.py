"""Critic: tells real pictures from made ones by frozen features, after Projected GAN (Sauer et al. 2021, 2111.01007).

A frozen feature network sees the picture; fixed random convolutions mix its maps across channels and scales; a small
trained head on each scale judges what it sees, given the class (projection, Miyato and Koyama 2018, 1802.05637).
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from training.networks.classifier import Classifier

MIXED = (32, 64, 128, 128)
"""Channels after mixing, from the finest scale to the coarsest."""


class Critic(nn.Module):
    """Pictures float [N,3,32,32] in 0..1 and classes int64 [N] to verdicts float [N,4,4,4]: scale, then place."""

    def __init__(self, features: Classifier, classes: int) -> None:
        super().__init__()
        self.pyramid = Pyramid(features)
        self.heads = nn.ModuleList([_Head(width, scale, classes) for scale, width in enumerate(MIXED)])

    def forward(self, pictures: Tensor, classes: Tensor) -> Tensor:
        """Positive means real."""
        maps = self.pyramid(pictures)
        return torch.stack([head(level, classes) for head, level in zip(self.heads, maps, strict=True)], 1)


class Pyramid(nn.Module):
    """Frozen features of a classifier at four scales (32, 16, 8, 4), mixed by random convolutions that never learn."""

    def __init__(self, features: Classifier) -> None:
        super().__init__()
        self.features = features
        taken = (features.stem.width, *features.widths)
        self.across = nn.ModuleList([nn.Conv2d(taken[i], MIXED[i], 1) for i in range(4)])
        self.down = nn.ModuleList([nn.Conv2d(MIXED[i + 1], MIXED[i], 3, padding=1) for i in range(3)])
        for conv in (*self.across, *self.down):
            nn.init.kaiming_normal_(cast(nn.Conv2d, conv).weight)
        self.requires_grad_(False)

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """Mixed maps from fine to coarse."""
        maps = [self.features.stem(pictures)]
        for group in self.features.groups:
            maps.append(group(maps[-1]))
        mixed = [conv(level) for conv, level in zip(self.across, maps, strict=True)]
        for scale in (2, 1, 0):
            coarser = functional.interpolate(self.down[scale](mixed[scale + 1]), scale_factor=2.0, mode="nearest")
            mixed[scale] = (mixed[scale] + coarser) * 0.5**0.5
        return mixed

    def train(self, mode: bool = True) -> "Pyramid":
        """Stay as trained: batch statistics of the feature network are frozen too."""
        return super().train(False)


class _Head(nn.Module):
    """Halvings down to 4x4, then a verdict at each place.

    Batch norm, as in the paper's heads: with spectral norm alone the verdicts on these small maps stayed near zero,
    hinge loss became a comparison of means, and the generator made one picture a class.
    """

    def __init__(self, incoming: int, scale: int, classes: int, width: int = 128) -> None:
        super().__init__()
        halvings = 3 - scale
        steps = [incoming] + [min(width, 64 * 2**step) for step in range(halvings)]
        downs = [_conv(steps[step], steps[step + 1], 4, 2) for step in range(halvings)]
        self.body = nn.Sequential(*downs, _conv(steps[-1], width, 3, 1))
        self.verdict = spectral_norm(nn.Conv2d(width, 1, 1))
        self.embedding = nn.Embedding(classes, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)

    def forward(self, maps: Tensor, classes: Tensor) -> Tensor:
        deep = self.body(maps)
        fitting = (deep * self.embedding(classes)[:, :, None, None]).sum(1)
        return cast(Tensor, self.verdict(deep)[:, 0] + fitting).float()


def _conv(incoming: int, outgoing: int, size: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(incoming, outgoing, size, stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outgoing), nn.LeakyReLU(0.2))
