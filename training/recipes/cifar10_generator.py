"""cifar10-generator: new 32x32 pictures of a wanted class.

    claim     GAN-test 91.6 %: the shipped classifier, which had no part in training, sees the wanted class; GAN-train
              48.3 %; Frechet distance 0.015, its floor 0.001 (version 2; contact sheet beside its card)
    time      28 minutes on one CPU core with bfloat16 arithmetic, beside other work; its feature network not counted
    seed      0
    command   imago-train fit cifar10-generator --data DIR

Projected GAN (Sauer et al. 2021, arXiv 2111.01007): the critic sees pictures through the frozen features of a small
classifier, which makes a GAN converge in a fraction of the pictures. That classifier is half as wide as the shipped
one and trained here, from its own seed, so that the shipped one is an impartial judge. Pictures of one class are
pushed apart until they differ as much as real ones do.
"""

import io
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor

from app.imaging.codec import encode_png
from training import engine
from training.data import cifar
from training.data.augment import jitter, translate
from training.data.feed import Draw, Feed, Slices
from training.engine import Average, Count, Hyper, Plan, Rate
from training.likeness import frechet_distance, nearest, overlap
from training.metrics import accuracy
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
from training.version import BATCH, Version, open_version

CLASSES = len(cifar.CLASSES)
JUDGE = "cifar10-classifier/2"
"""The version that generated pictures are judged by: its answers, and its embeddings for all distances."""


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
    headline = "gan_test"
    anchor = "GAN-test 87.3 %, GAN-train 82.2 %: SNGAN (Shmelkov et al. 2018)"
    tolerances: ClassVar[Mapping[str, float]] = {"gan_train": 0.02}
    """A training of its own: other machines round otherwise."""
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
        f"figures are those of one small network, {JUDGE}, good at classes and blind to texture: they are no Inception "
        "FID and cannot be compared with one.",
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
        """GAN-test and GAN-train (Shmelkov et al. 2018, arXiv 1807.09499), and how the judge's embeddings are spread.

        GAN-test: share of generated pictures, as many as there are test pictures, in which the judge sees the wanted
        class. GAN-train: accuracy on the test pictures of a small classifier that was trained on generated pictures
        alone, as many as there are training pictures.
        """
        judge = open_version(version.folder.parent.parent / JUDGE)
        (train, _), (test, truth) = cifar.arrays(data, "train"), cifar.arrays(data, "test")
        classes = np.arange(len(test)) * CLASSES // len(test)
        samples = generated(version, classes)
        figures = {"gan_test": 0.0, "gan_train": gan_train(version, len(train), test, truth)}
        seen, embedded = judged(judge, samples)
        for wanted, name in enumerate(cifar.CLASSES):
            figures[f"gan_test_{name}"] = float((seen == wanted)[classes == wanted].mean())
        figures["gan_test"] = float((seen == classes).mean())
        return figures | compared(judge, embedded[1::2], test)

    def extras(self, version: Version, data: Path) -> dict[str, bytes]:
        """A contact sheet, a class a row, ten seeds each; and a picture of each class before the five training pictures
        that are nearest to it by the judge's embedding. Both three times enlarged."""
        samples = generated(version, np.arange(10 * CLASSES) // 10)
        judge = open_version(version.folder.parent.parent / JUDGE)
        train, _ = cifar.arrays(data, "train")
        first = samples[::10]
        rows = nearest(judged(judge, first)[1], judged(judge, train)[1], 5)
        beside = np.concatenate([first[:, None], train[rows]], 1)
        return {"samples.png": sheet(samples.reshape(CLASSES, 10, 32, 32, 3)), "neighbours.png": sheet(beside)}


def spread(pictures: Tensor) -> Tensor:
    """Mean absolute difference between the first and the second half of float [N,3,H,W].

    Both halves of a made batch have the same classes, so a generator that ignores z has no spread. Asking for that of
    real pictures keeps it from doing so, as mode seeking does (Mao et al. 2019, arXiv 1903.05628).
    """
    half = len(pictures) // 2
    return (pictures[:half] - pictures[half : 2 * half]).abs().mean()


def generated(version: Version, classes: NDArray[np.int64]) -> NDArray[np.uint8]:
    """One picture of each class asked for, uint8 [N,32,32,3]: the seed is the class, the index counts within it."""
    order = np.argsort(classes, kind="stable")
    parts = []
    for wanted, count in enumerate(np.bincount(classes, minlength=CLASSES).tolist()):
        for start in range(0, count, BATCH):
            options = {"class": wanted, "seed": wanted, "index": start, "count": min(BATCH, count - start)}
            prepared = version.task.prepare(None, version.task.Options(**options))
            parts.append(version.session.run(prepared.tensors)["image"])
    pictures = np.empty((len(classes), 32, 32, 3), np.uint8)
    pictures[order] = np.concatenate(parts)
    return pictures


def judged(judge: Version, pictures: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """What the judge sees in each of uint8 [N,32,32,3], int64 [N], and its embeddings, float [N,D]."""
    answers = [judge.session.run({"image": pictures[at : at + BATCH]}) for at in range(0, len(pictures), BATCH)]
    seen = np.concatenate([answer["probabilities"].argmax(1) for answer in answers])
    return seen, np.concatenate([answer["embedding"] for answer in answers]).astype(np.float32)


def compared(judge: Version, made: NDArray[np.float32], test: NDArray[np.uint8]) -> dict[str, float]:
    """How far the judge's embeddings float [N/2,D] of generated pictures lie from those of one half of the test
    pictures uint8 [N,32,32,3], and how they cover one another; the floor is the distance of the other half, the
    ceilings those of that half made worse. (The judge learned from the training pictures, and sets them further apart
    than any others: they are no measure.)
    """
    real, others = judged(judge, test[::2])[1], test[1::2]
    figures = {"frechet_distance": frechet_distance(made, real)}
    figures["frechet_distance_floor"] = frechet_distance(judged(judge, others)[1], real)
    for name, worse in worsened(others):
        figures[f"frechet_distance_ceiling_{name}"] = frechet_distance(judged(judge, worse)[1], real)
    return figures | dict(overlap(real, made)._asdict())


def gan_train(version: Version, count: int, test: NDArray[np.uint8], truth: NDArray[np.int64]) -> float:
    """Accuracy on real pictures of a small classifier trained on `count` generated ones."""
    classes = np.arange(count) % CLASSES
    images, labels = torch.from_numpy(generated(version, classes)), torch.from_numpy(classes)
    hyper = ClassifierHyper(epochs=4, again_epochs=0, shift=2, cutout=0, widths=(32, 128, 128), seed=2)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder))
        run.begin("cifar10-generator/gan-train", hyper.model_dump(mode="json"), "part of a score", resume=False)
        engine.seed(hyper.seed)
        engine.fit(cifar10_classifier.plan(hyper, images, labels), hyper, run)
        network = cifar10_classifier.trained(hyper, run.weights())
    recount(network, ((scaled(images[part]),) for (part,) in Slices((torch.arange(min(count, 10_000)),), 500)))
    with torch.no_grad():
        seen = torch.cat([network(scaled(part)).argmax(1) for (part,) in Slices((torch.from_numpy(test),), 500)])
    return accuracy(seen, torch.from_numpy(truth))


