"""Segmentation: the label of every pixel of a picture."""

import base64
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from app.errors import InvalidModel
from app.imaging.codec import Picture, encode_png
from app.imaging.geometry import label_counts, resize_labels
from app.imaging.paint import label_overlay
from app.manifest import Manifest
from app.tasks.base import ExplainedOptions, ExplainedTask, Graph, HeatMap, JsonObject, Prepared, Task, colours
from app.tasks.occlusion import Cell
from app.tensors import Tensors


class SegmentOptions(ExplainedOptions):
    """Options of `/segment`."""

    mask: Literal["png", "rle"] = Field("png", description="How the JSON answer carries the label map.")
    render: Literal["labels", "overlay"] = Field(
        "labels", description="What `Accept: image/png` gives: the label map with a palette, or the tinted picture."
    )


class ClassShare(BaseModel):
    """One label and the share of the pixels that have it."""

    label: str
    index: int
    share: float


class Mask(BaseModel):
    """The label map: base64 of an 8-bit PNG (value = index), or [index, length] runs, row by row from the top left."""

    encoding: Literal["png", "rle"]
    data: str | list[tuple[int, int]]


class Segmentation(BaseModel):
    """One result of `/segment`, in the size of the picture sent."""

    width: int
    height: int
    classes: list[ClassShare]
    mask: Mask
    heatmap: HeatMap | None = None


class Segment(ExplainedTask[SegmentOptions]):
    """Graph: `image` -> `mask` uint8 [N, H, W], `confidence` uint8 [N, H, W]."""

    kind = "segment"
    summary = "Label every pixel of a picture"
    Options = SegmentOptions
    Answer = Segmentation
    outputs: ClassVar[Mapping[str, str]] = {"mask": "uint8 [N,H,W]", "confidence": "uint8 [N,H,W]"}
    full_size = True

    def __init__(self, manifest: Manifest, labels: tuple[str, ...], graph: Graph) -> None:
        super().__init__(manifest, labels, graph)
        if self.image_input.fit != "stretch":
            raise InvalidModel("A segment graph labels every pixel: 'fit' of 'image' in its manifest is 'stretch'.")
        self.palette = colours(manifest, labels)

    def interpret(self, outputs: Tensors, prepared: Prepared, options: SegmentOptions) -> list[JsonObject]:
        """Shares (largest first, labels that do not occur left out) and label map of one row."""
        labels = _in_picture(outputs, prepared)
        counts = label_counts(labels)
        present = [index for index in np.argsort(counts, kind="stable")[::-1].tolist() if counts[index]]
        height, width = labels.shape
        return [
            {
                "width": width,
                "height": height,
                "classes": [
                    {"label": self._label(index), "index": index, "share": round(float(counts[index]) / labels.size, 6)}
                    for index in present
                ],
                "mask": _mask(labels, options.mask),
                **self.heatmap(prepared),
            }
        ]

    def agreement(self, outputs: Tensors, other: Task[Any], others: Tensors) -> float:
        """The share of pixels with the same label."""
        mine, theirs = outputs["mask"], others["mask"]
        return float(np.mean(mine == theirs)) if mine.shape == theirs.shape and self.labels == other.labels else 0.0

    def draw(self, outputs: Tensors, prepared: Prepared, options: SegmentOptions) -> bytes:
        """The label map as a palette PNG, or the picture tinted with it, or with what it rests on over it."""
        if (explained := self.draw_heat(prepared)) is not None:
            return explained
        labels = _in_picture(outputs, prepared)
        if options.render == "labels":
            return encode_png(labels, self.palette)
        picture: Picture | None = prepared.picture
        if picture is None:
            raise TypeError("an overlay is drawn over a picture")
        return encode_png(label_overlay(picture.decode(), labels, self.palette))

    def evidence(self, outputs: Tensors, whole: Tensors, hidden: Cell) -> float:
        """The share of the pixels outside of the cell that keep their label."""
        same = outputs["mask"][0] == whole["mask"][0]
        outside = np.ones(same.shape, bool)
        outside[hidden] = False
        return float(same[outside].mean()) if outside.any() else 1.0


def run_lengths(labels: NDArray[np.uint8]) -> list[list[int]]:
    """Runs [index, length] of equal labels in row-major order; their lengths add up to width x height."""
    flat = labels.ravel()
    starts = np.concatenate([[0], np.flatnonzero(np.diff(flat)) + 1])
    lengths = np.diff(np.concatenate([starts, [flat.size]]))
    return [[int(flat[start]), length] for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)]


def _in_picture(outputs: Tensors, prepared: Prepared) -> NDArray[np.uint8]:
    mask: NDArray[np.uint8] = outputs["mask"][0].astype(np.uint8, copy=False)
    if prepared.picture is None:
        return mask
    return resize_labels(mask, prepared.picture.width, prepared.picture.height)


def _mask(labels: NDArray[np.uint8], encoding: str) -> JsonObject:
    if encoding == "rle":
        return {"encoding": "rle", "data": run_lengths(labels)}
    return {"encoding": "png", "data": base64.b64encode(encode_png(labels)).decode("ascii")}
