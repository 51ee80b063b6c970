"""The loop of the detectors: two heads on the same maps, AdamW, a cosine, and an average of the weights."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor

from training.average_precision import Pictures, precision
from training.averaging import AveragedHyper, AveragedLoop
from training.data.augment import jitter
from training.data.boxes import Windows, padded
from training.data.feed import Draw
from training.engine import Count, Rate
from training.matching import loss
from training.networks.detector import Detector
from training.networks.encoder import STRIDE
from training.networks.graphs import DetectGraph, scaled

WATCHED = "validation/map50"
"""The figure that says how good the averaged network is."""
SEVERAL = 10
"""Places that answer for an object in the head that is not exported."""

Batch = tuple[Tensor, Tensor]
"""Pictures float [N,3,H,W] and truths float [N,M,5]: left, top, right, bottom in pixels, and the label or -1."""


class DetectHyper(AveragedHyper):
    """What every detector lets one choose."""

    epochs: Count = 150
    batch_size: Count = 8
    lr: Rate = 2e-3
    weight_decay: float = Field(default=0.05, ge=0)
    warm_up: int = Field(default=200, ge=0)
    decay: float = Field(default=0.998, ge=0, lt=1)
    size: tuple[int, int] = (320, 320)
    """Height and width of the pictures that the network sees; multiples of 32."""
    width: int = Field(default=32, ge=8, le=256, multiple_of=2)
    scales: tuple[float, float] = (0.6, 1.6)
    turn: bool = False
    """Whether pictures have no upper side, so that they may be turned by quarters."""
    colour: float = Field(default=0.3, ge=0, le=1)
    mosaic: float = Field(default=0.5, ge=0, le=1)
    """Share of the batches in which every picture is made of four."""
    plain: float = Field(default=0.15, ge=0, le=1)
    """Share of the epochs, at the end, without."""
    validate_every: Count = 20

    @field_validator("size")
    @classmethod
    def _whole_strides(cls, value: tuple[int, int]) -> tuple[int, int]:
        if any(side < STRIDE or side % STRIDE for side in value):
            raise ValueError(f"{list(value)} are no multiples of {STRIDE}")
        return value


class DetectLoop(AveragedLoop[Detector]):
    """One step: the loss of both heads, and both teach the encoder (in 24 epochs of BCCD that gave an mAP50 of 0.82 on
    the validation part; 0.78 where the exported head only listened, as Wang et al. 2024 have it)."""

    def __init__(self, hyper: DetectHyper, labels: tuple[str, ...], steps: int) -> None:
        super().__init__(Detector(len(labels), hyper.width), hyper, steps)
        self.labels = labels
        self.seen: list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]] = []

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """The loss of one batch."""
        pictures, truth = batch
        features = self.network.features(pictures)
        several = loss(self.network.several(features), truth, SEVERAL)
        single = loss(self.network.single(features), truth, 1)
        self.log_dict({"several": several, "single": single}, prog_bar=True)
        return several + single

    def follow(self) -> None:
        """Forget the untrained weights soon."""
        self.average.follow(self.network, self.global_step)

    def on_validation_epoch_start(self) -> None:
        """Start collecting."""
        self.seen = []

    def validation_step(self, batch: Batch, index: int) -> None:
        """Collect what the averaged network finds in images uint8 [N,H,W,3]."""
        images, truth = batch
        boxes = DetectGraph(self.average.module)(images).cpu().double().numpy()
        for found, each in zip(boxes, truth.cpu().double().numpy(), strict=True):
            self.seen.append((each[each[:, 4] >= 0], found[found[:, 4] > 0]))

    def on_validation_epoch_end(self) -> None:
        """Average precision, in pixels of what the network sees."""
        truths, found = zip(*self.seen, strict=True)
        figures = precision(Pictures(self.labels, truths, found))
        self.log_dict({WATCHED: figures.map50, "validation/map": figures.map}, prog_bar=True)


def batches(images: Tensor, truths: Sequence[Tensor], hyper: DetectHyper) -> Any:
    """What makes a batch of a draw, from images uint8 [N,H,W,3] and their truths [n,5]: windows, or mosaics of four."""
    windows = Windows(*hyper.size, hyper.scales, hyper.turn)

    def make(draw: Draw) -> Batch:
        last = draw.epoch >= (1 - hyper.plain) * hyper.epochs
        four = not last and float(torch.rand((), generator=draw.random)) < hyper.mosaic
        others = torch.randint(0, len(images), (len(draw.rows), 3 if four else 0), generator=draw.random)
        rows = torch.cat((draw.rows[:, None], others), 1).flatten()
        cut = windows.mosaic if four else windows.cut
        pictures, seen = cut(scaled(images[rows]), [truths[row] for row in rows.tolist()], draw.random)
        toned = jitter(pictures, hyper.colour, draw.random).contiguous(memory_format=torch.channels_last)
        return toned, padded(seen)

    return make
