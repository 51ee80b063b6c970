"""mask-segmenter: your own pictures, with a PNG mask each.

    claim     none: what it reaches depends on the pictures; `imago-train evaluate` says
    seed      0
    command   imago-train fit mask-segmenter --data FOLDER [--set size=[256,256]]

The network and the loop of camvid-segmenter, at a size (height, width) of one's choice; masks hold 0, 1, 2 and so
on, and 255 where nothing counts.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from app.imaging.paint import default_palette
from app.manifest import ImageInput
from training.data.augment import jitter, zoom
from training.data.feed import Draw, Feed, Slices
from training.data.held_out import Masked, masked, shuffled
from training.data.masks import VOID, Masks, Pair, read_masks
from training.engine import Count, Plan
from training.networks.encoder import STRIDE
from training.networks.graphs import SegmentGraph, scaled
from training.networks.segmenter import Segmenter
from training.onnx_file import Arrays
from training.recipe import Card, Recipe
from training.run import Run, submodule
from training.segmenting import WATCHED, SegmentHyper, SegmentLoop, enet_weights, overlaps, take_back
from training.version import Version

Side = Annotated[int, Field(ge=STRIDE, le=8192)]
Window = Annotated[int, Field(ge=STRIDE, multiple_of=STRIDE)]


class MaskHyper(SegmentHyper):
    """What may be chosen."""

    epochs: Count = 60
    size: tuple[Side, Side] = (256, 256)
    window: tuple[Window, Window] | None = None
    """Height and width of a training window; the whole picture where none is named."""
    decay: float = Field(default=0.98, ge=0, lt=1)
    warm_up: int = Field(default=50, ge=0)
    validate_every: Count = 5
    patience: Count = 6
    """Validations without a better one that end the run."""


class MaskSegmenter(Recipe[MaskHyper]):
    """A segmenter of one's own pictures."""

    name = "mask-segmenter"
    hyper = MaskHyper
    headline = "test_miou"

    def describe(self, hyper: MaskHyper, data: Path) -> Card:
        """The labels are those of labels.txt, or numbers."""
        masks = read_masks(data)
        labels = names(masks)
        counts = ", ".join(f"{len(pairs)} {split}" for split, pairs in masks.splits.items())
        return Card(
            task="segment",
            description=f"Labels every pixel with one of {len(labels)} classes: {', '.join(labels[:12])}.",
            licence="Of the pictures that it was trained on.",
            data={"name": data.absolute().name, "pictures": counts},
            labels=labels,
            image=_input(hyper),
            palette=tuple(default_palette(len(labels))),
            uses="Pictures like those that it was trained on.",
            limits="Every pixel is given one of the classes, whatever it shows.",
        )

    def plan(self, hyper: MaskHyper, data: Path, run: Run) -> Plan:
        """Network, loop and batches of a run; every picture and mask is decoded once before it begins."""
        masks = read_masks(data)
        images, labels = _load(masks, masks.splits["train"], hyper)
        for pair in masks.splits.get("test", ()):
            masks.fitted(pair, _input(hyper))
        size = hyper.window or (hyper.size[0] // STRIDE * STRIDE, hyper.size[1] // STRIDE * STRIDE)

        def make(draw: Draw) -> tuple[Tensor, Tensor]:
            cut, marks = zoom(scaled(images[draw.rows]), labels[draw.rows], size, hyper.scales, VOID, draw.random)
            return jitter(cut, hyper.colour, draw.random).contiguous(memory_format=torch.channels_last), marks

        feed = Feed(len(images), hyper.batch_size, hyper.seed, make)
        weights = enet_weights(labels, len(names(masks)))
        loop = SegmentLoop(hyper, weights, hyper.size, VOID, hyper.epochs * len(feed))
        validation = Slices(_load(masks, masks.splits["val"], hyper), 4)
        return Plan(loop, feed, validation, hyper.validate_every, watched=WATCHED, patience=hyper.patience)

    def graph(self, hyper: MaskHyper, weights: dict[str, Tensor], data: Path) -> SegmentGraph:
        """The averaged network, less the share of the class weights that serves the validation split best."""
        masks = read_masks(data)
        network = Segmenter(len(names(masks)), hyper.width)
        network.load_state_dict(submodule(weights, "average.module"))
        graph = SegmentGraph(network.eval(), *hyper.size)
        take_back(graph, weights["weights"], Slices(_load(masks, masks.splits["val"], hyper), 4))
        return graph

    def examples(self, hyper: MaskHyper, data: Path) -> Arrays:
        """Up to sixteen pictures that were held out."""
        masks = read_masks(data)
        return {"image": _load(masks, _held_out(masks)[:16], hyper)[0].numpy()}

    def training_pictures(self, data: Path) -> Iterator[bytes]:
        """The training part."""
        masks = read_masks(data)
        return (masks.source.read(pair.image) for pair in shuffled(masks.splits["train"]))

    def truth(self, data: Path) -> Masked:
        """The test part, or the validation part where there is no other."""
        return masked(data)

    def score(self, version: Version, data: Path) -> dict[str, float]:
        """mIoU and the IoU of each class on what `truth` gives."""
        part, pictures = "test" if "test" in read_masks(data).splits else "val", self.truth(data)
        found = overlaps(version, pictures.files, pictures.maps)
        return {f"{part}_{name}": value for name, value in found.items()}


def names(masks: Masks) -> tuple[str, ...]:
    """The labels of labels.txt, or `class 0` to the highest that a mask of the training part holds."""
    if masks.labels:
        return masks.labels
    found = (masks.mask(pair) for pair in masks.splits["train"])
    highest = max(int(mask[mask != VOID].max(initial=0)) for mask in found)
    return tuple(f"class {number}" for number in range(highest + 1))


def _load(masks: Masks, pairs: tuple[Pair, ...], hyper: MaskHyper) -> tuple[Tensor, Tensor]:
    images, labels = masks.arrays(pairs, _input(hyper))
    return torch.from_numpy(images), torch.from_numpy(labels)


def _held_out(masks: Masks) -> tuple[Pair, ...]:
    return masks.splits.get("test", masks.splits["val"])


def _input(hyper: MaskHyper) -> ImageInput:
    return ImageInput(height=hyper.size[0], width=hyper.size[1], fit="stretch")
