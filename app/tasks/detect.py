"""Detection: which things a picture shows, and the box around each."""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from app.errors import InvalidModel
from app.imaging.codec import encode_png
from app.imaging.geometry import boxes_in_picture
from app.imaging.paint import Boxed, box_overlay
from app.manifest import Manifest
from app.tasks.base import ExplainedOptions, ExplainedTask, Graph, HeatMap, JsonObject, Prepared, Task, colours
from app.tasks.occlusion import Cell
from app.tensors import Tensors

_COLUMNS = 6
_SURE = 0.5
_SAME = 0.5
"""Score and intersection over union from which on two objects are compared, and are the same."""


class DetectOptions(ExplainedOptions):
    """Options of `/detect`."""

    threshold: float = Field(_SURE, ge=0, le=1, description="Least score of an object that is answered.")
    max_count: int = Field(100, ge=1, le=1000, description="Most objects that are answered, best first.")


class DetectedObject(BaseModel):
    """One object."""

    label: str
    index: int
    score: float
    box: tuple[float, float, float, float] = Field(
        description="Left, top, right, bottom in pixels of the picture sent, from its left upper corner."
    )


class Detection(BaseModel):
    """One result of `/detect`: the size of the picture sent, upright, and its objects, best first."""

    width: int
    height: int
    objects: list[DetectedObject]
    heatmap: HeatMap | None = None


class Found(NamedTuple):
    """One object before it becomes an answer."""

    label: int
    score: float
    box: tuple[float, float, float, float]


class Named(NamedTuple):
    """One object of one row, to be looked for among those of another version."""

    label: tuple[int, str]
    left: float
    top: float
    right: float
    bottom: float


class Detect(ExplainedTask[DetectOptions]):
    """Graph: `image` -> `boxes` [N, K, 6]: left, top, right, bottom, score, class; K is fixed.

    Edges are pixels of the graph's input, counted from its left upper corner, and may lie beyond it. Scores are 0 to 1;
    a row with score 0 is no object. Each object is in one row: nothing is suppressed after the graph.
    """

    kind = "detect"
    summary = "Find things and the box around each"
    Options = DetectOptions
    Answer = Detection
    outputs: ClassVar[Mapping[str, str]] = {"boxes": "float32 [N,K,6]"}

    def __init__(self, manifest: Manifest, labels: tuple[str, ...], graph: Graph) -> None:
        super().__init__(manifest, labels, graph)
        columns = next(spec.shape[2:] for spec in graph.outputs if spec.name == "boxes")
        if columns not in ((), (None,), (_COLUMNS,)):
            raise InvalidModel(f"A box has {_COLUMNS} numbers; this graph gives {columns[0]}.")
        self._colours = colours(manifest, labels)

    def interpret(self, outputs: Tensors, prepared: Prepared, options: DetectOptions) -> list[JsonObject]:
        """The objects of one row with at least the score asked for."""
        width, height = self._size(prepared)
        objects = [
            {
                "label": self._label(one.label),
                "index": one.label,
                "score": round(one.score, 6),
                "box": [round(edge, 2) for edge in one.box],
            }
            for one in self._found(outputs, prepared, options)
        ]
        return [{"width": width, "height": height, "objects": objects, **self.heatmap(prepared)}]

    def draw(self, outputs: Tensors, prepared: Prepared, options: DetectOptions) -> bytes:
        """The picture with a box around each object, its label and its score, or with what the best one rests on."""
        if (explained := self.draw_heat(prepared)) is not None:
            return explained
        if prepared.picture is None:
            raise TypeError("boxes are drawn over a picture")
        boxed = [
            Boxed(one.box, self._colours[one.label % len(self._colours)], f"{self._label(one.label)} {one.score:.2f}")
            for one in reversed(self._found(outputs, prepared, options))
        ]
        return encode_png(box_overlay(prepared.picture.decode(), boxed))

    def agreement(self, outputs: Tensors, other: Task[Any], others: Tensors) -> float:
        """Of the objects that the two find, the share that both do: a pair has one label, and boxes that cover the
        same by half or more (IoU). Boxes are compared as shares of what each graph was given."""
        mine, theirs = self._sure(outputs), other._sure(others) if isinstance(other, Detect) else []
        total, paired = len(mine) + len(theirs), 0
        for one in mine:
            rival = max((two for two in theirs if two.label == one.label), key=partial(_overlap, one), default=None)
            if rival is not None and _overlap(one, rival) >= _SAME:
                theirs.remove(rival)
                paired += 2
        return paired / total if total else 1.0

    def _sure(self, outputs: Tensors) -> list[Named]:
        """Objects of all rows with the least score that is answered by default, best first."""
        size = np.array([self.image_input.width, self.image_input.height] * 2)
        found: list[Named] = []
        for place, row in enumerate(map(_numbers, outputs["boxes"])):
            sure = row[(row[:, 4] >= _SURE) & (row[:, 5] >= 0)]
            best = sure[np.argsort(-sure[:, 4], kind="stable")]
            found += [Named((place, self._label(int(one[5]))), *(one[:4] / size).tolist()) for one in best]
        return found

    def evidence(self, outputs: Tensors, whole: Tensors, hidden: Cell) -> float:
        """What is left of the score of the best object: that of the best of its label that covers half of both."""
        boxes = _numbers(whole["boxes"][0])
        best = boxes[boxes[:, 4].argmax()] if len(boxes) else np.zeros(_COLUMNS)
        same = [row for row in outputs["boxes"][0] if row[5] == best[5]]
        rivals = [row for row in same if _overlap(_named(row), _named(best)) >= _SAME]
        return float(max((row[4] for row in rivals), default=0.0) / best[4]) if best[4] > 0 else 1.0

    def _found(self, outputs: Tensors, prepared: Prepared, options: DetectOptions) -> list[Found]:
        """Objects best first; rows that are none, lie outside of the picture or are not numbers are left out."""
        rows = _numbers(outputs["boxes"][0].astype(np.float64))
        rows = rows[(rows[:, 4] > 0) & (rows[:, 4] >= options.threshold) & (rows[:, 5] >= 0)]
        rows = rows[np.argsort(-rows[:, 4], kind="stable")]
        edges = boxes_in_picture(rows[:, :4], *self._size(prepared), self.image_input)
        inside = (edges[:, 0] < edges[:, 2]) & (edges[:, 1] < edges[:, 3])
        best = zip(edges[inside].tolist(), rows[inside, 4:].tolist(), strict=True)
        return [Found(int(index), score, tuple(box)) for box, (score, index) in best][: options.max_count]

    def _size(self, prepared: Prepared) -> tuple[int, int]:
        picture = prepared.picture
        return (self.image_input.width, self.image_input.height) if picture is None else (picture.width, picture.height)


def _numbers(rows: NDArray[Any]) -> NDArray[Any]:
    """Those of the rows [K,6] whose score and class are finite numbers."""
    found: NDArray[Any] = rows[np.isfinite(rows[:, 4:]).all(axis=1)]
    return found


def _named(row: NDArray[np.generic]) -> Named:
    """An object by the number of its label, in pixels of the graph's input."""
    left, top, right, bottom = row[:4].tolist()
    return Named((0, str(row[5])), left, top, right, bottom)


def _overlap(one: Named, two: Named) -> float:
    """Intersection over union of two boxes."""
    width = min(one.right, two.right) - max(one.left, two.left)
    height = min(one.bottom, two.bottom) - max(one.top, two.top)
    shared = max(width, 0.0) * max(height, 0.0)
    both = sum((box.right - box.left) * (box.bottom - box.top) for box in (one, two)) - shared
    return shared / both if both > 0 else 0.0
