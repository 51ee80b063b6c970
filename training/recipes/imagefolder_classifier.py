"""imagefolder-classifier: your own pictures, one folder a class.

    claim     none: what it reaches depends on the pictures; `imago-train evaluate` says
    seed      0
    command   imago-train fit imagefolder-classifier --data FOLDER [--set size=64]

A small residual network, trained from scratch: random windows, mirroring, a little rotation and colour, mixup, weights
by class, and an average of the weights, of which the best on the validation part is kept.
"""

import importlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, model_validator
from torch import Tensor

from app.errors import ServiceError
from app.imaging.codec import Picture
from app.imaging.geometry import fit
from app.manifest import Conformal, ImageInput
from training.classifying import WATCHED, Batch, ClassifyHyper, ClassifyLoop, balanced, mixed, taught
from training.data import BrokenData
from training.data.augment import jitter
from training.data.feed import Draw, Feed, Slices
from training.data.folders import Example, Folder, read_folder
from training.data.held_out import Labelled, labelled, shuffled
from training.data.pixels import OWN_PICTURES
from training.engine import Count, Plan, Rate
from training.metrics import calibrate_sets, calibration_error, fit_temperature
from training.networks.graphs import ClassifyGraph
from training.networks.residual import ResidualClassifier
from training.onnx_file import Arrays
from training.recipe import Card, Recipe
from training.run import Run, RunRefused, submodule
from training.version import Version

_PRIVATE_BATCH = 32
_ENOUGH = 50
"""Validation pictures that a calibration needs: with fewer the temperature stays 1 and there are no label sets."""


