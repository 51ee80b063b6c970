"""cifar10-generator: new 32x32 pictures of a wanted class.

    claim     the shipped classifier, which had no part in training, sees the wanted class in 94.0 % of 1,000 pictures
              (version 1; contact sheet beside its card)
    time      19 minutes on 2 CPU cores with bfloat16 arithmetic, beside other work; its feature network not counted
    seed      0
    command   imago-train fit cifar10-generator --data DIR

Projected GAN (Sauer et al. 2021, arXiv 2111.01007): the critic sees pictures through the frozen features of a small
classifier, which makes a GAN converge in a fraction of the pictures. That classifier is half as wide as the shipped
one and trained here, from its own seed, so that the shipped one is an impartial judge. Pictures of one class are
pushed apart until they differ as much as real ones do.
"""

import base64
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor

from app.imaging.codec import encode_png
from training import engine
from training.data import cifar
from training.data.augment import jitter, translate
from training.data.feed import Draw, Feed
from training.data.pixels import decode
from training.engine import Average, Count, Hyper, Plan, Rate
from training.networks.classifier import Classifier
from training.networks.critic import Critic
from training.networks.generator import Generator
from training.networks.graphs import GenerateGraph, scaled
from training.networks.layout import channels_last
from training.networks.statistics import recount
from training.onnx_file import Arrays
from training.recipe import Card, Recipe
from training.recipes import cifar10_classifier
from training.recipes.cifar10_classifier import ClassifierHyper
from training.run import Run, submodule
from training.version import Version, open_version

CLASSES = len(cifar.CLASSES)
JUDGE = "cifar10-classifier/1"
"""The version whose accuracy on generated pictures is the score."""
PER_CLASS = 100


class GeneratorHyper(Hyper):
    """What was chosen."""

    epochs: Count = 3
    batch_size: Count = 64
    lr: Rate = 3e-4
    latent: int = 128
    widths: tuple[int, int, int, int] = (256, 128, 64, 32)
    decay: float = 0.995
    spread: float = 5.0
    shift: int = 4
    colour: float = 0.2
    feature_epochs: Count = 4
    feature_widths: tuple[int, int, int] = (32, 128, 128)
    feature_seed: int = 1


class GeneratorLoop(LightningModule):
    """One step: the critic learns from real and made pictures, then the generator from the critic (hinge loss)."""

    def __init__(self, hyper: GeneratorHyper, features: Classifier) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.hyper = hyper
        self.network = channels_last(Generator(CLASSES, hyper.latent, hyper.widths))
        self.critic = channels_last(Critic(features, CLASSES))
        self.average = Average(self.network, hyper.decay)
        self.random = torch.Generator()

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor, Tensor, int], index: int) -> None:
        """Both halves of one batch."""
        real, real_classes, z, classes, seed = batch
        self.random.manual_seed(seed)
        critic_steps, generator_steps = cast(list[LightningOptimizer], self.optimizers())
        made = self.network(z, classes)
        wrong = self._critic_loss(real, real_classes, made.detach(), classes)
        self._step(critic_steps, wrong)
        self.critic.heads.requires_grad_(False)
        missed = -self.critic(self._augment(made), classes).mean()
        alike = torch.relu(1 - spread(made) / spread(real))
        self._step(generator_steps, missed + self.hyper.spread * alike)
        self.critic.heads.requires_grad_(True)
        self.average.follow(self.network)
        self.log_dict({"loss/critic": wrong, "loss/generator": missed, "loss/alike": alike}, prog_bar=True)

    def _critic_loss(self, real: Tensor, real_classes: Tensor, made: Tensor, classes: Tensor) -> Tensor:
        # One pass each: batch norm then shows a head how little a batch varies.
        on_real = self.critic(self._augment(real), real_classes)
        on_made = self.critic(self._augment(made), classes)
        return torch.relu(1 - on_real).mean() + torch.relu(1 + on_made).mean()

    def _augment(self, pictures: Tensor) -> Tensor:
        """What the critic sees is shifted and toned, real or made alike (Zhao et al. 2020, arXiv 2006.10738)."""
        toned = jitter(pictures, self.hyper.colour, self.random)
        return translate(toned, self.hyper.shift, self.random).contiguous(memory_format=torch.channels_last)

    def _step(self, optimiser: Any, loss: Tensor) -> None:
        optimiser.zero_grad()
        self.manual_backward(loss)
        optimiser.step()

    def configure_optimizers(self) -> Any:
        """Adam without momentum for both, as GANs like it."""
        critic = torch.optim.Adam(self.critic.heads.parameters(), lr=self.hyper.lr, betas=(0.0, 0.99))
        return [critic, torch.optim.Adam(self.network.parameters(), lr=self.hyper.lr, betas=(0.0, 0.99))]


