"""folder-generator: new pictures like your own, of one kind or of several.

    claim     none: look at samples.png beside the card
    seed      0
    command   imago-train fit folder-generator --data FOLDER [--set size=64]

A GAN with hinge loss, spectral norm and a class projection. What the discriminator sees is shifted and toned, real or
made alike (Zhao et al. 2020, arXiv 2006.10738), which makes a GAN of a few hundred pictures possible. One folder of
pictures makes a generator without classes.
"""

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from numpy.typing import NDArray
from pydantic import Field, field_validator
from torch import Tensor

from app.imaging.codec import encode_png
from app.imaging.paint import contact_sheet
from training.data import BrokenData
from training.data.augment import jitter, translate
from training.data.feed import Draw, Feed
from training.data.folders import Folder, read_folder
from training.engine import Average, Count, Hyper, Plan, Rate
from training.likeness import overlap
from training.networks.discriminator import Discriminator
from training.networks.generator import Generator
from training.networks.graphs import GenerateGraph, scaled
from training.networks.layout import channels_last
from training.networks.statistics import recount
from training.onnx_file import Arrays
from training.recipe import Card, Recipe
from training.recipes.imagefolder_classifier import check, fitted
from training.run import Run, submodule
from training.version import Version

_THUMBNAIL = 8
_LEAST = 6
"""Training pictures: each is compared with five neighbours."""
_ENOUGH = 50
"""Held-out pictures that are worth a comparison."""


class FolderGeneratorHyper(Hyper):
    """What may be chosen."""

    epochs: Count = 200
    batch_size: Count = 32
    lr: Rate = 2e-4
    size: int = Field(default=32, ge=8, le=256)
    """Side of the pictures, a power of two."""
    latent: Count = 64
    width: Count = 32
    decay: float = Field(default=0.99, ge=0, lt=1)
    shift: int = Field(default=4, ge=0, lt=8)
    colour: float = Field(default=0.2, ge=0, le=1)
    mirror: bool = True

    @field_validator("size")
    @classmethod
    def _doubled(cls, size: int) -> int:
        if size & (size - 1):
            raise ValueError(f"{size} is no power of two, such as 32 or 64")
        return size

    @property
    def widths(self) -> list[int]:
        """Channels from 4x4 to the full size, halved on the way down to `width`."""
        doublings = (self.size // 4).bit_length() - 1
        return [self.width * min(2**step, 8) for step in range(doublings, -1, -1)]


class FolderGeneratorLoop(LightningModule):
    """One step: the discriminator learns from real and made pictures, then the generator from it (hinge loss)."""

    def __init__(self, hyper: FolderGeneratorHyper, classes: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.hyper = hyper
        self.network = channels_last(Generator(classes, hyper.latent, hyper.widths))
        self.critic = channels_last(Discriminator(classes, hyper.widths[::-1]))
        self.average = Average(self.network, hyper.decay)
        self.random = torch.Generator()

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor, Tensor, int], index: int) -> None:
        """Both halves of one batch."""
        real, real_classes, z, classes, seed = batch
        self.random.manual_seed(seed)
        critic_steps, generator_steps = cast(list[LightningOptimizer], self.optimizers())
        made = self.network(z, classes)
        on_real = self.critic(self._augment(real), real_classes)
        on_made = self.critic(self._augment(made.detach()), classes)
        wrong = torch.relu(1 - on_real).mean() + torch.relu(1 + on_made).mean()
        self._step(critic_steps, wrong)
        self.critic.requires_grad_(False)
        missed = -self.critic(self._augment(made), classes).mean()
        self._step(generator_steps, missed)
        self.critic.requires_grad_(True)
        self.average.follow(self.network)
        self.log_dict({"loss/critic": wrong, "loss/generator": missed}, prog_bar=True)

    def _augment(self, pictures: Tensor) -> Tensor:
        toned = jitter(pictures, self.hyper.colour, self.random)
        shifted = translate(toned, self.hyper.shift, self.random) if self.hyper.shift else toned
        return shifted.contiguous(memory_format=torch.channels_last)

    def _step(self, optimiser: Any, loss: Tensor) -> None:
        optimiser.zero_grad()
        self.manual_backward(loss)
        optimiser.step()

    def configure_optimizers(self) -> Any:
        """Adam without momentum, the discriminator twice as fast (Heusel et al. 2017, arXiv 1706.08500)."""
        critic = torch.optim.Adam(self.critic.parameters(), lr=2 * self.hyper.lr, betas=(0.0, 0.99))
        return [critic, torch.optim.Adam(self.network.parameters(), lr=self.hyper.lr, betas=(0.0, 0.99))]


