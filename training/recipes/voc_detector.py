"""voc-detector: your own pictures, with boxes in the layout of Pascal VOC.

    claim     none: what it reaches depends on the pictures; `imago-train evaluate` says
    seed      0
    command   imago-train fit voc-detector --data FOLDER [--set size=[320,320]]

The network and the loop of bccd-detector, at a size (height and width, multiples of 32) of one's choice.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from app.imaging.paint import default_palette
from app.manifest import ImageInput
from training.data.boxes import padded
from training.data.feed import Feed, Slices
from training.data.held_out import Boxed, boxed_scenes, shuffled
from training.data.voc import Scene, Scenes, read_voc
from training.detecting import DetectHyper, DetectLoop, batches
from training.engine import Plan
from training.evaluation.detection import ask, figures_of
from training.networks.detector import Detector
from training.networks.graphs import DetectGraph
from training.onnx_file import Arrays
from training.recipe import Card, Recipe
from training.run import Run, submodule
from training.version import Version


class VocDetector(Recipe[DetectHyper]):
    """A detector of one's own pictures."""

    name = "voc-detector"
    hyper = DetectHyper
    headline = "test_map50"

    def read(self, data: Path) -> Scenes:
        """The pictures with their boxes. Raises BrokenData."""
        return read_voc(data)

    def describe(self, hyper: DetectHyper, data: Path) -> Card:
        """The labels are those that the annotations use."""
        scenes = self.read(data)
        counts = ", ".join(f"{len(part)} {split}" for split, part in scenes.splits.items())
        return Card(
            task="detect",
            description=f"Finds {', '.join(scenes.labels[:12])} and the box around each.",
            licence="Of the pictures that it was trained on.",
            data={"name": data.absolute().name, "pictures": counts},
            labels=scenes.labels,
            image=_input(hyper),
            palette=tuple(default_palette(len(scenes.labels))),
            uses="Pictures like those that it was trained on.",
            limits="Things of other kinds are taken for one of the labels, or for nothing; at most 100 are found.",
        )

    def plan(self, hyper: DetectHyper, data: Path, run: Run) -> Plan:
        """Network, loop and batches of a run; every picture is decoded once before it begins."""
        scenes = self.read(data)
        images, truths = _load(scenes, scenes.splits["train"], hyper)
        for scene in scenes.splits.get("test", ()):
            scenes.fitted(scene, _input(hyper))
        feed = Feed(len(images), hyper.batch_size, hyper.seed, batches(images, truths, hyper))
        loop = DetectLoop(hyper, scenes.labels, hyper.epochs * len(feed))
        shown, boxes = _load(scenes, scenes.splits["val"], hyper)
        return Plan(loop, feed, Slices((shown, padded(boxes)), hyper.batch_size), hyper.validate_every)

    def graph(self, hyper: DetectHyper, weights: dict[str, Tensor], data: Path) -> DetectGraph:
        """The averaged network."""
        network = Detector(len(self.read(data).labels), hyper.width)
        network.load_state_dict(submodule(weights, "average.module"))
        return DetectGraph(network.eval())

    def examples(self, hyper: DetectHyper, data: Path) -> Arrays:
        """Up to sixteen pictures that were held out."""
        scenes = self.read(data)
        return {"image": _load(scenes, scenes.held_out[:16], hyper)[0].numpy()}

    def training_pictures(self, data: Path) -> Iterator[bytes]:
        """The training part."""
        scenes = self.read(data)
        return (scenes.source.read(scene.picture) for scene in shuffled(scenes.splits["train"]))

    def truth(self, data: Path) -> Boxed:
        """The test part, or the validation part where there is no other."""
        return boxed_scenes(self.read(data))

    def score(self, version: Version, data: Path) -> dict[str, float]:
        """Average precision on what `truth` gives, with bounds."""
        part = "test" if "test" in self.read(data).splits else "val"
        _, figures = figures_of(ask(version, self.truth(data)))
        return {f"{part}_{name}": value for name, value in figures.items()}


def _load(scenes: Scenes, part: Sequence[Scene], hyper: DetectHyper) -> tuple[Tensor, list[Tensor]]:
    images, truths = scenes.arrays(part, _input(hyper))
    return torch.from_numpy(images), [torch.from_numpy(truth) for truth in truths]


def _input(hyper: DetectHyper) -> ImageInput:
    return ImageInput(height=hyper.size[0], width=hyper.size[1], fit="stretch")
