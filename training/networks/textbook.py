"""The small networks that textbooks begin with: three convolutions, a dense layer with dropout, a linear head."""

from typing import cast

from torch import Tensor, nn


class TextbookNetwork(nn.Module):
    """Pictures float [N,channels,size,size] in 0..1 to logits float [N,classes].

    Each convolution but the last is followed by 2x2 max pooling, as in the Keras tutorials on MNIST and CIFAR-10.
    """

    def __init__(
        self, classes: int, size: int, channels: int, widths: tuple[int, int, int], dense: int, dropout: float
    ) -> None:
        super().__init__()
        first, second, third = widths
        self.maps = nn.Sequential(
            nn.Conv2d(channels, first, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(first, second, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(second, third, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.dense = nn.Sequential(nn.Flatten(), nn.Linear(third * (size // 4) ** 2, dense), nn.ReLU())
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(dense, classes)

    @property
    def widths(self) -> tuple[int, int, int]:
        """Channels of the convolutions."""
        first, second, third = (layer.out_channels for layer in self.maps if isinstance(layer, nn.Conv2d))
        return first, second, third

    def embed(self, pictures: Tensor) -> Tensor:
        """What the dense layer makes of the pictures, float [N,dense]."""
        return cast(Tensor, self.dense(self.maps(pictures)))

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits of the pictures."""
        return cast(Tensor, self.head(self.dropout(self.embed(pictures))))
