"""camvid-segmenter: eleven classes of road scenes, 480x360.

    claim     mIoU 0.532 on the 233 test pictures, one view (version 1)
    time      38 minutes on one CPU core with bfloat16 arithmetic, beside other work
    seed      0
    command   imago-train fit camvid-segmenter --data DIR

Random windows at random scales, cross entropy weighted as ENet does (Paszke et al. 2016, arXiv 1606.02147), AdamW with
a cosine schedule, and an average of the weights. Trained on the training split only; validation is only watched.
"""

import base64
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn import functional

from app.manifest import ImageInput
from training.data import camvid
from training.data.augment import jitter, zoom
from training.data.feed import Draw, Feed, Slices
from training.data.pixels import decode_labels
from training.engine import Average, Count, Hyper, Plan, Rate
from training.metrics import confusion, intersection_over_union
from training.networks.graphs import SegmentGraph, scaled
from training.networks.layout import channels_last
from training.networks.segmenter import Segmenter
from training.onnx_file import Arrays
from training.recipe import Card, Recipe
from training.run import Run, submodule
from training.schedules import cosine
from training.version import Version

CLASSES = len(camvid.CLASSES)


class SegmenterHyper(Hyper):
    """What was chosen."""

    epochs: Count = 100
    batch_size: Count = 8
    lr: Rate = 2e-3
    weight_decay: float = 0.02
    warm_up: int = 100
    window: tuple[int, int] = (288, 384)
    scales: tuple[float, float] = (0.6, 1.8)
    colour: float = 0.3
    decay: float = 0.998
    width: int = 32
    validate_every: Count = 20


class SegmenterLoop(LightningModule):
    """One step: weighted cross entropy at the full size of the window."""

    weights: Tensor

    def __init__(self, hyper: SegmenterHyper, weights: Tensor, steps: int) -> None:
        super().__init__()
        self.network = channels_last(Segmenter(CLASSES, hyper.width))
        self.average = Average(self.network, hyper.decay)
        self.hyper, self.steps = hyper, steps
        self.register_buffer("weights", weights)
        self.matrix = torch.zeros(CLASSES, CLASSES, dtype=torch.long)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """The loss of one batch."""
        pictures, labels = batch
        coarse = self.network(pictures).float()
        logits = functional.interpolate(coarse, scale_factor=4.0, mode="bilinear", align_corners=False)
        loss = functional.cross_entropy(logits, labels, self.weights, ignore_index=camvid.VOID)
        self.log("loss", loss, prog_bar=True)
        return loss

    def optimizer_step(self, *arguments: Any, **named: Any) -> None:
        """Let the average follow at once: checkpoints are written before `on_train_batch_end` reaches this module."""
        super().optimizer_step(*arguments, **named)
        self.average.follow(self.network)

    def on_validation_epoch_start(self) -> None:
        """Start counting."""
        self.matrix.zero_()

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Count pixels of the averaged network's answers."""
        images, labels = batch
        graph = SegmentGraph(self.average.module, camvid.HEIGHT, camvid.WIDTH)
        self.matrix += confusion(graph.logits(scaled(images)).argmax(1), labels, CLASSES).cpu()

    def on_validation_epoch_end(self) -> None:
        """The mean over classes."""
        self.log("validation/miou", float(intersection_over_union(self.matrix).nanmean()), prog_bar=True)

    def configure_optimizers(self) -> Any:
        """AdamW; biases and norms are not decayed."""
        groups: list[dict[str, Any]] = [
            {"params": [value for value in self.network.parameters() if value.ndim > 1]},
            {"params": [value for value in self.network.parameters() if value.ndim == 1], "weight_decay": 0.0},
        ]
        optimiser = torch.optim.AdamW(groups, lr=self.hyper.lr, weight_decay=self.hyper.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, cosine(self.steps, self.hyper.warm_up))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class CamvidSegmenter(Recipe[SegmenterHyper]):
    """The shipped segmenter."""

    name = "camvid-segmenter"
    hyper = SegmenterHyper
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
        loop = SegmenterLoop(hyper, enet_weights(labels), hyper.epochs * len(feed))
        return Plan(loop, feed, Slices(load(data, "val"), 4), hyper.validate_every)

    def graph(self, hyper: SegmenterHyper, weights: dict[str, Tensor], data: Path) -> SegmentGraph:
        """The averaged network."""
        network = Segmenter(CLASSES, hyper.width)
        network.load_state_dict(submodule(weights, "average.module"))
        return SegmentGraph(network.eval(), camvid.HEIGHT, camvid.WIDTH)

    def examples(self, hyper: SegmenterHyper, data: Path) -> Arrays:
        """Sixteen test images."""
        images, _ = load(data, "test")
        return {"image": images[:: max(1, len(images) // 16)][:16].numpy()}

    def score(self, version: Version, data: Path) -> dict[str, float]:
        """mIoU and the IoU of each class from one confusion matrix over the test split, without void."""
        matrix = torch.zeros(CLASSES, CLASSES, dtype=torch.long)
        files, maps = zip(*camvid.pictures(data, "test"), strict=True)
        for answer, truth in zip(version.answers(files), maps, strict=True):
            found = decode_labels(base64.b64decode(answer["mask"]["data"]), "answer")
            matrix += confusion(torch.from_numpy(found), torch.from_numpy(truth), CLASSES)
        each = intersection_over_union(matrix)
        return {"test_miou": float(each.nanmean())} | {
            f"test_iou_{name}": float(value) for name, value in zip(camvid.CLASSES, each.nan_to_num(), strict=True)
        }


def load(data: Path, part: camvid.Split) -> tuple[Tensor, Tensor]:
    """Images uint8 [N,360,480,3] and label maps uint8 [N,360,480]."""
    images, labels = camvid.arrays(data, part)
    return torch.from_numpy(images), torch.from_numpy(labels)


def enet_weights(labels: Tensor) -> Tensor:
    """1 / ln(1.02 + share of the class), float [11]."""
    counts = torch.bincount(labels.flatten(), minlength=camvid.VOID + 1)[: camvid.VOID].float()
    return 1 / torch.log(1.02 + counts / counts.sum())
