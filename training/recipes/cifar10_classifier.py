"""cifar10-classifier: ten classes of 32x32 pictures.

    claim     90.71 % of the test pictures, single view (version 2)
    time      145 minutes on 2 CPU cores with bfloat16 arithmetic, interrupted and beside other work
    seed      0
    command   imago-train fit cifar10-classifier --data DIR

After airbench94 (Jordan 2024, arXiv 2404.00498): frozen whitening stem, Muon on the filters, label smoothing,
alternating flip and a two-pixel shift. The learning rate is a triangle and then a lower one; the mean of the weights
at the end of both is kept (Izmailov et al. 2018, arXiv 1803.05407). 2,000 training pictures are held out: they choose
nothing but the softmax temperature.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from app.imaging.codec import encode_png
from app.manifest import Conformal, ImageInput
from training.data import BrokenData, camvid, cifar
from training.data.augment import cut_out, flip_every_other, translate
from training.data.feed import Draw, Feed, Slices
from training.data.held_out import Labelled, shuffled
from training.engine import Average, Count, Hyper, Plan, Rate
from training.metrics import calibrate_sets, calibration_error, fit_temperature, separation
from training.networks.classifier import Classifier
from training.networks.graphs import ClassifyGraph
from training.networks.layout import channels_last
from training.networks.statistics import recount
from training.onnx_file import Arrays
from training.optimisers import Muon
from training.recipe import Card, Recipe
from training.run import Run, submodule
from training.schedules import two_triangles
from training.version import Version

COVERAGE = 0.9
"""The level at which label sets are checked on test pictures."""


class ClassifierHyper(Hyper):
    """What was chosen; from airbench94, its batch and Muon rate halved, other rates for means of losses."""

    epochs: Count = 40
    again_epochs: int = Field(default=8, ge=0)
    again: Rate = 0.5
    batch_size: Count = 1000
    lr: Rate = 0.12
    head_lr: Rate = 0.2
    head_decay: float = 0.01
    bias_lr: Rate = 50.0
    bias_decay: float = 4e-5
    smoothing: float = 0.2
    shift: int = 4
    cutout: int = 8
    held_out: int = 2000
    widths: tuple[int, int, int] = (64, 256, 256)


def plan(hyper: ClassifierHyper, images: Tensor, labels: Tensor) -> Plan:
    """Network, loop and batches of a run on uint8 [N,32,32,3] and int64 [N]."""
    training, held_out = split(len(images), hyper.held_out)
    network = Classifier(len(cifar.CLASSES), hyper.widths)
    network.stem.fit(as_pictures(images[training[:5000]]))

    def make(draw: Draw) -> tuple[Tensor, Tensor]:
        rows = training[draw.rows]
        pictures = flip_every_other(as_pictures(images[rows]), rows, draw.epoch)
        shifted = translate(pictures, hyper.shift, draw.random)
        return _fast(cut_out(shifted, hyper.cutout, draw.random)), labels[rows]

    feed = Feed(len(training), hyper.batch_size, hyper.seed, make)
    module = ClassifierLoop(network, hyper, steps=hyper.epochs * len(feed))
    return Plan(module, feed, Slices((_fast(as_pictures(images[held_out])), labels[held_out]), 500))


class ClassifierLoop(LightningModule):
    """One step: cross entropy of smoothed labels."""

    def __init__(self, network: Classifier, hyper: ClassifierHyper, steps: int) -> None:
        super().__init__()
        self.network = channels_last(network)
        self.average = Average(self.network, decay=0.5)
        self.hyper, self.steps = hyper, steps
        self.again = steps * max(0, hyper.epochs - hyper.again_epochs) // hyper.epochs

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """The loss of one batch."""
        pictures, labels = batch
        loss = functional.cross_entropy(self.network(pictures).float(), labels, label_smoothing=self.hyper.smoothing)
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Accuracy on held-out training pictures."""
        pictures, labels = batch
        correct = (self.network(pictures).argmax(1) == labels).float().mean()
        self.log("validation/accuracy", correct, prog_bar=True, batch_size=len(labels))

    def optimizer_step(self, *arguments: Any, **named: Any) -> None:
        """Take the weights at the end of the first triangle, and their mean with those at the end of the second."""
        super().optimizer_step(*arguments, **named)
        if self.global_step + 1 == self.again:
            self.average.module.load_state_dict(self.network.state_dict())
        elif self.global_step + 1 == self.steps:
            self.average.follow(self.network)

    def configure_optimizers(self) -> Any:
        """Muon for filters, its plain step for biases and head; one schedule for all."""
        named = [(name, value) for name, value in self.network.named_parameters() if value.requires_grad]
        head = list(self.network.head.parameters())
        biases = [value for name, value in named if value.ndim == 1 and not name.startswith("head")]
        plain = {"orthogonal": False, "momentum": 0.85}
        optimiser = Muon(
            [
                {"params": [value for _, value in named if value.ndim == 4], "lr": self.hyper.lr},
                {"params": biases, "lr": self.hyper.bias_lr, "weight_decay": self.hyper.bias_decay, **plain},
                {"params": head, "lr": self.hyper.head_lr, "weight_decay": self.hyper.head_decay, **plain},
            ]
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, two_triangles(self.steps, self.again, self.hyper.again))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def load(data: Path, part: cifar.Split) -> tuple[Tensor, Tensor]:
    """Images uint8 [N,32,32,3] and labels int64 [N]."""
    images, labels = cifar.arrays(data, part)
    return torch.from_numpy(images), torch.from_numpy(labels)


