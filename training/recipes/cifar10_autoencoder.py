"""cifar10-autoencoder: 32x32 pictures through a code of 128 numbers and back, and how unlike the known ones each is.

    claim     at most 6.10 bits for a byte of a test picture, 24.4 dB; noise is told from test pictures (area under the
              curve 1.0), but smooth road scenes seem more usual than these (0.10) (version 1)
    time      86 minutes on one CPU core with bfloat16 arithmetic, beside other work
    seed      0
    command   imago-train fit cifar10-autoencoder --data DIR --epochs 15

A variational autoencoder with a discretised logistic likelihood, AdamW and a cosine, averaged weights. Its decoder is
a generator of its own: `cifar10-vae-generator` exports that from the same run.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.imaging.codec import encode_png
from app.manifest import ImageInput
from training.averaging import AveragedHyper, AveragedLoop
from training.data import cifar
from training.data.augment import flip_every_other
from training.data.feed import Draw, Feed, Slices
from training.data.held_out import shuffled
from training.engine import Count, Plan, Rate
from training.metrics import separation
from training.networks.autoencoder import Autoencoder, bits_per_byte
from training.networks.graphs import GenerateGraph, ReconstructGraph
from training.networks.statistics import recount
from training.onnx_file import Arrays
from training.recipe import Card, Recipe
from training.recipes.cifar10_classifier import as_pictures, load, split, strangers
from training.recipes.cifar10_generator import JUDGE, compared, generated, judged, sheet
from training.run import Run, submodule
from training.version import Version, open_version

SHOWN = 8


class AutoencoderHyper(AveragedHyper):
    """What was chosen."""

    epochs: Count = 30
    batch_size: Count = 128
    lr: Rate = 1e-3
    weight_decay: float = 0.01
    warm_up: int = 200
    latent: Count = 128
    widths: tuple[int, int, int, int] = (256, 128, 64, 32)
    held_out: int = 2000


class AutoencoderLoop(AveragedLoop[Autoencoder]):
    """One step: bits for a byte of the pictures."""

    def __init__(self, hyper: AutoencoderHyper, steps: int) -> None:
        super().__init__(Autoencoder(hyper.latent, hyper.widths), hyper, steps)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """The loss of one batch."""
        pictures, noise = batch
        loss = bits_per_byte(self.network, pictures, noise).mean()
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Bits for a byte of held-out pictures, of the averaged network."""
        pictures, noise = batch
        spent = bits_per_byte(self.average.module, pictures, noise).mean()
        self.log("validation/bits", spent, prog_bar=True, batch_size=len(pictures))