class FolderGenerator(Recipe[FolderGeneratorHyper]):
    """A generator of pictures like one's own."""

    name = "folder-generator"
    hyper = FolderGeneratorHyper
    headline = "thumbnail_coverage"

    def describe(self, hyper: FolderGeneratorHyper, data: Path) -> Card:
        """The classes are the names of the folders."""
        folder = read_folder(data, least=1)
        count = sum(map(len, folder.splits.values()))
        return Card(
            task="generate",
            description=f"Makes new {hyper.size}x{hyper.size} pictures of: {', '.join(folder.classes[:10])}.",
            licence="Of the pictures that it was trained on.",
            data={"name": data.absolute().name, "pictures": f"{count}"},
            labels=folder.classes,
            uses="Play, and a look at what a small GAN makes of few pictures.",
            limits="Its figures compare thumbnails of 8x8 pixels: they say whether colours and places are as varied as "
            "those of real pictures, and nothing of how natural one looks.",
        )

    def plan(self, hyper: FolderGeneratorHyper, data: Path, run: Run) -> Plan:
        """Network, loop and batches of a run; every picture is decoded once before it begins."""
        folder = read_folder(data, least=1)
        images, labels = _pictures(folder, hyper.size, held_out=False)
        if len(images) < _LEAST:
            raise BrokenData(data, f"has {len(images)} pictures to learn from: at least {_LEAST} are needed")
        for split, part in folder.splits.items():
            check(folder, () if split == "train" else part, hyper.size)
        classes = len(folder.classes)

        def make(draw: Draw) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
            pictures = scaled(images[draw.rows])
            if hyper.mirror:
                mirrored = torch.rand(len(pictures), 1, 1, 1, generator=draw.random) < 0.5
                pictures = torch.where(mirrored, pictures.flip(3), pictures)
            z = torch.randn(len(pictures), hyper.latent, generator=draw.random)
            wanted = torch.randint(0, classes, (len(pictures),), generator=draw.random)
            return pictures, labels[draw.rows], z, wanted, int(torch.randint(0, 2**31, (), generator=draw.random))

        return Plan(FolderGeneratorLoop(hyper, classes), Feed(len(images), hyper.batch_size, hyper.seed, make))

    def graph(self, hyper: FolderGeneratorHyper, weights: dict[str, Tensor], data: Path) -> GenerateGraph:
        """The averaged network, with batch statistics of its own."""
        classes = len(read_folder(data, least=1).classes)
        network = Generator(classes, hyper.latent, hyper.widths)
        network.load_state_dict(submodule(weights, "average.module"))
        random = torch.Generator().manual_seed(0)
        wanted = torch.arange(128) % classes
        recount(network, ((torch.randn(128, hyper.latent, generator=random), wanted) for _ in range(20)))
        return GenerateGraph(network)

    def examples(self, hyper: FolderGeneratorHyper, data: Path) -> Arrays:
        """64 latent vectors, classes in turn."""
        classes = len(read_folder(data, least=1).classes)
        z = np.random.default_rng(0).standard_normal((64, hyper.latent), np.float32)
        return {"z": z, "class": np.arange(64) % classes}

    def score(self, version: Version, data: Path) -> dict[str, float]:
        """Precision, recall, density and coverage (see `training.likeness`) of thumbnails, beside held-out pictures; or
        beside the training pictures where few are held out."""
        folder = read_folder(data, least=1)
        made = _made(version, 200)
        few = sum(len(part) for split, part in folder.splits.items() if split != "train") < _ENOUGH
        real, _ = _pictures(folder, made.shape[1], held_out=not few)
        found = overlap(_thumbnails(real.numpy()), _thumbnails(made))
        return {f"thumbnail_{name}": value for name, value in found._asdict().items()}

    def extras(self, version: Version, data: Path) -> dict[str, bytes]:
        """A contact sheet of all classes."""
        return {"samples.png": encode_png(contact_sheet(list(_made(version, 36))))}


def _pictures(folder: Folder, size: int, *, held_out: bool) -> tuple[Tensor, Tensor]:
    """Pictures of the validation and test parts, or of the others, uint8 [N,size,size,3], and labels int64 [N]."""
    parts = [part for split, part in folder.splits.items() if (split != "train") == held_out]
    return fitted(folder, [example for part in parts for example in part], size)


def _made(version: Version, count: int) -> NDArray[np.uint8]:
    """Pictures of all classes in turn, uint8 [count,S,S,3]."""
    labels = version.task.labels
    wanted = ({"class": place % len(labels), "seed": 0, "index": place} for place in range(count))
    rows = (version.task.prepare(None, version.task.Options(**options)).tensors for options in wanted)
    return np.concatenate([version.session.run(row)["image"] for row in rows])


def _thumbnails(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Float [N,192] of uint8 [N,S,S,3]: mean colours of an 8x8 grid."""
    count, side = len(pictures), pictures.shape[1] // _THUMBNAIL
    cells = pictures.reshape(count, _THUMBNAIL, side, _THUMBNAIL, side, 3).astype(np.float32).mean((2, 4))
    return np.asarray(cells.reshape(count, -1))
