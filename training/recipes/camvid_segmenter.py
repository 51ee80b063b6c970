"""camvid-segmenter: eleven classes of road scenes, 480x360.

    claim     mIoU 0.586 on the 233 test pictures, one view (version 3)
    time      121 minutes on one CPU core with bfloat16 arithmetic, beside other work
    seed      0
    command   imago-train fit camvid-segmenter --data DIR

Random windows at random scales, cross entropy weighted as ENet does (Paszke et al. 2016, arXiv 1606.02147), AdamW with
a cosine schedule, and an average of the weights. Trained on the training split only; the validation split chooses how
much of the class weights the exported network takes back (0.586 for 0.566 without), and nothing else.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from app.manifest import ImageInput
from training.data import camvid
from training.data.augment import jitter, zoom
from training.data.feed import Draw, Feed, Slices
from training.data.held_out import Masked, shuffled
from training.engine import Count, Plan
from training.networks.graphs import SegmentGraph
from training.networks.segmenter import Segmenter
from training.onnx_file import Arrays
from training.recipe import Card, Recipe
from training.run import Run, submodule
from training.segmenting import SegmentHyper, SegmentLoop, enet_weights, overlaps, take_back
from training.version import Version

CLASSES = len(camvid.CLASSES)


class SegmenterHyper(SegmentHyper):
    """What was chosen."""

    epochs: Count = 280
    window: tuple[int, int] = (288, 384)
    colour: float = Field(default=0.5, ge=0, le=1)


class CamvidSegmenter(Recipe[SegmenterHyper]):
    """The shipped segmenter."""

    name = "camvid-segmenter"
    hyper = SegmenterHyper
    headline = "test_miou"
    anchor = "66.9 % from the training split alone: FC-DenseNet103 (Jegou et al. 2017)"
    card = Card(
        task="segment",
        description="Labels every pixel of a road scene, seen from a car, with one of eleven classes.",
        licence="Weights: CC BY-NC 4.0, as the data they were learned from: personal and research use only.",
        data=camvid.FACTS,
        labels=camvid.CLASSES,
        image=ImageInput(width=camvid.WIDTH, height=camvid.HEIGHT, fit="stretch"),
        palette=camvid.PALETTE,
        uses="Demonstration, teaching and load tests; research on road scenes.",
        limits="It learned from 367 pictures of one city by day. Thin and rare things (poles, signs, fences, cyclists) "
        "are found poorly; it must not steer anything.",
    )

    def plan(self, hyper: SegmenterHyper, data: Path, run: Run) -> Plan:
        """Network, loop and batches of a run."""
        images, labels = load(data, "train")

        def make(draw: Draw) -> tuple[Tensor, Tensor]:
            pictures = images[draw.rows].permute(0, 3, 1, 2).float() / 255
            cut, marks = zoom(pictures, labels[draw.rows], hyper.window, hyper.scales, camvid.VOID, draw.random)
            return jitter(cut, hyper.colour, draw.random).contiguous(memory_format=torch.channels_last), marks

        feed = Feed(len(images), hyper.batch_size, hyper.seed, make)
        size, steps = (camvid.HEIGHT, camvid.WIDTH), hyper.epochs * len(feed)
        loop = SegmentLoop(hyper, enet_weights(labels, CLASSES), size, camvid.VOID, steps)
        return Plan(loop, feed, Slices(load(data, "val"), 4), hyper.validate_every)

    def graph(self, hyper: SegmenterHyper, weights: dict[str, Tensor], data: Path) -> SegmentGraph:
        """The averaged network, less the share of the class weights that serves the validation split best."""
        network = Segmenter(CLASSES, hyper.width)
        network.load_state_dict(submodule(weights, "average.module"))
        graph = SegmentGraph(network.eval(), camvid.HEIGHT, camvid.WIDTH)
        take_back(graph, weights["weights"], Slices(load(data, "val"), 4))
        return graph

    def examples(self, hyper: SegmenterHyper, data: Path) -> Arrays:
        """Sixteen test images."""
        images, _ = load(data, "test")
        return {"image": images[:: max(1, len(images) // 16)][:16].numpy()}

    def training_pictures(self, data: Path) -> Iterator[bytes]:
        """The training split."""
        return shuffled([file for file, _ in camvid.pictures(data, "train")])

    def truth(self, data: Path) -> Masked:
        """The test split."""
        files, maps = zip(*camvid.pictures(data, "test"), strict=True)
        return Masked([f"test picture {row}" for row in range(len(files))], files, maps)

    def score(self, version: Version, data: Path) -> dict[str, float]:
        """mIoU and the IoU of each class from one confusion matrix over the test split, without void."""
        pictures = self.truth(data)
        return {f"test_{name}": value for name, value in overlaps(version, pictures.files, pictures.maps).items()}


def load(data: Path, part: camvid.Split) -> tuple[Tensor, Tensor]:
    """Images uint8 [N,360,480,3] and label maps uint8 [N,360,480]."""
    images, labels = camvid.arrays(data, part)
    return torch.from_numpy(images), torch.from_numpy(labels)