class Cifar10Autoencoder(Recipe[AutoencoderHyper]):
    """The shipped autoencoder."""

    name = "cifar10-autoencoder"
    hyper = AutoencoderHyper
    headline = "test_bits_per_byte"
    unit = "bits"
    less_is_better = True
    card = Card(
        task="reconstruct",
        description="Says a small picture again in the words of CIFAR-10, shows where that failed, and how unlike the "
        "known pictures it is.",
        licence="Weights: Apache-2.0. Training data: CIFAR-10, for research use (no explicit licence).",
        data=cifar.FACTS,
        labels=(),
        image=ImageInput(width=32, height=32, fit="cover"),
        uses="Demonstration and teaching; a first look for pictures that do not belong.",
        limits="Fine detail is lost on the way. Likelihoods are known to fail as a sign of strangeness: smooth "
        "pictures of anything score lower than busy ones of a known kind (Nalisnick et al. 2019, arXiv 1810.09136).",
    )

    def plan(self, hyper: AutoencoderHyper, data: Path, run: Run) -> Plan:
        """Network, loop and batches of a run."""
        images, _ = load(data, "train")
        training, held_out = split(len(images), hyper.held_out)

        def make(draw: Draw) -> tuple[Tensor, Tensor]:
            rows = training[draw.rows]
            pictures = flip_every_other(as_pictures(images[rows]), rows, draw.epoch)
            noise = torch.randn(len(rows), hyper.latent, generator=draw.random)
            return pictures.contiguous(memory_format=torch.channels_last), noise

        feed = Feed(len(training), hyper.batch_size, hyper.seed, make)
        noise = torch.randn(len(held_out), hyper.latent, generator=torch.Generator().manual_seed(0))
        loop = AutoencoderLoop(hyper, hyper.epochs * len(feed))
        return Plan(loop, feed, Slices((as_pictures(images[held_out]), noise), 500))

    def graph(self, hyper: AutoencoderHyper, weights: dict[str, Tensor], data: Path) -> ReconstructGraph:
        """The averaged network."""
        return ReconstructGraph(trained(hyper, weights))

    def examples(self, hyper: AutoencoderHyper, data: Path) -> Arrays:
        """200 test images."""
        images, _ = load(data, "test")
        return {"image": images[:: max(1, len(images) // 200)].numpy()}

    def training_pictures(self, data: Path) -> Iterator[bytes]:
        """The training split."""
        return shuffled([file for file, _ in cifar.pictures(data, "train")])

    def score(self, version: Version, data: Path) -> dict[str, float]:
        """Mean anomaly score of test pictures (bits for a byte, with the mean code), how well it tells them from others
        (area under the ROC curve), and PSNR of reconstructions in dB."""
        files = [file for file, _ in cifar.pictures(data, "test")]
        known = scores(version, files)
        figures = {"test_bits_per_byte": float(known.mean()), "test_psnr": _psnr(version, data)}
        for name, others in strangers(data):
            figures[f"anomaly_auroc_{name}"] = separation(known, scores(version, others))
        return figures

    def extras(self, version: Version, data: Path) -> dict[str, bytes]:
        """Test pictures above what was made of them, three times enlarged."""
        images, _ = cifar.arrays(data, "test")
        shown = images[:: max(1, len(images) // SHOWN)][:SHOWN]
        made = version.session.run({"image": shown})["reconstruction"].astype(np.uint8, copy=False)
        return {"reconstructions.png": sheet(np.stack([shown, made]))}


class Cifar10VaeGenerator(Recipe[AutoencoderHyper]):
    """The decoder of the autoencoder as a generator without classes."""

    name = "cifar10-vae-generator"
    run_of = "cifar10-autoencoder"
    hyper = AutoencoderHyper
    headline = "frechet_distance"
    unit = ""
    less_is_better = True
    card = Card(
        task="generate",
        description="Makes new 32x32 pictures of no wanted class, softer than those of a GAN, that change smoothly "
        "from one seed to another.",
        licence="Weights: Apache-2.0. Training data: CIFAR-10, for research use (no explicit licence).",
        data=cifar.FACTS,
        labels=("picture",),
        uses="Demonstration, teaching and load tests.",
        limits="Pictures are blurred, and most show no thing that has a name.",
    )

    def plan(self, hyper: AutoencoderHyper, data: Path, run: Run) -> Plan:
        """That of the autoencoder."""
        return Cifar10Autoencoder().plan(hyper, data, run)

    def graph(self, hyper: AutoencoderHyper, weights: dict[str, Tensor], data: Path) -> GenerateGraph:
        """The decoder, with batch statistics of codes from the prior."""
        network = trained(hyper, weights)
        random = torch.Generator().manual_seed(0)
        classes = torch.zeros(250, dtype=torch.int64)
        recount(network.decoder, ((torch.randn(250, hyper.latent, generator=random), classes) for _ in range(40)))
        return GenerateGraph(network.decoder)

    def examples(self, hyper: AutoencoderHyper, data: Path) -> Arrays:
        """64 codes."""
        z = np.random.default_rng(0).standard_normal((64, hyper.latent), np.float32)
        return {"z": z, "class": np.zeros(64, np.int64)}

    def score(self, version: Version, data: Path) -> dict[str, float]:
        """Distances and overlaps in the judge's embedding, as of `cifar10-generator`."""
        judge = open_version(version.folder.parent.parent / JUDGE)
        test, _ = cifar.arrays(data, "test")
        samples = generated(version, np.zeros(len(test) // 2, np.int64))
        return compared(judge, judged(judge, samples)[1], test)

    def extras(self, version: Version, data: Path) -> dict[str, bytes]:
        """A contact sheet."""
        return {"samples.png": sheet(generated(version, np.zeros(80, np.int64)).reshape(8, 10, 32, 32, 3))}


def trained(hyper: AutoencoderHyper, weights: dict[str, Tensor]) -> Autoencoder:
    """The network of a run, ready to answer."""
    network = Autoencoder(hyper.latent, hyper.widths)
    network.load_state_dict(submodule(weights, "average.module"))
    return network.eval()


def scores(version: Version, files: Sequence[bytes]) -> NDArray[np.float64]:
    """Anomaly scores that the server would answer, float [N]."""
    return np.array([answer["score"] for answer in version.answers(files)])


def _psnr(version: Version, data: Path) -> float:
    """Of reconstructed test pictures, in dB; the mean over pictures."""
    images, _ = cifar.arrays(data, "test")
    errors = []
    for image, made in zip(images, version.pictures([encode_png(image) for image in images]), strict=True):
        errors.append(float(((image.astype(np.float64) - made) ** 2).mean()))
    return float(np.mean(10 * np.log10(255**2 / np.maximum(errors, 1e-6))))
