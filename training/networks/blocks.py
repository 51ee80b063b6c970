"""Blocks that the networks share: plain 3x3 convolutions, which stay in ONNX Runtime's blocked layout."""

from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016)."""

    def __init__(self, incoming: int, outgoing: int, stride: int = 1) -> None:
        super().__init__()
        self.first = conv(incoming, outgoing, stride)
        self.second = nn.Sequential(nn.Conv2d(outgoing, outgoing, 3, padding=1, bias=False), nn.BatchNorm2d(outgoing))
        same = stride == 1 and incoming == outgoing
        shortcut = (nn.Conv2d(incoming, outgoing, 1, stride, bias=False), nn.BatchNorm2d(outgoing))
        self.shortcut: nn.Module = nn.Identity() if same else nn.Sequential(*shortcut)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps of `outgoing` channels, halved in size by a stride of 2."""
        return functional.relu(self.second(self.first(maps)) + self.shortcut(maps))


def conv(incoming: int, outgoing: int, stride: int = 1) -> nn.Sequential:
    """A 3x3 convolution, batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(incoming, outgoing, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outgoing), nn.ReLU()
    )
