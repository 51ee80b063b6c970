"""The two networks that textbooks begin with, on the two data sets that they begin with.

    mnist-cnn    28x28 grey, convolutions 32-64-64, dense 64      imago-train fit mnist-cnn
    cifar-cnn    32x32 colour, convolutions 32-64-128, dense 128  imago-train fit cifar-cnn --data DIR

Without MNIST's files in the folder given, mnist-cnn trains on the digits that scikit-learn brings: a first run needs no
download.
"""

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from app.imaging.codec import encode_png
from app.manifest import ImageInput
from training.classifying import WATCHED, Batch, ClassifyHyper, ClassifyLoop, taught, unmixed
from training.data import BrokenData, cifar, idx
from training.data.augment import flip_every_other, translate
from training.data.feed import Draw, Feed, Slices
from training.data.held_out import Labelled, shuffled
from training.engine import Count, Plan, Rate
from training.metrics import fit_temperature
from training.networks.graphs import DenseClassifyGraph, scaled
from training.networks.textbook import TextbookNetwork
from training.onnx_file import Arrays
from training.recipe import Card, Recipe
from training.run import Run, submodule
from training.version import Version

Split = Literal["train", "test"]
_HELD_OUT = 10
"""Every so many-th training picture is for validation, and for the temperature."""


class TextbookHyper(ClassifyHyper):
    """What may be chosen; the widths are those of the textbooks."""

    epochs: Count = 20
    batch_size: Count = 64
    lr: Rate = 2e-3
    widths: tuple[Count, Count, Count] = (32, 64, 64)
    dense: Count = 64
    dropout: float = Field(default=0.5, ge=0, lt=1)
    shift: int = Field(default=1, ge=0, lt=idx.SIDE)
    mirror: bool = False


