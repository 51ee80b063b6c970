"""Generator: latent vector and class to a picture, in plain convolutions that fold and fuse.

The class enters at the input only: conditional batch norm would break the blocked layout of ONNX Runtime.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Generator(nn.Module):
    """z float [N,latent] and class int64 [N] to pictures float [N,3,S,S] in 0..1; S is 4, doubled by each width but the
    first: 32 for four widths."""

    def __init__(self, classes: int, latent: int = 128, widths: Sequence[int] = (256, 128, 64, 32)) -> None:
        super().__init__()
        self.latent = latent
        self.embedding = nn.Embedding(classes, latent)
        # A 1x1 convolution, not a Linear: ONNX Runtime's Gemm sums in another order for other batch sizes, and a
        # generated picture must not depend on its neighbours in a batch.
        self.dense = nn.Conv2d(2 * latent, 16 * widths[0], 1, bias=False)
        self.first = nn.Sequential(nn.BatchNorm2d(widths[0]), nn.ReLU())
        self.rise = nn.Sequential(*(_Rise(widths[i], widths[i + 1]) for i in range(len(widths) - 1)))
        self.last = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, z: Tensor, classes: Tensor) -> Tensor:
        """The pictures."""
        code = torch.cat((z, self.embedding(classes)), 1)[:, :, None, None]
        maps = self.first(self.dense(code).reshape(-1, self.first[0].num_features, 4, 4))
        return torch.sigmoid(self.last(self.rise(maps)).float())


class _Rise(nn.Module):
    """Twice the size: nearest x2, two 3x3 convolutions, and a 1x1 shortcut taken before the enlargement."""

    def __init__(self, incoming: int, outgoing: int) -> None:
        super().__init__()
        self.up = nn.Upsample(scale_factor=2.0, mode="nearest")
        self.first = nn.Sequential(
            nn.Conv2d(incoming, outgoing, 3, padding=1, bias=False), nn.BatchNorm2d(outgoing), nn.ReLU()
        )
        self.second = nn.Sequential(nn.Conv2d(outgoing, outgoing, 3, padding=1, bias=False), nn.BatchNorm2d(outgoing))
        self.shortcut = nn.Conv2d(incoming, outgoing, 1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        deeper = self.second(self.first(self.up(maps)))
        return torch.relu(deeper + self.up(self.shortcut(maps)))