class Cifar10Generator(Recipe[GeneratorHyper]):
    """The shipped generator."""

    name = "cifar10-generator"
    hyper = GeneratorHyper
    card = Card(
        task="generate",
        description="Makes new 32x32 pictures of a wanted class: airplane, automobile, bird, cat, deer, dog, frog, "
        "horse, ship or truck.",
        licence="Weights: Apache-2.0. Training data: CIFAR-10, for research use (no explicit licence).",
        data=cifar.FACTS,
        labels=cifar.CLASSES,
        uses="Demonstration, teaching and load tests.",
        limits="A first, short training (150,000 pictures seen). Cars, ships, horses and planes come out recognisable; "
        "cats, dogs, birds and frogs are often crooked, colours at times garish, and poses repeat within a class. The "
        f"score says only that {JUDGE} finds the wanted class, not how natural a picture looks: no FID was measured.",
    )

    def plan(self, hyper: GeneratorHyper, data: Path, run: Run) -> Plan:
        """Feature network first, then loop and batches."""
        features = feature_network(hyper, data, Run(run.folder / "features"))
        images, labels = cifar10_classifier.load(data, "train")

        def make(draw: Draw) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
            pictures = scaled(images[draw.rows])
            mirrored = torch.rand(len(pictures), 1, 1, 1, generator=draw.random) < 0.5
            z = torch.randn(len(pictures) // 2 * 2, hyper.latent, generator=draw.random)
            classes = torch.randint(0, CLASSES, (len(pictures) // 2,), generator=draw.random).repeat(2)
            seed = int(torch.randint(0, 2**31, (), generator=draw.random))
            return torch.where(mirrored, pictures.flip(3), pictures), labels[draw.rows], z, classes, seed

        engine.seed(hyper.seed)
        return Plan(GeneratorLoop(hyper, features), Feed(len(images), hyper.batch_size, hyper.seed, make))

    def graph(self, hyper: GeneratorHyper, weights: dict[str, Tensor], data: Path) -> GenerateGraph:
        """The averaged network, with batch statistics of its own."""
        network = Generator(CLASSES, hyper.latent, hyper.widths)
        network.load_state_dict(submodule(weights, "average.module"))
        random = torch.Generator().manual_seed(0)
        classes = torch.arange(250) % CLASSES
        recount(network, ((torch.randn(250, hyper.latent, generator=random), classes) for _ in range(40)))
        return GenerateGraph(network)

    def examples(self, hyper: GeneratorHyper, data: Path) -> Arrays:
        """64 latent vectors, classes in turn."""
        random = np.random.default_rng(0)
        z = random.standard_normal((64, hyper.latent), np.float32)
        return {"z": z, "class": np.arange(64) % CLASSES}

    def score(self, version: Version, data: Path) -> dict[str, float]:
        """Share of 1,000 generated pictures, 100 a class from fixed seeds, in which the judge sees the wanted class."""
        judge = open_version(version.folder.parent.parent / JUDGE)
        right: dict[str, float] = {}
        for wanted, name in enumerate(cifar.CLASSES):
            answers = judge.answers(made(version, wanted, PER_CLASS), top_k=1)
            hits = [answer["labels"][0]["index"] == wanted for answer in answers]
            right[f"classifier_accuracy_{name}"] = sum(hits) / PER_CLASS
        return {"classifier_accuracy": sum(right.values()) / CLASSES, **right}

    def extras(self, version: Version) -> dict[str, bytes]:
        """A contact sheet: a class a row, ten seeds each, three times enlarged."""
        rows = [
            np.concatenate([decode(file, "sample") for file in made(version, wanted, 10)], 1)
            for wanted in range(CLASSES)
        ]
        return {"samples.png": encode_png(np.concatenate(rows).repeat(3, 0).repeat(3, 1))}


def spread(pictures: Tensor) -> Tensor:
    """Mean absolute difference between the first and the second half of float [N,3,H,W].

    Both halves of a made batch have the same classes, so a generator that ignores z has no spread. Asking for that of
    real pictures keeps it from doing so, as mode seeking does (Mao et al. 2019, arXiv 1903.05628).
    """
    half = len(pictures) // 2
    return (pictures[:half] - pictures[half : 2 * half]).abs().mean()


def made(version: Version, wanted: int, count: int) -> list[bytes]:
    """PNG files of one class: images 0 .. count-1 of the seed that has the class's number."""
    return [
        base64.b64decode(version.made(**{"class": wanted, "seed": wanted, "index": index})[0]["image"]["data"])
        for index in range(count)
    ]


def feature_network(hyper: GeneratorHyper, data: Path, run: Run) -> Classifier:
    """A small classifier for the critic to see through, trained once a run by the classifier's own recipe."""
    small = ClassifierHyper(
        epochs=hyper.feature_epochs, again_epochs=0, widths=hyper.feature_widths, seed=hyper.feature_seed
    )
    if not (run.record_path.exists() and run.read()["finished"]):
        resume = run.checkpoint.exists()
        run.begin("cifar10-generator/features", small.model_dump(mode="json"), "part of cifar10-generator", resume)
        engine.seed(small.seed)
        engine.fit(cifar10_classifier.plan(small, data), small, run, resume=resume)
    return cifar10_classifier.trained(small, run.weights())
