"""Graphs: trained networks wrapped in the arithmetic that serving needs, so that only bytes cross into a session.

Each is the contract of one task: names, dtypes and axes of its inputs and outputs.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.networks.autoencoder import Autoencoder
from training.networks.detector import CELL, Detector, Said
from training.networks.encoder import STRIDE
from training.networks.generator import Generator
from training.networks.restorer import SCALE, Denoiser, Upscaler
from training.networks.segmenter import Segmenter
from training.networks.textbook import TextbookNetwork

_MOST_BOXES = 100


class Graph(nn.Module):
    """A network with the names of what goes in and comes out; the first axis of each is the batch."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    free_axes: Mapping[str, Mapping[int, int]] = MappingProxyType({})
    """Axes beside the first that may have any length, by input, and what that must be a multiple of."""


class Pooling(Protocol):
    """A network whose linear head reads the mean of its last feature map."""

    head: nn.Linear

    def features(self, pictures: Tensor) -> Tensor:
        """The last feature map, float [N,D,h,w], never negative."""

    def __call__(self, pictures: Tensor) -> Tensor:
        """Logits float [N,C]."""


class ClassifyGraph(Graph):
    """image uint8 [N,H,W,3] to probabilities float32 [N,C], embedding [N,D], cam [N,h,w] and energy [N].

    probabilities: softmax of logits / temperature. embedding: pooled features at L2 norm 1. cam: head weights of the
    top class times the last feature map (Zhou et al. 2016, exact for pooling and a linear head), negative parts set to
    0, then divided by the largest value of the picture, so it lies in 0..1. energy: -logsumexp(logits), low for
    pictures like those of the training set (Liu et al. 2020, arXiv 2010.03759).
    """

    inputs = ("image",)
    outputs = ("probabilities", "embedding", "cam", "energy")

    def __init__(self, network: Pooling, temperature: float = 1.0) -> None:
        super().__init__()
        self.network, self.temperature = network, temperature

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All four outputs of one pass."""
        maps = self.network.features(scaled(image))
        pooled = maps.mean((2, 3))
        logits = self.network.head(pooled)
        top = self.network.head.weight[logits.argmax(1)]
        evidence = functional.relu((maps * top[:, :, None, None]).sum(1))
        cam = evidence / evidence.amax((1, 2), keepdim=True).clamp_min(1e-6)
        probabilities = torch.softmax(logits / self.temperature, 1)
        return probabilities, functional.normalize(pooled), cam, -torch.logsumexp(logits, 1)

    def logits(self, image: Tensor) -> Tensor:
        """Logits float [N,C], before the temperature."""
        return self.network(scaled(image))


class DenseClassifyGraph(Graph):
    """As `ClassifyGraph`, for a network with a dense layer before its head: it has no class activation map."""

    inputs = ("image",)
    outputs = ("probabilities", "embedding", "energy")

    def __init__(self, network: TextbookNetwork, temperature: float = 1.0) -> None:
        super().__init__()
        self.network, self.temperature = network, temperature

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All three outputs of one pass."""
        dense = self.network.embed(scaled(image))
        logits = self.network.head(dense)
        probabilities = torch.softmax(logits / self.temperature, 1)
        return probabilities, functional.normalize(dense), -torch.logsumexp(logits, 1)

    def logits(self, image: Tensor) -> Tensor:
        """Logits float [N,C], before the temperature."""
        return cast(Tensor, self.network(scaled(image)))


