"""Three classifiers with random weights, as foreign ONNX files: float NCHW in, probabilities out.

Weights do not change what inference costs; that answers depend on the picture is all that the comparison of answers
needs, so statistics of normalisation and the scale of the head are set from noise.
"""

import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

OPSET = 18
_SPREAD = 1.0
"""Standard deviation of each logit over pictures: which class wins, and by how much, depends on the picture."""


class Body(nn.Module):
    """A network without its head: pictures float [N,C,H,W] to features float [N,width]."""

    width: int


class Tiny(Body):
    """The convolutional network of the Keras tutorial on MNIST, 28x28x1; 5.6 MFLOP with a dense layer."""

    width = 64

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten(),
            nn.Linear(576, self.width), nn.ReLU(),
        )  # fmt: skip

    def forward(self, pictures: Tensor) -> Tensor:
        """Features of the pictures."""
        features: Tensor = self.layers(pictures)
        return features


class ResNet9(Body):
    """The ResNet-9 of DAWNBench (Page 2018) with half its width, 32x32x3; 0.57 GFLOP."""

    width = 256

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(_conv(3, 64), _conv(64, 128), nn.MaxPool2d(2))
        self.second = nn.Sequential(_conv(128, 128), _conv(128, 128))
        self.third = nn.Sequential(_conv(128, 256), nn.MaxPool2d(2), _conv(256, 256), nn.MaxPool2d(2))
        self.fourth = nn.Sequential(_conv(256, 256), _conv(256, 256))

    def forward(self, pictures: Tensor) -> Tensor:
        """Features of the pictures."""
        early = self.first(pictures)
        late = self.third(early + self.second(early))
        return functional.max_pool2d(late + self.fourth(late), 4).flatten(1)


class ResNet50(Body):
    """ResNet-50 (He et al. 2015) with the stride in the 3x3 convolution (v1.5), 224x224x3; 8.2 GFLOP."""

    width = 2048

    def __init__(self) -> None:
        super().__init__()
        stem = nn.Sequential(_conv(3, 64, kernel=7, stride=2), nn.MaxPool2d(3, 2, 1))
        blocks: list[nn.Module] = []
        incoming = 64
        for inner, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
            for place in range(count):
                blocks.append(Bottleneck(incoming, inner, stride if place == 0 else 1))
                incoming = 4 * inner
        self.layers = nn.Sequential(stem, *blocks)

    def forward(self, pictures: Tensor) -> Tensor:
        """Features of the pictures."""
        features: Tensor = self.layers(pictures).mean((2, 3))
        return features


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut."""

    def __init__(self, incoming: int, inner: int, stride: int) -> None:
        super().__init__()
        outgoing = 4 * inner
        self.body = nn.Sequential(
            _conv(incoming, inner, kernel=1), _conv(inner, inner, stride=stride), *_normed(inner, outgoing, 1, 1)
        )
        same = incoming == outgoing and stride == 1
        self.shortcut = nn.Identity() if same else nn.Sequential(*_normed(incoming, outgoing, 1, stride))

    def forward(self, features: Tensor) -> Tensor:
        """Features of the next block."""
        return functional.relu(self.body(features) + self.shortcut(features))


def write_network(name: str, file: Path) -> None:
    """Write `tiny`, `cifar` or `resnet50` as an ONNX file with a free batch axis: `input` to `probabilities`."""
    torch.manual_seed(0)
    body, shape, classes = _KINDS[name]
    pictures = _noise(16, shape)
    network = nn.Sequential(body(), nn.Linear(body.width, classes))
    _settle(network, pictures)
    _export(nn.Sequential(network, nn.Softmax(1)).eval(), pictures[:2], file)


_KINDS: dict[str, tuple[type[Body], tuple[int, int, int], int]] = {
    "tiny": (Tiny, (1, 28, 28), 10),
    "cifar": (ResNet9, (3, 32, 32), 10),
    "resnet50": (ResNet50, (3, 224, 224), 1000),
}


def _conv(incoming: int, outgoing: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, batch normalisation, ReLU."""
    return nn.Sequential(*_normed(incoming, outgoing, kernel, stride), nn.ReLU())


def _normed(incoming: int, outgoing: int, kernel: int, stride: int) -> tuple[nn.Module, nn.Module]:
    conv = nn.Conv2d(incoming, outgoing, kernel, stride, padding=kernel // 2, bias=False)
    return conv, nn.BatchNorm2d(outgoing, momentum=None)


def _noise(count: int, shape: tuple[int, int, int]) -> Tensor:
    """Smooth noise that differs in colour and contrast, as normalised photographs do: float [count, *shape]."""
    channels, height, width = shape
    coarse = torch.randn(count, channels, height // 7 + 1, width // 7 + 1)
    smooth = functional.interpolate(coarse, (height, width), mode="bicubic")
    colour, contrast = torch.randn(count, channels, 1, 1), 2 * torch.rand(count, 1, 1, 1)
    return colour + contrast * smooth + 0.2 * torch.randn(count, *shape)


@torch.no_grad()
def _settle(network: nn.Sequential, pictures: Tensor) -> None:
    """Set the statistics of batch normalisation and the head, so that logits vary from picture to picture."""
    network.train()(pictures)
    logits: Tensor = network.eval()(pictures)
    head = network[1]
    assert isinstance(head, nn.Linear)
    scale = _SPREAD / logits.std(0).clamp_min(1e-6)
    head.weight.mul_(scale[:, None])
    head.bias.sub_(logits.mean(0)).mul_(scale)


def _export(network: nn.Module, examples: Tensor, file: Path) -> None:
    batch = torch.export.Dim("batch", min=1, max=4096)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside the exporter
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        torch.onnx.export(
            network, (examples,), file, dynamo=True, opset_version=OPSET, input_names=["input"],
            output_names=["probabilities"], dynamic_shapes=({0: batch},), external_data=False, verbose=False,
        )  # fmt: skip