def worsened(pictures: NDArray[np.uint8]) -> Iterable[tuple[str, NDArray[np.uint8]]]:
    """Copies of uint8 [N,H,W,3] that anybody would call worse."""
    noise = np.random.default_rng(0).normal(0, 25, pictures.shape)
    yield "noise_25", np.clip(pictures + noise, 0, 255).astype(np.uint8)
    images = [Image.fromarray(picture) for picture in pictures]
    yield "blur_1", np.stack([np.asarray(image.filter(ImageFilter.GaussianBlur(1))) for image in images])
    yield "jpeg_10", np.stack([np.asarray(_as_jpeg(image, 10)) for image in images])


def _as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def sheet(pictures: NDArray[np.uint8]) -> bytes:
    """PNG of uint8 [rows,columns,H,W,3], three times enlarged."""
    return encode_png(np.concatenate(np.concatenate(pictures, 1), 1).repeat(3, 0).repeat(3, 1))


def feature_network(hyper: GeneratorHyper, data: Path, run: Run) -> Classifier:
    """A small classifier for the critic to see through, trained once a run by the classifier's own recipe."""
    small = ClassifierHyper(
        epochs=hyper.feature_epochs,
        again_epochs=0,
        shift=2,
        cutout=0,
        widths=hyper.feature_widths,
        seed=hyper.feature_seed,
    )
    if not (run.record_path.exists() and run.read()["finished"]):
        resume = run.checkpoint.exists()
        run.begin("cifar10-generator/features", small.model_dump(mode="json"), "part of cifar10-generator", resume)
        engine.seed(small.seed)
        engine.fit(cifar10_classifier.plan(small, *cifar10_classifier.load(data, "train")), small, run, resume=resume)
    return cifar10_classifier.trained(small, run.weights())
