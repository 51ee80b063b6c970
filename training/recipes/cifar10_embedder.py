"""cifar10-embedder: a vector for each 32x32 picture, close to those of pictures of the same thing.

    claim     the nearest other test picture shows the same thing for 88.9 %, most of the five nearest training pictures
              for 91.4 % (version 2, from the run of version 2 of the classifier)
    seed      0
    command   imago-train export cifar10-embedder --run runs/cifar10-classifier --data DIR

The classifier's network without its head: pooled features of a picture and its mirror image, whitened within the
classes (which finds more than the features themselves do, with half as many numbers), at length 1. It is made of a run
of `cifar10-classifier`, or fitted by itself in the same way (`imago-train fit cifar10-embedder`).
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.manifest import ImageInput
from training.data import cifar
from training.data.feed import Slices
from training.data.held_out import shuffled
from training.engine import Plan
from training.metrics import nearest, retrieval
from training.networks.graphs import EmbedGraph
from training.networks.statistics import whitening
from training.onnx_file import Arrays
from training.recipe import Card, Recipe
from training.recipes.cifar10_classifier import (
    Cifar10Classifier,
    ClassifierHyper,
    as_pictures,
    load,
    plan,
    recounted,
    split,
    trained,
)
from training.run import Run
from training.version import Version

NEIGHBOURS = 5
SIZE = 128
"""Numbers of a vector."""


class Cifar10Embedder(Recipe[ClassifierHyper]):
    """The shipped embedder."""

    name = "cifar10-embedder"
    run_of = Cifar10Classifier.name
    hyper = ClassifierHyper
    headline = "test_recall_at_1"
    anchor = "the accuracy of the same network with its head"
    card = Card(
        task="embed",
        description="Turns a small picture into a vector that lies close to those of pictures of the same thing.",
        licence="Weights: Apache-2.0. Training data: CIFAR-10, for research use (no explicit licence).",
        data=cifar.FACTS,
        labels=(),
        image=ImageInput(width=32, height=32, fit="cover"),
        uses="Galleries and search of thumbnails by what they show; demonstration and load tests.",
        limits="It sees 32x32 pixels and learned to tell ten things apart: of pictures of other things it knows "
        "colours and shapes at best. It is no recogniser of faces.",
    )

    def plan(self, hyper: ClassifierHyper, data: Path, run: Run) -> Plan:
        """The classifier's run."""
        return plan(hyper, *load(data, "train"))

    def graph(self, hyper: ClassifierHyper, weights: dict[str, Tensor], data: Path) -> EmbedGraph:
        """The trained network without its head, and the whitening of 20,000 training pictures."""
        network = recounted(trained(hyper, weights), hyper, data)
        images, labels = load(data, "train")
        rows = split(len(images), hyper.held_out)[0][:20_000]
        with torch.no_grad():
            pooled = [network.features(as_pictures(images[part])).mean((2, 3)) for (part,) in Slices((rows,), 500)]
        return EmbedGraph(network, *whitening(torch.cat(pooled), labels[rows], SIZE))

    def examples(self, hyper: ClassifierHyper, data: Path) -> Arrays:
        """500 test images."""
        images, _ = load(data, "test")
        return {"image": images[:: max(1, len(images) // 500)].numpy()}

    def training_pictures(self, data: Path) -> Iterator[bytes]:
        """The training split."""
        return shuffled([file for file, _ in cifar.pictures(data, "train")])

    def score(self, version: Version, data: Path) -> dict[str, float]:
        """Retrieval of test pictures among the other test pictures, and how often the class that most of the five
        nearest training pictures have is the right one (k nearest neighbours)."""
        asked, truth = embedded(version, data, "test")
        known, labels = embedded(version, data, "train")
        figures = {f"test_{name}": value for name, value in retrieval(asked, truth).items()}
        votes = labels[nearest(asked, known, NEIGHBOURS)]
        counts = np.stack([(votes == number).sum(1) for number in range(len(cifar.CLASSES))], 1)
        return {**figures, f"test_knn_{NEIGHBOURS}_accuracy": float((counts.argmax(1) == truth).mean())}


def embedded(version: Version, data: Path, part: cifar.Split) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """What the server would answer to the pictures of a split, float [N,D], and their classes."""
    files, labels = zip(*cifar.pictures(data, part), strict=True)
    vectors = [answer["embedding"] for answer in version.answers(files)]
    return np.array(vectors, np.float32), np.array(labels)
