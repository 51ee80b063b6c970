"""Evaluation of a classifier: how often it is right, on what it errs, how far its probabilities can be trusted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.errors import InvalidModel
from training.data.held_out import Labelled
from training.data.pixels import OWN_PICTURES, decode
from training.evaluation.comparison import Comparison, mcnemar
from training.figures import confusion_figure, reliability_figure, sheet
from training.metrics import calibration_error
from training.version import Version

_SHOWN = 24
_MOST = 1000
"""Labels that one answer may have."""


@dataclass(frozen=True)
class Answers:
    """What a version answered to labelled pictures."""

    labels: tuple[str, ...]
    truth: NDArray[np.int64]
    probabilities: NDArray[np.float64]

    @property
    def found(self) -> NDArray[np.int64]:
        """The best label of each picture."""
        return np.asarray(self.probabilities.argmax(1))

    @property
    def right(self) -> NDArray[np.bool_]:
        """Which pictures were answered rightly."""
        return np.asarray(self.found == self.truth)


def ask(version: Version, pictures: Labelled) -> Answers:
    """Every picture through the server's own task. Raises InvalidModel where a true label is none of the version's."""
    labels = version.task.labels
    unknown = sorted(set(pictures.labels) - set(labels))
    if unknown:
        raise InvalidModel(f"The pictures are labelled {unknown[0]!r}, which is no label of {version.manifest.name}.")
    probabilities = np.zeros((len(pictures.files), len(labels)))
    answers = version.answers(pictures.files, pictures.names, top_k=min(_MOST, len(labels)))
    for row, answer in enumerate(answers):
        for score in answer["labels"]:
            probabilities[row, score["index"]] = score["probability"]
    return Answers(labels, np.array([labels.index(label) for label in pictures.labels]), probabilities)


def report(answers: Answers, pictures: Labelled) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Figures that go into JSON, and pictures by file name."""
    matrix = confusion_matrix(answers)
    confidence = answers.probabilities.max(1)
    mistakes = sorted(np.flatnonzero(~answers.right).tolist(), key=lambda row: -confidence[row])[:_SHOWN]
    figures = {
        "pictures": len(answers.truth),
        "accuracy": float(answers.right.mean()),
        "calibration_error": calibration_error(answers.probabilities, answers.truth),
        "classes": by_class(matrix, answers.labels),
        "confusion": matrix.tolist(),
        "mistakes": [
            {
                "picture": pictures.names[row],
                "true": answers.labels[answers.truth[row]],
                "answered": answers.labels[answers.found[row]],
                "probability": round(float(confidence[row]), 4),
            }
            for row in mistakes
        ],
    }
    files = {
        "confusion.png": confusion_figure(matrix, answers.labels),
        "reliability.png": reliability_figure(confidence, answers.right),
        "mistakes.png": sheet([(_pixels(pictures, row), _caption(answers, row)) for row in mistakes]),
    }
    return figures, files


def compare(this: Answers, other: Answers) -> Comparison:
    """A paired test of two versions on the same pictures."""
    return mcnemar(this.right, other.right)


def confusion_matrix(answers: Answers) -> NDArray[np.int64]:
    """Counts int64 [C,C], a row a true label."""
    count = len(answers.labels)
    return np.bincount(answers.truth * count + answers.found, minlength=count**2).reshape(count, count)


def by_class(matrix: NDArray[np.int64], labels: Sequence[str]) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and number of pictures of each label; 0 where a share has no pictures."""
    hits = np.diag(matrix)
    precision, recall = hits / matrix.sum(0).clip(1), hits / matrix.sum(1).clip(1)
    harmonic = 2 * precision * recall / (precision + recall).clip(1e-12)
    return {
        label: {
            "precision": float(precision[row]), "recall": float(recall[row]), "f1": float(harmonic[row]),
            "pictures": int(matrix[row].sum()),
        }
        for row, label in enumerate(labels)
    }  # fmt: skip


def _pixels(pictures: Labelled, row: int) -> NDArray[np.uint8]:
    return decode(pictures.files[row], pictures.names[row], OWN_PICTURES)


def _caption(answers: Answers, row: int) -> str:
    found, truth = answers.labels[answers.found[row]], answers.labels[answers.truth[row]]
    return f"{found[:18]} {answers.probabilities[row].max():.2f}\nis {truth[:18]}"