class TextbookRecipe(Recipe[TextbookHyper]):
    """A textbook network on pictures that fit into memory."""

    headline = "test_accuracy"
    classes: tuple[str, ...]
    size: int
    channels: Literal[1, 3]

    @abstractmethod
    def arrays(self, data: Path, split: Split) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Images uint8 [N,size,size,channels] and labels int64 [N]. Raises BrokenData."""

    @abstractmethod
    def facts(self, data: Path) -> dict[str, str | int]:
        """What the card says of the data."""

    def describe(self, hyper: TextbookHyper, data: Path) -> Card:
        """The card of a first experiment."""
        return Card(
            task="classify",
            description=f"A textbook network that tells apart {', '.join(self.classes)}.",
            licence="Weights: Apache-2.0. Training data: see below.",
            data=self.facts(data),
            labels=self.classes,
            image=ImageInput(width=self.size, height=self.size, channels=self.channels, fit="cover"),
            uses="Teaching, and a first look at the whole way from data to service.",
            limits="It knows its classes alone, and pictures like those of its training set.",
        )

    def plan(self, hyper: TextbookHyper, data: Path, run: Run) -> Plan:
        """Network, loop and batches of a run."""
        images, labels = (torch.from_numpy(array) for array in self.arrays(data, "train"))
        training, held_out = _split(len(images))

        def make(draw: Draw) -> Batch:
            rows = training[draw.rows]
            pictures = scaled(images[rows])
            if hyper.mirror:
                pictures = flip_every_other(pictures, rows, draw.epoch)
            if hyper.shift:
                pictures = translate(pictures, hyper.shift, draw.random)
            return unmixed(pictures.contiguous(memory_format=torch.channels_last), labels[rows])

        loop = ClassifyLoop(self.network(hyper, data), hyper, torch.ones(len(self.classes)))
        shape = (self.size, self.size, self.channels)
        feed = Feed(len(training), hyper.batch_size, hyper.seed, taught(hyper, self.classes, shape, make))
        validation = Slices((images[held_out], labels[held_out]), 500)
        return Plan(loop, feed, validation, watched=WATCHED, patience=hyper.patience)

    def graph(self, hyper: TextbookHyper, weights: dict[str, Tensor], data: Path) -> DenseClassifyGraph:
        """The best averaged network, its temperature fitted on the held-out training pictures."""
        network = self.network(hyper, data)
        network.load_state_dict(submodule(weights, "best.module"))
        images, labels = (torch.from_numpy(array) for array in self.arrays(data, "train"))
        _, rows = _split(len(images))
        graph = DenseClassifyGraph(network.eval())
        with torch.no_grad():
            logits = torch.cat([graph.logits(images[part]) for (part,) in Slices((rows,), 500)])
        return DenseClassifyGraph(network, fit_temperature(logits, labels[rows]))

    def examples(self, hyper: TextbookHyper, data: Path) -> Arrays:
        """Up to 500 test images."""
        images, _ = self.arrays(data, "test")
        return {"image": images[:: max(1, len(images) // 500)]}

    def training_pictures(self, data: Path) -> Iterator[bytes]:
        """The training pictures."""
        images, _ = self.arrays(data, "train")
        return (encode_png(image[..., 0] if self.channels == 1 else image) for image in shuffled(list(images)))

    def truth(self, data: Path) -> Labelled:
        """The test pictures."""
        return self._held_out(data)

    def _held_out(self, data: Path) -> Labelled:
        images, labels = self.arrays(data, "test")
        files = [encode_png(image[..., 0] if self.channels == 1 else image) for image in images]
        names = [f"test picture {row}" for row in range(len(files))]
        return Labelled(names, files, [self.classes[label] for label in labels])

    def score(self, version: Version, data: Path) -> dict[str, float]:
        """Accuracy on the test pictures."""
        pictures = self._held_out(data)
        found = [answer["labels"][0]["label"] for answer in version.answers(pictures.files, top_k=1)]
        return {
            "test_accuracy": float(np.mean([one == true for one, true in zip(found, pictures.labels, strict=True)]))
        }

    def network(self, hyper: TextbookHyper, data: Path) -> TextbookNetwork:
        """The network, untrained."""
        return TextbookNetwork(len(self.classes), self.size, self.channels, hyper.widths, hyper.dense, hyper.dropout)

    def narrower(self, hyper: TextbookHyper, pruned: TextbookNetwork) -> TextbookHyper:
        """What makes a network as wide as a pruned one."""
        return hyper.model_copy(update={"widths": pruned.widths, "dense": pruned.head.in_features})


class MnistCnn(TextbookRecipe):
    """Handwritten digits."""

    name = "mnist-cnn"
    hyper = TextbookHyper
    anchor = "about 99 % on MNIST: keras.io/examples/vision/mnist_convnet"
    classes = idx.CLASSES
    size = idx.SIDE
    channels = 1

    def arrays(self, data: Path, split: Split) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """MNIST where the folder holds it, scikit-learn's digits elsewhere."""
        return idx.arrays(data, split)

    def truth(self, data: Path) -> Labelled:
        """The test pictures of MNIST, or the digits where no folder is named: another one has pictures of its own."""
        if data != Path() and not idx.present(data):
            raise BrokenData(data, "holds no MNIST; without --data the digits of scikit-learn are taken")
        return self._held_out(data)

    def facts(self, data: Path) -> dict[str, str | int]:
        """Which of the two it was."""
        return idx.FACTS if idx.present(data) else idx.DIGITS_FACTS


class CifarHyper(TextbookHyper):
    """Wider, mirrored, and for longer."""

    epochs: Count = 25
    batch_size: Count = 128
    widths: tuple[Count, Count, Count] = (32, 64, 128)
    dense: Count = 128
    shift: int = Field(default=2, ge=0, lt=idx.SIDE)
    mirror: bool = True


class CifarCnn(TextbookRecipe):
    """Ten kinds of things."""

    name = "cifar-cnn"
    hyper = CifarHyper
    classes = cifar.CLASSES
    size = 32
    channels = 3

    def arrays(self, data: Path, split: Split) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """CIFAR-10."""
        return cifar.arrays(data, split)

    def facts(self, data: Path) -> dict[str, str | int]:
        """Those of CIFAR-10."""
        return cifar.FACTS


def _split(count: int) -> tuple[Tensor, Tensor]:
    """Rows for training and for validation, the same for every seed."""
    order = torch.from_numpy(np.random.default_rng(0).permutation(count))
    held_out = max(1, count // _HELD_OUT)
    return order[held_out:], order[:held_out]