def split(count: int, held_out: int) -> tuple[Tensor, Tensor]:
    """Row numbers for training and for validation: the same for every seed, at most a tenth held out."""
    order = torch.from_numpy(np.random.default_rng(0).permutation(count))
    held = min(held_out, count // 10)
    return order[held:], order[:held]


def as_pictures(images: Tensor) -> Tensor:
    """uint8 [N,H,W,3] to float [N,3,H,W] in 0..1."""
    return images.permute(0, 3, 1, 2).float() / 255


def _fast(pictures: Tensor) -> Tensor:
    return pictures.contiguous(memory_format=torch.channels_last)


class Cifar10Classifier(Recipe[ClassifierHyper]):
    """The shipped classifier."""

    name = "cifar10-classifier"
    hyper = ClassifierHyper
    headline = "test_accuracy"
    anchor = "94.0 % with test-time augmentation: airbench94 (Jordan 2024)"
    card = Card(
        task="classify",
        description="Says which of ten things a small picture shows: airplane, automobile, bird, cat, deer, dog, frog, "
        "horse, ship or truck.",
        licence="Weights: Apache-2.0. Training data: CIFAR-10, for research use (no explicit licence).",
        data=cifar.FACTS,
        labels=cifar.CLASSES,
        image=ImageInput(width=32, height=32, fit="cover"),
        uses="Demonstration, teaching, load tests, and sorting of thumbnails that show one of the ten things.",
        limits="It sees 32x32 pixels and knows ten classes: any other picture is still given one of them (its "
        "energy is high then). Probabilities and label sets are calibrated on held-out training pictures.",
    )

    def plan(self, hyper: ClassifierHyper, data: Path, run: Run) -> Plan:
        """The run described above."""
        return plan(hyper, *load(data, "train"))

    def graph(self, hyper: ClassifierHyper, weights: dict[str, Tensor], data: Path) -> ClassifyGraph:
        """The trained network, its temperature fitted on the first half of the held-out training pictures."""
        network = recounted(trained(hyper, weights), hyper, data)
        images, labels = load(data, "train")
        _, held_out = split(len(images), hyper.held_out)
        rows = held_out[: len(held_out) // 2]
        with torch.no_grad():
            logits = torch.cat([network(as_pictures(images[part])) for (part,) in Slices((rows,), 500)])
        return ClassifyGraph(network, fit_temperature(logits, labels[rows]))

    def calibrate(self, hyper: ClassifierHyper, version: Version, data: Path) -> Conformal:
        """Label sets, from the second half of the held-out training pictures."""
        files, labels = zip(*cifar.pictures(data, "train"), strict=True)
        _, held_out = split(len(files), hyper.held_out)
        rows = held_out[len(held_out) // 2 :].tolist()
        found = probabilities(answered(version, [files[row] for row in rows]))
        return calibrate_sets(found[np.arange(len(rows)), [labels[row] for row in rows]])

    def examples(self, hyper: ClassifierHyper, data: Path) -> Arrays:
        """500 test images."""
        images, _ = load(data, "test")
        return {"image": images[:: max(1, len(images) // 500)].numpy()}

    def training_pictures(self, data: Path) -> Iterator[bytes]:
        """The training split."""
        return shuffled([file for file, _ in cifar.pictures(data, "train")])

    def truth(self, data: Path) -> Labelled:
        """The test split."""
        files, numbers = zip(*cifar.pictures(data, "test"), strict=True)
        names = [f"test picture {row}" for row in range(len(files))]
        return Labelled(names, files, [cifar.CLASSES[number] for number in numbers])

    def score(self, version: Version, data: Path) -> dict[str, float]:
        """Accuracy of a single view, calibration, coverage and size of the label sets, and how well the energy tells
        test pictures from others (area under the ROC curve)."""
        files, truth = zip(*cifar.pictures(data, "test"), strict=True)
        labels, calibrated = np.array(truth), version.manifest.conformal is not None
        answers = answered(version, files, **({"coverage": COVERAGE} if calibrated else {}))
        figures = {
            "test_accuracy": float((probabilities(answers).argmax(1) == labels).mean()),
            "test_calibration_error": calibration_error(probabilities(answers), labels),
        }
        if calibrated:
            sets = [{score["index"] for score in answer["set"]["labels"]} for answer in answers]
            right = [label in held for held, label in zip(sets, truth, strict=True)]
            figures["test_coverage_of_90_percent_sets"] = sum(right) / len(right)
            figures["test_labels_in_90_percent_sets"] = sum(map(len, sets)) / len(sets)
        for name, others in strangers(data):
            figures[f"energy_auroc_{name}"] = separation(energies(answers), energies(answered(version, others)))
        return figures


def answered(version: Version, files: Sequence[bytes], **options: Any) -> list[dict[str, Any]]:
    """What the server would answer to encoded pictures, with the probabilities of all classes."""
    return list(version.answers(files, top_k=len(cifar.CLASSES), **options))


def probabilities(answers: list[dict[str, Any]]) -> NDArray[np.float64]:
    """Float [N,C], in the order of the classes."""
    ranked = [sorted((score["index"], score["probability"]) for score in answer["labels"]) for answer in answers]
    return np.array([[probability for _, probability in scores] for scores in ranked])


def energies(answers: list[dict[str, Any]]) -> NDArray[np.float64]:
    """Float [N], high for pictures unlike those of the training set."""
    return np.array([answer["energy"] for answer in answers])


def strangers(data: Path) -> Iterator[tuple[str, list[bytes]]]:
    """Pictures of nothing that the classifier knows: noise, and the road scenes of CamVid where they lie beside."""
    random = np.random.default_rng(0)
    yield "noise", [encode_png(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(1000)]
    for folder in (data, data.parent):
        with contextlib.suppress(BrokenData):
            yield "camvid", [file for file, _ in camvid.pictures(folder, "test")]
            return


def trained(hyper: ClassifierHyper, weights: dict[str, Tensor]) -> Classifier:
    """The network of a run, ready to answer."""
    network = Classifier(len(cifar.CLASSES), hyper.widths)
    network.load_state_dict(submodule(weights, "average.module"))
    return network.eval()


def recounted(network: Classifier, hyper: ClassifierHyper, data: Path) -> Classifier:
    """The same with the statistics of its averaged weights, from 10,000 training pictures."""
    images, _ = load(data, "train")
    training, _ = split(len(images), hyper.held_out)
    recount(network, ((as_pictures(images[part]),) for (part,) in Slices((training[:10_000],), 500)))
    return network
