"""Classification: which of the labels a picture shows, how probably, and where the model looked."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from pydantic import BaseModel, Field

from app.errors import InvalidModel, InvalidOption, NotAcceptable
from app.imaging.codec import Picture, encode_png
from app.imaging.geometry import visible_box
from app.imaging.paint import heat_overlay
from app.manifest import ImageInput, Manifest
from app.tasks.base import EncodedImage, Graph, JsonObject, PictureTask, Prepared, TaskOptions, encoded
from app.tensors import Tensor, Tensors

_FEW = 64
"""Classes that Python sorts sooner than numpy."""


class ClassifyOptions(TaskOptions):
    """Options of `/classify`."""

    top_k: int = Field(5, ge=1, le=1000, description="How many labels to answer, best first.")
    explain: bool = Field(
        False, description="Add a heat map of where the best label was seen; a model without one refuses."
    )


class LabelScore(BaseModel):
    """One label and its probability."""

    label: str
    index: int
    probability: float


class HeatMap(EncodedImage):
    """Grey PNG, 0 to 255, of the evidence for the best label (class activation map, Zhou et al. 2016)."""

    box: tuple[int, int, int, int] = Field(description="Part of the picture that it covers: left, top, right, bottom.")


class Classification(BaseModel):
    """One result of `/classify`."""

    labels: list[LabelScore]
    heatmap: HeatMap | None = None


class Classify(PictureTask[ClassifyOptions]):
    """Graph: `image` -> `probabilities` [N, C], perhaps `cam` [N, h, w] in 0..1 for the top class, and more."""

    kind = "classify"
    summary = "Say what a picture shows"
    Options = ClassifyOptions
    Answer = Classification
    outputs: ClassVar[Mapping[str, str]] = {"probabilities": "float32 [N,C]"}
    optional_outputs: ClassVar[Mapping[str, str]] = {"cam": "float32 [N,h,w]"}

    def __init__(self, manifest: Manifest, labels: tuple[str, ...], graph: Graph) -> None:
        super().__init__(manifest, labels, graph)
        classes = next(spec.shape[1:] for spec in graph.outputs if spec.name == "probabilities")
        if classes not in ((), (None,), (len(labels),)):
            raise InvalidModel(f"The graph tells {classes[0]} classes apart; labels.txt has {len(labels)}.")
        self._explains = any(spec.name == "cam" for spec in graph.outputs)

    def prepare(self, picture: Picture | None, options: ClassifyOptions) -> Prepared:
        """As every task of pictures; InvalidOption where a heat map is asked of a model without one."""
        if options.explain and not self._explains:
            raise InvalidOption("This model has no heat maps (its graph has no output 'cam'): leave explain out.")
        return super().prepare(picture, options)

    def interpret(self, outputs: Tensors, prepared: Prepared, options: ClassifyOptions) -> list[JsonObject]:
        """The `top_k` labels of one row, and its heat map on request."""
        probabilities = outputs["probabilities"][0]
        best = _best(probabilities, options.top_k)
        result: JsonObject = {
            "labels": [
                {"label": self._label(index), "index": index, "probability": round(probability, 6)}
                for index, probability in best
            ]
        }
        if options.explain and prepared.picture is not None:
            heat = _heat(outputs["cam"])
            box = _box(prepared.picture, self.image_input)
            result["heatmap"] = {**encoded(encode_png(heat), heat.shape[1], heat.shape[0]), "box": list(box)}
        return [result]

    def draw(self, outputs: Tensors, prepared: Prepared, options: ClassifyOptions) -> bytes:
        """The picture, in its own size, with the heat map of its best label over it.

        Raises:
            NotAcceptable: the model has no heat maps.
        """
        if not self._explains:
            raise NotAcceptable("This model has no heat maps to draw (its graph has no output 'cam'): accept JSON.")
        if prepared.picture is None:
            raise TypeError("a heat map is drawn over a picture")
        box = _box(prepared.picture, self.image_input)
        return encode_png(heat_overlay(prepared.picture.decode(), _heat(outputs["cam"]), box))


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
    return np.asarray(np.clip(cam[0].astype(np.float32), 0, 1) * 255 + 0.5).astype(np.uint8)


def _box(picture: Picture, want: ImageInput) -> tuple[int, int, int, int]:
    return visible_box(picture.width, picture.height, want)
