"""Classifier: a small convolutional network after airbench94 (Jordan 2024, arXiv 2404.00498).

It differs where serving asks for it: ReLU for GELU, a padded stem so that the feature map lies on the picture's own
grid, and global average pooling before the linear head, which makes the class activation map exact.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional


class Classifier(nn.Module):
    """Pictures float [N,3,H,W] in 0..1 to logits float [N,classes]; H and W multiples of 8."""

    def __init__(self, classes: int = 10, widths: tuple[int, int, int] = (64, 256, 256)) -> None:
        super().__init__()
        self.widths = widths
        self.stem = WhiteningStem()
        steps = (self.stem.width, *widths)
        self.groups = nn.Sequential(*(_Group(steps[i], steps[i + 1]) for i in range(len(widths))))
        self.head = nn.Linear(widths[-1], classes)

    def features(self, pictures: Tensor) -> Tensor:
        """The last feature map, float [N,D,H/8,W/8], never negative."""
        return cast(Tensor, self.groups(self.stem(pictures)))

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits of the pictures."""
        return cast(Tensor, self.head(self.features(pictures).mean((2, 3))))


class WhiteningStem(nn.Module):
    """Frozen 2x2 whitening of the patches and its negative, then ReLU; only the bias is trained.

    `fit` must see training pictures once before training; [N,3,H,W] becomes [N,24,H,W].
    """

    width = 24

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, self.width, 2)
        self.conv.weight.requires_grad = False

    @torch.no_grad()
    def fit(self, pictures: Tensor, floor: float = 5e-4) -> None:
        """Set the filters to the scaled eigenvectors of the 2x2 patches of float [N,3,H,W] in 0..1.

        `floor` is added to the eigenvalues, airbench's 5e-4 in units of a unit-variance picture (0.25 on 0..1).
        """
        patches = functional.unfold(pictures, 2).transpose(1, 2).reshape(-1, 12)
        mean = patches.mean(0)
        values, vectors = torch.linalg.eigh(torch.cov(patches.T))
        rows = (vectors / torch.sqrt(values + floor * 0.25**2)).T
        filters = torch.cat((rows, -rows))
        self.conv.weight.copy_(filters.view(self.width, 3, 2, 2))
        assert self.conv.bias is not None
        self.conv.bias.copy_(-(filters @ mean))

    def forward(self, pictures: Tensor) -> Tensor:
        """Whitened patches; the picture is continued by one repeated row and column to keep its size."""
        return functional.relu(self.conv(functional.pad(pictures, (0, 1, 0, 1), mode="replicate")))


class _Group(nn.Sequential):
    """Two convolutions, the first followed by a halving of the size; identity filters at the start."""

    def __init__(self, incoming: int, outgoing: int) -> None:
        first, second = (nn.Conv2d(width, outgoing, 3, padding=1, bias=False) for width in (incoming, outgoing))
        for conv in (first, second):
            nn.init.dirac_(conv.weight[: conv.in_channels].detach())
        super().__init__(first, nn.MaxPool2d(2), _norm(outgoing), nn.ReLU(), second, _norm(outgoing), nn.ReLU())


def _norm(width: int) -> nn.BatchNorm2d:
    """Batch norm with a fixed scale: the next layer's filters carry it. Statistics follow the weights quickly."""
    norm = nn.BatchNorm2d(width, momentum=0.4)
    norm.weight.requires_grad = False
    return norm