class FolderHyper(ClassifyHyper):
    """What may be chosen."""

    epochs: Count = 40
    batch_size: Count = 32
    lr: Rate = 2e-3
    size: int = Field(default=224, ge=16, le=1024)
    width: int = Field(default=32, ge=4, le=256)
    smallest: float = Field(default=0.35, gt=0, le=1)
    """Least share of a picture that a window shows."""
    rotation: float = Field(default=10.0, ge=0, le=180)
    mirror: bool = True
    colour: float = Field(default=0.2, ge=0, le=1)
    mixup: float = Field(default=0.2, ge=0)
    class_weights: bool = True
    dp_epsilon: float | None = Field(default=None, gt=0)
    """Budget of differential privacy for each training picture; None for none."""
    dp_delta: float = Field(default=1e-5, gt=0, lt=1)
    """The chance that the budget does not hold: far less than one in as many pictures as there are."""
    dp_clip: float = Field(default=1.0, gt=0)
    """Greatest length of the gradient of one picture."""

    @model_validator(mode="before")
    @classmethod
    def _apart(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Privacy is reckoned picture by picture: nothing may join two of them, and no class be counted."""
        if values.get("dp_epsilon") is None:
            return values
        alone: dict[str, Any] = {"mixup": 0.0, "class_weights": False, "teacher": ""}
        joined = [name for name, value in alone.items() if values.get(name, value) != value]
        if joined:
            raise ValueError(f"with dp_epsilon, {joined[0]} is {alone[joined[0]] or 'off'}: it joins several pictures")
        if int(values.get("batch_size", _PRIVATE_BATCH)) < _PRIVATE_BATCH:
            raise ValueError(f"with dp_epsilon, batch_size is at least {_PRIVATE_BATCH}")
        return {"batch_size": 8 * _PRIVATE_BATCH, "precision": "float32", **values, **alone}


class ImageFolderClassifier(Recipe[FolderHyper]):
    """A classifier of one's own pictures."""

    name = "imagefolder-classifier"
    hyper = FolderHyper
    headline = "test_accuracy"

    def describe(self, hyper: FolderHyper, data: Path) -> Card:
        """The classes are the names of the folders."""
        folder = read_folder(data)
        counts = {split: len(part) for split, part in folder.splits.items()}
        return Card(
            task="classify",
            description=f"Says which of {len(folder.classes)} classes a picture shows: {_some(folder.classes)}.",
            licence="Of the pictures that it was trained on.",
            data={
                "name": data.absolute().name,
                "pictures": ", ".join(f"{count} {split}" for split, count in counts.items()),
            },
            labels=folder.classes,
            image=_input(hyper.size),
            uses="Sorting pictures like those that it was trained on.",
            limits="Any picture is given one of the classes, whatever it shows; its energy is high for pictures unlike "
            "those of the training." + _promise(hyper),
        )

    def plan(self, hyper: FolderHyper, data: Path, run: Run) -> Plan:
        """Network, loop and batches of a run; every picture is decoded once before it begins."""
        folder = read_folder(data)
        train = folder.splits["train"]
        check(folder, (*train, *folder.splits.get("test", ())), hyper.size)
        labels = torch.tensor([example.label for example in train])

        def make(draw: Draw) -> Batch:
            windows = [window(open_picture(folder, train[row]), hyper, draw.random) for row in draw.rows.tolist()]
            pictures = torch.from_numpy(np.stack(windows)).permute(0, 3, 1, 2).float() / 255
            toned = jitter(pictures, hyper.colour, draw.random)
            return mixed(toned, labels[draw.rows], hyper.mixup, draw.random)

        network = self.network(hyper, data)
        validation = Slices(fitted(folder, folder.splits["val"], hyper.size), hyper.batch_size)
        if hyper.dp_epsilon is not None:
            return _private(network, hyper, len(train), make, validation)
        classes = len(folder.classes)
        weights = balanced(labels, classes) if hyper.class_weights else torch.ones(classes)
        shape = (hyper.size, hyper.size, 3)
        feed = Feed(len(train), hyper.batch_size, hyper.seed, taught(hyper, folder.classes, shape, make))
        return Plan(ClassifyLoop(network, hyper, weights), feed, validation, watched=WATCHED, patience=hyper.patience)

    def network(self, hyper: FolderHyper, data: Path) -> ResidualClassifier:
        """The network, untrained."""
        network = ResidualClassifier(len(read_folder(data).classes), hyper.size, hyper.width)
        if hyper.dp_epsilon is None:
            return network
        _privacy().without_batches(network)
        return network

    def narrower(self, hyper: FolderHyper, pruned: ResidualClassifier) -> FolderHyper:
        """What makes a network as wide as a pruned one."""
        return hyper.model_copy(update={"width": pruned.width})

    def graph(self, hyper: FolderHyper, weights: dict[str, Tensor], data: Path) -> ClassifyGraph:
        """The best averaged network, its temperature fitted on half of the validation pictures."""
        folder = read_folder(data)
        network = self.network(hyper, data)
        network.load_state_dict(submodule(weights, "best.module"))
        examples, _ = halves(folder.splits["val"])
        if not examples:
            return ClassifyGraph(network.eval())
        images, labels = fitted(folder, examples, hyper.size)
        graph = ClassifyGraph(network.eval())
        with torch.no_grad():
            logits = torch.cat([graph.logits(part) for (part,) in Slices((images,), hyper.batch_size)])
        return ClassifyGraph(network, fit_temperature(logits, labels))

    def calibrate(self, hyper: FolderHyper, version: Version, data: Path) -> Conformal | None:
        """Label sets, from the other half of the validation pictures."""
        folder = read_folder(data)
        _, examples = halves(folder.splits["val"])
        if not examples:
            return None
        found = probabilities(version, folder, examples)
        return calibrate_sets(found[np.arange(len(examples)), [example.label for example in examples]])

    def examples(self, hyper: FolderHyper, data: Path) -> Arrays:
        """Up to 64 pictures that were held out."""
        folder = read_folder(data)
        held_out = folder.splits.get("test", folder.splits["val"])
        return {"image": fitted(folder, held_out[:: max(1, len(held_out) // 64)], hyper.size)[0].numpy()}

    def training_pictures(self, data: Path) -> Iterator[bytes]:
        """The training part."""
        folder = read_folder(data)
        return map(folder.read, shuffled(folder.splits["train"]))

    def truth(self, data: Path) -> Labelled:
        """The test part, or the validation part where there is no other."""
        return labelled(data)

    def score(self, version: Version, data: Path) -> dict[str, float]:
        """Accuracy and calibration on the test part, or on the validation part where there is no other."""
        folder = read_folder(data)
        part = "test" if "test" in folder.splits else "val"
        examples = folder.splits["test" if part == "test" else "val"]
        labels = np.array([example.label for example in examples])
        found = probabilities(version, folder, examples)
        return {
            f"{part}_accuracy": float((found.argmax(1) == labels).mean()),
            f"{part}_calibration_error": calibration_error(found, labels),
        }


def _private(
    network: ResidualClassifier, hyper: FolderHyper, count: int, make: Callable[[Draw], Batch], validation: Slices
) -> Plan:
    """A run whose weights say little of any one training picture. Raises RunRefused."""
    if hyper.dp_delta * count > 0.1:
        raise RunRefused(f"dp_delta has to be far less than 1 in {count}, the number of training pictures")
    privacy = _privacy()
    feed = Feed(count, hyper.batch_size, privacy.secret_seed(), make, poisson=True)
    budget = privacy.Budget(hyper.dp_epsilon, hyper.dp_delta, hyper.dp_clip)
    weights = torch.ones(network.head.out_features)
    loop = privacy.PrivateLoop(network, hyper, weights, budget, count, hyper.epochs * len(feed))
    alone = "a private run counts the noise of one process"
    return Plan(loop, feed, validation, watched=WATCHED, patience=hyper.patience, alone=alone)


def _privacy() -> Any:
    """The module that needs opacus, which few need. Raises RunRefused where it is missing."""
    try:
        return importlib.import_module("training.private")
    except ModuleNotFoundError as error:
        raise RunRefused(f"dp_epsilon needs opacus: pip install 'imago[private]' ({error})") from None


def check(folder: Folder, examples: Sequence[Example], size: int) -> None:
    """Decode every picture at the size that is needed. BrokenData names the first that cannot be."""
    for example in examples:
        _decoded(open_picture(folder, example), (size, size), example.name)


def open_picture(folder: Folder, example: Example) -> Picture:
    """A picture, its header read. Raises BrokenData."""
    try:
        return OWN_PICTURES.open(folder.read(example))
    except ServiceError as error:
        raise BrokenData(example.name, f"no readable picture ({error})") from error


def fitted(folder: Folder, examples: Sequence[Example], size: int) -> tuple[Tensor, Tensor]:
    """Pictures as the server would fit them, uint8 [N,size,size,3], and labels int64 [N]. Raises BrokenData."""
    images: list[NDArray[np.uint8]] = []
    for example in examples:
        try:
            images.append(fit(open_picture(folder, example), _input(size)))
        except ServiceError as error:
            raise BrokenData(example.name, f"no readable picture ({error})") from error
    return torch.from_numpy(np.stack(images)), torch.tensor([example.label for example in examples])


def probabilities(version: Version, folder: Folder, examples: Sequence[Example]) -> NDArray[np.float64]:
    """Float [N,C], as the server would answer."""
    classes = len(folder.classes)
    files, names = (folder.read(example) for example in examples), [example.name for example in examples]
    answers = version.answers(files, names, top_k=min(classes, 1000))
    found = np.zeros((len(examples), classes))
    for row, answer in enumerate(answers):
        for score in answer["labels"]:
            found[row, score["index"]] = score["probability"]
    return found


def halves(examples: Sequence[Example]) -> tuple[Sequence[Example], Sequence[Example]]:
    """Every other picture for the temperature and for the label sets; nothing where there are too few."""
    return (examples[::2], examples[1::2]) if len(examples) >= _ENOUGH else ((), ())


def window(picture: Picture, hyper: FolderHyper, random: torch.Generator) -> NDArray[np.uint8]:
    """A part of a picture, uint8 [size,size,3], perhaps mirrored, a little turned; resized as the server does."""
    share, shape, left, top, angle, mirrored = torch.rand(6, generator=random).tolist()
    image = _decoded(picture, (2 * hyper.size, 2 * hyper.size), "a picture")
    area = image.width * image.height * (hyper.smallest + (1 - hyper.smallest) * share)
    ratio = (3 / 4) ** (1 - 2 * shape)
    across, down = min(image.width, (area * ratio) ** 0.5), min(image.height, (area / ratio) ** 0.5)
    x, y = left * (image.width - across), top * (image.height - down)
    cut = image.resize((hyper.size,) * 2, Image.Resampling.BILINEAR, box=(x, y, x + across, y + down))
    if hyper.rotation:
        cut = cut.rotate((2 * angle - 1) * hyper.rotation, Image.Resampling.BILINEAR, fillcolor=_mean(cut))
    if hyper.mirror and mirrored < 0.5:
        cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(cut)


def _decoded(picture: Picture, at_least: tuple[int, int], name: str) -> Image.Image:
    try:
        return picture.raster(at_least)
    except ServiceError as error:
        raise BrokenData(name, f"no readable picture ({error})") from error


def _mean(image: Image.Image) -> tuple[int, ...]:
    """The mean colour, for corners that a rotation leaves open."""
    return tuple(int(value) for value in np.asarray(image.resize((1, 1), Image.Resampling.BOX)).reshape(-1))


def _input(size: int) -> ImageInput:
    return ImageInput(width=size, height=size, fit="cover")


def _promise(hyper: FolderHyper) -> str:
    """What a private run's card says of it."""
    if hyper.dp_epsilon is None:
        return ""
    return (
        f" Each training picture is protected by ({hyper.dp_epsilon:g}, {hyper.dp_delta:g})-differential privacy; what"
        " was spent is `privacy/epsilon` under Training. Pictures held out for validation are not protected: they chose"
        " the weights that were kept, and calibrated them."
    )


def _some(classes: Sequence[str]) -> str:
    return ", ".join(classes[:10]) + (f" and {len(classes) - 10} more" if len(classes) > 10 else "")
