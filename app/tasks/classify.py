"""Classification: which of the labels a picture shows, how probably, and where the model looked."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, Field

from app.errors import InvalidModel, InvalidOption, NotAcceptable
from app.imaging.codec import Picture, encode_png
from app.imaging.paint import heat_overlay
from app.manifest import Manifest
from app.tasks.base import FittedTask, Graph, HeatMap, JsonObject, Prepared, Task, TaskOptions, encoded
from app.tensors import Tensor, Tensors

_FEW = 64
"""Classes that Python sorts sooner than numpy."""


class ClassifyOptions(TaskOptions):
    """Options of `/classify`."""

    top_k: int = Field(5, ge=1, le=1000, description="How many labels to answer, best first.")
    coverage: float | None = Field(
        None, alias="set", gt=0, lt=1,
        description="Add all labels that may be right, so that one of them is in this share of cases: 0.9 for nine in "
        "ten. A model that was not calibrated refuses.",
    )  # fmt: skip
    explain: bool = Field(
        False, description="Add a heat map of where the best label was seen; a model without one refuses."
    )


class LabelScore(BaseModel):
    """One label and its probability."""

    label: str
    index: int
    probability: float | None = Field(description="Null where what the model gave is no number (JSON has no NaN).")


class LabelSet(BaseModel):
    """Labels that may be right, best first; the more there are, the less the model knows."""

    coverage: float = Field(description="Share of pictures like those of the training set whose label is in its set.")
    labels: list[LabelScore]


class Classification(BaseModel):
    """One result of `/classify`."""

    labels: list[LabelScore]
    energy: float | None = Field(
        None, description="High for pictures unlike those of the training set (Liu et al. 2020, arXiv 2010.03759)."
    )
    set: LabelSet | None = None
    heatmap: HeatMap | None = None


class Classify(FittedTask[ClassifyOptions]):
    """Graph: `image` -> `probabilities` [N, C]; perhaps `cam` [N, h, w] in 0..1 for the top class, and `energy` [N]."""

    kind = "classify"
    summary = "Say what a picture shows"
    Options = ClassifyOptions
    Answer = Classification
    outputs: ClassVar[Mapping[str, str]] = {"probabilities": "float32 [N,C]"}
    optional_outputs: ClassVar[Mapping[str, str]] = {"cam": "float32 [N,h,w]", "energy": "float32 [N]"}

    def __init__(self, manifest: Manifest, labels: tuple[str, ...], graph: Graph) -> None:
        super().__init__(manifest, labels, graph)
        classes = next(spec.shape[1:] for spec in graph.outputs if spec.name == "probabilities")
        if classes not in ((), (None,), (len(labels),)):
            raise InvalidModel(f"The graph tells {classes[0]} classes apart; labels.txt has {len(labels)}.")
        self._explains = any(spec.name == "cam" for spec in graph.outputs)
        self._least = {} if manifest.conformal is None else manifest.conformal.least

    def prepare(self, picture: Picture | None, options: ClassifyOptions) -> Prepared:
        """As every task of pictures; InvalidOption where a model is asked for what it does not have."""
        if options.explain and not self._explains:
            raise InvalidOption("This model has no heat maps (its graph has no output 'cam'): leave explain out.")
        if options.coverage is not None:
            self._probability_for(options.coverage)
        return super().prepare(picture, options)

    def interpret(self, outputs: Tensors, prepared: Prepared, options: ClassifyOptions) -> list[JsonObject]:
        """The `top_k` labels of one row, and on request its label set and heat map."""
        probabilities = outputs["probabilities"][0]
        result: JsonObject = {"labels": self._scores(_best(probabilities, options.top_k))}
        if "energy" in outputs:
            result["energy"] = round(float(outputs["energy"][0]), 3)
        if options.coverage is not None:
            least = self._probability_for(options.coverage)
            held = max(1, int(np.count_nonzero(probabilities >= least)))
            result["set"] = {"coverage": options.coverage, "labels": self._scores(_best(probabilities, held))}
        if options.explain and prepared.picture is not None:
            heat = _heat(outputs["cam"])
            box = self.seen(prepared.picture)
            result["heatmap"] = {**encoded(encode_png(heat), heat.shape[1], heat.shape[0]), "box": list(box)}
        return [result]

    def agreement(self, outputs: Tensors, other: Task[Any], others: Tensors) -> float:
        """The share of rows with the same best label."""
        mine, theirs = (np.argmax(found["probabilities"], axis=1).tolist() for found in (outputs, others))
        same = [self._label(one) == other._label(two) for one, two in zip(mine, theirs, strict=True)]
        return sum(same) / len(same)

    def _scores(self, best: list[tuple[int, float]]) -> list[JsonObject]:
        return [
            {"label": self._label(index), "index": index, "probability": round(probability, 6)}
            for index, probability in best
        ]

    def _probability_for(self, coverage: float) -> float:
        """From which probability on a label is in a set of this coverage."""
        if not self._least:
            raise InvalidOption(
                "This model was not calibrated for label sets (no 'conformal' in its manifest): leave set out."
            )
        least = self._least.get(f"{coverage:.2f}")
        if least is None or abs(float(f"{coverage:.2f}") - coverage) > 1e-9:
            levels = sorted(self._least)
            raise InvalidOption(
                f"set: {coverage} was not calibrated; the levels are {levels[0]} to {levels[-1]} with two decimals."
            )
        return least

    def draw(self, outputs: Tensors, prepared: Prepared, options: ClassifyOptions) -> bytes:
        """The picture, in its own size, with the heat map of its best label over it.

        Raises:
            NotAcceptable: the model has no heat maps.
        """
        if not self._explains:
            raise NotAcceptable("This model has no heat maps to draw (its graph has no output 'cam'): accept JSON.")
        if prepared.picture is None:
            raise TypeError("a heat map is drawn over a picture")
        return encode_png(heat_overlay(prepared.picture.decode(), _heat(outputs["cam"]), self.seen(prepared.picture)))


def _best(probabilities: Tensor, count: int) -> list[tuple[int, float]]:
    """Index and probability of the best classes; the lower index first where two are equal."""
    if len(probabilities) <= _FEW:
        values = probabilities.tolist()
        return [
            (index, values[index]) for index in sorted(range(len(values)), key=values.__getitem__, reverse=True)[:count]
        ]
    order = np.argsort(np.negative(probabilities, dtype=np.float32), kind="stable")[:count]
    return list(zip(order.tolist(), probabilities[order].tolist(), strict=True))


def _heat(cam: Tensor) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    heat = np.nan_to_num(cam[0].astype(np.float32))
    return np.asarray(np.clip(heat, 0, 1) * 255 + 0.5).astype(np.uint8)
