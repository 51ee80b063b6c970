"""The loop of classifiers without an art of their own: AdamW, a cosine, averaged weights of which the best are kept."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from app.errors import InvalidModel
from training.averaging import AveragedHyper, AveragedLoop
from training.data.feed import Draw
from training.engine import Average, Count
from training.version import Version, open_version

WATCHED = "validation/accuracy"
"""What decides which weights are kept, and when to stop."""


class ClassifyHyper(AveragedHyper):
    """What every classifier of this loop lets one choose."""

    weight_decay: float = Field(default=0.05, ge=0)
    warm_up: int = Field(default=50, ge=0)
    smoothing: float = Field(default=0.1, ge=0, lt=1)
    decay: float = Field(default=0.98, ge=0, lt=1)
    patience: Count = 10
    teacher: str = ""
    """Folder of a version whose probabilities are learned beside the labels (Hinton et al. 2015, arXiv 1503.02531)."""
    taught: float = Field(default=0.7, ge=0, le=1)
    """Share of the teacher in the loss."""
    softness: float = Field(default=3.0, ge=1)
    """Temperature at which student and teacher are compared."""

    def shown(self) -> dict[str, Any]:
        """The teacher by its name and version."""
        teacher = "/".join(("models", *Path(self.teacher).parts[-2:])) if self.teacher else ""
        return super().shown() | {"teacher": teacher}


Batch = tuple[Tensor, ...]
"""Pictures float [N,C,H,W], two labels int64 [N] of each, the share float [] of the first, and with a teacher its
softened probabilities float [N,classes]."""


class ClassifyLoop(AveragedLoop[nn.Module]):
    """One step: cross entropy of smoothed labels, weighted by class, of mixed pictures for both of their labels."""

    weights: Tensor
    reached: Tensor

    def __init__(self, network: nn.Module, hyper: ClassifyHyper, weights: Tensor) -> None:
        super().__init__(network, hyper)
        self.best = Average(self.network, 0.0)
        self.hyper = hyper
        self.register_buffer("weights", weights)
        self.register_buffer("reached", torch.tensor(-1.0))
        self.right = self.seen = 0

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """The loss of one batch, and in the log."""
        loss = self.loss_of(batch)
        self.log("loss", loss, prog_bar=True)
        return loss

    def loss_of(self, batch: Batch) -> Tensor:
        """The loss of one batch."""
        pictures, first, second, share, *soft = batch
        logits = self.network(pictures).float()
        loss = share * self._loss(logits, first) + (1 - share) * self._loss(logits, second)
        for probabilities in soft:
            softened = torch.log_softmax(logits / self.hyper.softness, 1)
            apart = functional.kl_div(softened, probabilities, reduction="batchmean") * self.hyper.softness**2
            loss = (1 - self.hyper.taught) * loss + self.hyper.taught * apart
        return loss

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(logits, labels, self.weights, label_smoothing=self.hyper.smoothing)

    def on_validation_epoch_start(self) -> None:
        """Start counting."""
        self.right = self.seen = 0

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Count right answers of the averaged network; pictures are uint8 [N,H,W,C]."""
        images, labels = batch
        logits = self.average.module(images.permute(0, 3, 1, 2).float() / 255)
        self.right += int((logits.argmax(1) == labels).sum())
        self.seen += len(labels)

    def on_validation_epoch_end(self) -> None:
        """Keep the average where it is the best so far; of equal ones the later."""
        accuracy = self.right / max(1, self.seen)
        self.log(WATCHED, accuracy, prog_bar=True)
        if accuracy >= float(self.reached):
            self.reached.fill_(accuracy)
            self.best.follow(self.average.module)


def taught(
    hyper: ClassifyHyper, labels: Sequence[str], shape: tuple[int, int, int], make: Callable[[Draw], Batch]
) -> Callable[[Draw], Batch]:
    """`make`, with the teacher's softened probabilities of every picture where the run has a teacher; `labels` are the
    student's, and `shape` is that of its pictures: height, width, channels.

    Raises InvalidModel where the teacher's folder breaks the contract, it tells other classes apart, or takes pictures
    of another shape.
    """
    if not hyper.teacher:
        return make
    version = open_version(Path(hyper.teacher))
    _check_teacher(version, labels, shape)

    def with_teacher(draw: Draw) -> Batch:
        batch = make(draw)
        image = (batch[0] * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
        sure = torch.from_numpy(version.session.run({"image": image})["probabilities"])
        soft = sure.clamp_min(1e-12) ** (1 / hyper.softness)
        return *batch, soft / soft.sum(1, keepdim=True)

    return with_teacher


def _check_teacher(version: Version, labels: Sequence[str], shape: tuple[int, int, int]) -> None:
    called, image = f"The teacher {version.folder}", version.manifest.image
    if version.manifest.task != "classify" or len(version.task.labels) != len(labels) or image is None:
        raise InvalidModel(f"{called} does not tell {len(labels)} classes apart: it cannot teach these.")
    for number, (theirs, ours) in enumerate(zip(version.task.labels, labels, strict=True)):
        if theirs != ours:
            raise InvalidModel(f"{called} calls class {number} {theirs!r}, here it is {ours!r}: it cannot teach these.")
    if (image.height, image.width, image.channels) != shape:
        sizes = ("x".join(map(str, each)) for each in ((image.height, image.width, image.channels), shape))
        raise InvalidModel("{} takes pictures of {}, and the student of {}.".format(called, *sizes))


def unmixed(pictures: Tensor, labels: Tensor) -> Batch:
    """A batch of pictures as they are."""
    return pictures, labels, labels, torch.ones(())


def mixed(pictures: Tensor, labels: Tensor, strength: float, random: torch.Generator) -> Batch:
    """Each picture mixed with another of the batch, mixup of Zhang et al. 2018 (arXiv 1710.09412); the larger share is
    the first's. The share is drawn from Beta(strength, strength); 0 leaves the pictures as they are."""
    if not strength:
        return unmixed(pictures, labels)
    seed = int(torch.randint(0, 2**31, (), generator=random))  # torch's Beta takes no generator, numpy's does
    drawn = np.random.default_rng(seed).beta(strength, strength)
    share = torch.tensor(max(drawn, 1 - drawn), dtype=torch.float32)
    other = torch.randperm(len(pictures), generator=random)
    return share * pictures + (1 - share) * pictures[other], labels, labels[other], share


def balanced(labels: Tensor, classes: int) -> Tensor:
    """Weights float [classes] that make rare classes count as much as common ones; their mean over pictures is 1."""
    counts = torch.bincount(labels, minlength=classes).clamp_min(1)
    return len(labels) / (classes * counts.float())
