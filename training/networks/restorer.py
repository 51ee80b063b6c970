"""Restorers: small residual networks that clean or enlarge pictures and stay in ONNX Runtime's blocked layout.

Most of the work is done at half the size of the result (as FFDNet, Zhang et al. 2018, arXiv 1710.04026, and ESPCN, Shi
et al. 2016, arXiv 1609.05158), and the last step puts channels side by side as pixels. No batch norm: it would move the
colours of a picture with those of its neighbours.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

SCALE = 2


class Denoiser(nn.Module):
    """Pictures float [N,3,H,W] in 0..1 with noise, and its deviation float [N] in 0..1, to pictures without; H and W
    even. What is learned is the noise (Zhang et al. 2017, arXiv 1608.03981)."""

    reach: int
    """Pixels around one that its result depends on."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.head = nn.Conv2d(4, width, 4, stride=2, padding=1)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(blocks)))
        self.tail = nn.Conv2d(width, 3 * SCALE**2, 3, padding=1)
        self.reach = SCALE * (2 * blocks + 1) + SCALE

    def forward(self, pictures: Tensor, level: Tensor) -> Tensor:
        """The pictures without noise, not clipped."""
        levels = level.view(-1, 1, 1, 1).expand(-1, 1, pictures.size(2), pictures.size(3))
        maps = self.blocks(functional.relu(self.head(torch.cat([pictures, levels], 1))))
        return pictures - functional.pixel_shuffle(self.tail(maps), SCALE)


class Upscaler(nn.Module):
    """Pictures float [N,3,H,W] in 0..1 to float [N,3,2H,2W]. What is learned is what bilinear enlarging misses."""

    reach: int
    """Pixels around one that its result depends on."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(blocks)))
        self.tail = nn.Conv2d(width, 3 * SCALE**2, 3, padding=1)
        self.reach = 2 * blocks + 2

    def forward(self, pictures: Tensor) -> Tensor:
        """The enlarged pictures, not clipped."""
        large = functional.interpolate(pictures, scale_factor=float(SCALE), mode="bilinear", align_corners=False)
        maps = self.blocks(functional.relu(self.head(pictures)))
        return large + functional.pixel_shuffle(self.tail(maps), SCALE)


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut; the second begins at zero, so that a deep network begins as a shallow one
    (Zhang et al. 2019, arXiv 1901.09321)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps of the same size."""
        return functional.relu(maps + self.second(functional.relu(self.first(maps))))
