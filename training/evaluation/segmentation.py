"""Evaluation of a segmenter: how well its masks lie on the true ones, class by class and picture by picture."""

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from app.errors import InvalidModel
from app.imaging.paint import default_palette, label_overlay
from training.data.held_out import Masked
from training.data.pixels import OWN_PICTURES, decode, decode_labels
from training.evaluation.comparison import Comparison, bootstrap
from training.figures import confusion_figure, sheet
from training.metrics import confusion, intersection_over_union
from training.version import Version

_SHOWN = 12


@dataclass(frozen=True)
class Answers:
    """What a version answered to pictures with masks: one confusion matrix a picture, int64 [pictures,C,C]."""

    labels: tuple[str, ...]
    matrices: NDArray[np.int64]
    masks: list[NDArray[np.uint8]]


def ask(version: Version, pictures: Masked) -> Answers:
    """Every picture through the server's own task. Raises InvalidModel where answer and mask differ in size."""
    labels, matrices, masks = version.task.labels, [], []
    answers = version.answers(pictures.files, pictures.names)
    for name, answer, truth in zip(pictures.names, answers, pictures.maps, strict=True):
        found = decode_labels(base64.b64decode(answer["mask"]["data"]), "answer")
        if found.shape != truth.shape:
            raise InvalidModel(f"{name} is answered with a mask of {found.shape}, and the true one is {truth.shape}.")
        matrices.append(confusion(torch.from_numpy(found), torch.from_numpy(truth), len(labels)).numpy())
        masks.append(found)
    return Answers(labels, np.stack(matrices), masks)


def report(answers: Answers, pictures: Masked) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Figures that go into JSON, and pictures by file name."""
    matrix = answers.matrices.sum(0)
    each = intersection_over_union(torch.from_numpy(matrix))
    single = np.array([_mean(one) for one in answers.matrices])
    # A picture without a pixel that counts has no figure, and sorts last.
    worst = [row for row in np.argsort(single, kind="stable").tolist() if not np.isnan(single[row])][:_SHOWN]
    figures = {
        "pictures": len(pictures.files),
        "miou": float(each.nanmean()),
        "pixel_accuracy": float(np.trace(matrix) / matrix.sum().clip(1)),
        "classes": {
            label: {"iou": float(value)} for label, value in zip(answers.labels, each.nan_to_num(), strict=True)
        },
        "worst": [{"picture": pictures.names[row], "miou": round(float(single[row]), 4)} for row in worst],
    }
    palette = [*default_palette(len(answers.labels)), *[(0, 0, 0)] * (256 - len(answers.labels))]
    tiles = []
    for row in worst:
        image = decode(pictures.files[row], pictures.names[row], OWN_PICTURES)
        tiles += [
            (image, f"mIoU {single[row]:.2f}"),
            (label_overlay(image, answers.masks[row], palette), "answered"),
            (label_overlay(image, pictures.maps[row], palette), "true"),
        ]
    files = {"confusion.png": confusion_figure(matrix, answers.labels), "worst.png": sheet(tiles)}
    return figures, files


def compare(this: Answers, other: Answers) -> Comparison:
    """A paired test of two versions on the same pictures."""
    return bootstrap(this.matrices, other.matrices)


def _mean(matrix: NDArray[np.int64]) -> float:
    return float(intersection_over_union(torch.from_numpy(matrix)).nanmean())