class EmbedGraph(Graph):
    """image uint8 [N,H,W,3] to embedding float32 [N,K] at L2 norm 1: pooled features of the picture and its mirror
    image, so that both have the same vector, less `mean` [D], times `projection` [D,K]."""

    inputs = ("image",)
    outputs = ("embedding",)
    mean: Tensor
    projection: Tensor

    def __init__(self, network: Pooling, mean: Tensor, projection: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", mean)
        self.register_buffer("projection", projection)

    def forward(self, image: Tensor) -> Tensor:
        """The embeddings."""
        pooled = self.network.features(scaled(torch.cat((image, image.flip(2))))).mean((2, 3))
        both = pooled.view(2, -1, len(self.mean)).mean(0)
        return functional.normalize((both - self.mean) @ self.projection)


class SegmentGraph(Graph):
    """image uint8 [N,H,W,3] to mask uint8 [N,H,W] (the class) and confidence uint8 [N,H,W] (255 x its probability)."""

    inputs = ("image",)
    outputs = ("mask", "confidence")

    def __init__(self, network: Segmenter, height: int, width: int) -> None:
        super().__init__()
        self.network, self.height, self.width = network, height, width

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Both maps, in the size of the image."""
        probabilities = torch.softmax(self.logits(scaled(image)), 1)
        mask = probabilities.argmax(1).to(torch.uint8)
        return mask, torch.round(255 * probabilities.amax(1)).to(torch.uint8)

    def logits(self, pictures: Tensor) -> Tensor:
        """Logits float [N,C,H,W] of pictures float [N,3,H,W], continued to a multiple of 32 by their last pixels."""
        down, right = -self.height % STRIDE, -self.width % STRIDE
        coarse = self.network(functional.pad(pictures, (0, right, 0, down), mode="replicate"))
        fine = functional.interpolate(coarse, scale_factor=4.0, mode="bilinear", align_corners=False)
        return fine[:, :, : self.height, : self.width]


class DetectGraph(Graph):
    """image uint8 [N,H,W,3] to boxes float32 [N,K,6]: left, top, right, bottom in pixels of the image, score, class;
    best first, K at most 100.

    A place whose score for a class is not the highest of the 3x3 places around it says nothing of that class (as in
    Zhou et al. 2019, arXiv 1904.07850): where two neighbours answer for one object, the better one does.
    """

    inputs = ("image",)
    outputs = ("boxes",)

    def __init__(self, network: Detector) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """The best boxes of each image; rows of score 0 are none."""
        said = self.network(scaled(image))
        scores = torch.sigmoid(said.logits)
        highest = functional.max_pool2d(scores, 3, stride=1, padding=1)
        peaks = torch.where(scores >= highest, scores, 0.0).flatten(1)
        best, chosen = peaks.topk(min(_MOST_BOXES, peaks.shape[1]), 1)
        places = said.logits.shape[2] * said.logits.shape[3]
        kind, place = chosen // places, chosen % places
        edges = edges_of(said).gather(1, place[:, :, None].expand(-1, -1, 4))
        return torch.cat((edges, best[:, :, None], kind[:, :, None].float()), 2)


class GenerateGraph(Graph):
    """z float32 [N,latent] and class int64 [N] to image uint8 [N,H,W,3]."""

    inputs = ("z", "class")
    outputs = ("image",)

    def __init__(self, network: Generator) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor, classes: Tensor) -> Tensor:
        """The images."""
        return _as_bytes(self.network(z, classes))


class DenoiseGraph(Graph):
    """image uint8 [N,H,W,3] and strength float32 [N] (deviation of the noise, of 255) to enhanced uint8 [N,H,W,3].

    H and W are even."""

    inputs = ("image", "strength")
    outputs = ("enhanced",)
    free_axes = MappingProxyType({"image": {1: SCALE, 2: SCALE}})

    def __init__(self, network: Denoiser) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, strength: Tensor) -> Tensor:
        """The pictures without that noise."""
        return _as_bytes(self.network(scaled(image), strength / 255))


class UpscaleGraph(Graph):
    """image uint8 [N,H,W,3] to enhanced uint8 [N,2H,2W,3]."""

    inputs = ("image",)
    outputs = ("enhanced",)
    free_axes = MappingProxyType({"image": {1: 1, 2: 1}})

    def __init__(self, network: Upscaler) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """The enlarged pictures."""
        return _as_bytes(self.network(scaled(image)))


class ReconstructGraph(Graph):
    """image uint8 [N,H,W,3] to reconstruction uint8 [N,H,W,3], error uint8 [N,H,W] and score float32 [N].

    reconstruction: the picture of the mean of the code. error: the largest absolute difference of a pixel's channels.
    score: bits that a byte of the picture costs with that code, its own cost counted; high for pictures unlike those of
    the training set.
    """

    inputs = ("image",)
    outputs = ("reconstruction", "error", "score")

    def __init__(self, network: Autoencoder) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All three outputs of one pass."""
        pictures = scaled(image)
        code = self.network.encode(pictures)
        decoded = self.network.decode(code.mean)
        error = torch.round(255 * (pictures - decoded).abs().amax(1)).to(torch.uint8)
        spent = self.network.bits(pictures, decoded).flatten(1).sum(1) + code.bits()
        return _as_bytes(decoded), error, spent / (image.size(1) * image.size(2) * 3)


def _as_bytes(pictures: Tensor) -> Tensor:
    """float [N,3,H,W] to uint8 [N,H,W,3]; rounded first, because a cast cuts off."""
    return torch.round(255 * pictures.clamp(0, 1)).to(torch.uint8).permute(0, 2, 3, 1)


def edges_of(said: Said) -> Tensor:
    """Boxes float [N, h x w, 4] in pixels, place after place, row by row."""
    centres = places_of(said)
    reach = CELL * said.reach.flatten(2).transpose(1, 2)
    return torch.cat((centres - reach[:, :, :2], centres + reach[:, :, 2:]), 2)


def places_of(said: Said) -> Tensor:
    """Centres of the places float [h x w, 2] in pixels: x, y."""
    height, width = said.logits.shape[2:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    centres = torch.stack((columns, rows), 2).view(-1, 2).to(said.reach)
    return CELL * (centres + 0.5)


def scaled(image: Tensor) -> Tensor:
    """uint8 [N,H,W,3] to float [N,3,H,W] in 0..1; no mean is taken off, so the scale folds into the first filters."""
    return image.permute(0, 3, 1, 2).float() / 255
