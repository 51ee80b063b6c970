"""The loop of the segmenters: weighted cross entropy, AdamW, a cosine, and an average of the weights."""

import base64
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from training.averaging import AveragedHyper, AveragedLoop
from training.data.pixels import decode_labels
from training.engine import Count, Rate
from training.metrics import confusion, intersection_over_union
from training.networks.graphs import SegmentGraph, scaled
from training.networks.segmenter import Segmenter
from training.version import Version

WATCHED = "validation/miou"
"""The figure that says how good the averaged network is."""


class SegmentHyper(AveragedHyper):
    """What every segmenter lets one choose."""

    batch_size: Count = 8
    lr: Rate = 2e-3
    weight_decay: float = Field(default=0.02, ge=0)
    warm_up: int = Field(default=100, ge=0)
    scales: tuple[Rate, Rate] = (0.6, 1.8)
    colour: float = Field(default=0.3, ge=0, le=1)
    width: int = Field(default=32, ge=2)
    validate_every: Count = 20


class SegmentLoop(AveragedLoop[Segmenter]):
    """One step: cross entropy at the full size of the window; pixels labelled `void` do not count.

    `weights` is float [classes]; validation compares at `height` x `width`.
    """

    weights: Tensor

    def __init__(self, hyper: SegmentHyper, weights: Tensor, size: tuple[int, int], void: int, steps: int) -> None:
        classes = len(weights)
        super().__init__(Segmenter(classes, hyper.width), hyper, steps)
        self.size, self.void = size, void
        self.register_buffer("weights", weights)
        self.matrix = torch.zeros(classes, classes, dtype=torch.long)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """The loss of one batch."""
        pictures, labels = batch
        coarse = self.network(pictures).float()
        logits = functional.interpolate(coarse, scale_factor=4.0, mode="bilinear", align_corners=False)
        loss = functional.cross_entropy(logits, labels, self.weights, ignore_index=self.void)
        self.log("loss", loss, prog_bar=True)
        return loss

    def on_validation_epoch_start(self) -> None:
        """Start counting."""
        self.matrix.zero_()

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Count pixels of the averaged network's answers."""
        images, labels = batch
        graph = SegmentGraph(self.average.module, *self.size)
        self.matrix += confusion(graph.logits(scaled(images)).argmax(1), labels, len(self.weights)).cpu()

    def on_validation_epoch_end(self) -> None:
        """The mean over classes."""
        self.log(WATCHED, float(intersection_over_union(self.matrix).nanmean()), prog_bar=True)


def enet_weights(labels: Tensor, classes: int) -> Tensor:
    """1 / ln(1.02 + share of the class), float [classes], for label maps uint8 of any shape (Paszke et al. 2016)."""
    counts = torch.bincount(labels.flatten()[labels.flatten() < classes].long(), minlength=classes).float()
    return 1 / torch.log(1.02 + counts / counts.sum().clamp_min(1))


SHARES = tuple(tenth / 10 for tenth in range(11))


@torch.no_grad()
def take_back(graph: SegmentGraph, weights: Tensor, held_out: Iterable[tuple[Tensor, ...]]) -> float:
    """Take back the share of the loss's class weights, float [classes], that gives the best mIoU on batches of images
    uint8 [N,H,W,3] and label maps [N,H,W] that were held out; of equal ones the smallest. Returns the share.

    Weighted cross entropy teaches probabilities in proportion to weight times frequency, so rare classes are seen too
    often; less the logarithms of the weights, logits are those of the frequencies (Menon et al. 2021, arXiv
    2007.07314), which find too few of the rare ones. The best mean lies between.
    """
    offsets = weights.log()
    matrices = torch.zeros(len(SHARES), len(weights), len(weights), dtype=torch.long)
    for images, labels in held_out:
        logits = graph.logits(scaled(images))
        for number, share in enumerate(SHARES):
            found = (logits - share * offsets.view(1, -1, 1, 1)).argmax(1)
            matrices[number] += confusion(found, labels, len(weights))
    reached = [float(intersection_over_union(matrix).nanmean()) for matrix in matrices]
    best = SHARES[reached.index(max(reached))]
    graph.network.add(-best * offsets)
    return best


def overlaps(version: Version, files: Iterable[bytes], maps: Iterable[NDArray[np.uint8]]) -> dict[str, float]:
    """mIoU and the IoU of each class, from one confusion matrix over all pictures, without void."""
    labels = version.task.labels
    matrix = torch.zeros(len(labels), len(labels), dtype=torch.long)
    for answer, truth in zip(version.answers(files), maps, strict=True):
        found = decode_labels(base64.b64decode(answer["mask"]["data"]), "answer")
        matrix += confusion(torch.from_numpy(found), torch.from_numpy(truth), len(labels))
    each = intersection_over_union(matrix)
    return {"miou": float(each.nanmean())} | {
        f"iou_{name}": float(value) for name, value in zip(labels, each.nan_to_num(), strict=True)
    }
