"""What a task is: how pictures and options become tensors, and how tensors become an answer.

Tasks know nothing of HTTP, queues or sessions; adding one is one file here and its name in `TASKS`.
"""

import base64
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from app.errors import EmptyBody, InvalidModel
from app.imaging.codec import Picture, encode_png
from app.imaging.geometry import Box, fit, visible_box
from app.imaging.paint import default_palette, heat_overlay
from app.manifest import Manifest
from app.tasks.occlusion import GRID, Cell, Occlusion
from app.tensors import Tensors, TensorSpec

JsonObject = dict[str, Any]
"""A result as it goes into the answer: plain numbers, strings, lists and dictionaries."""


class TaskOptions(BaseModel):
    """What a caller may choose per call; unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    @property
    def forms(self) -> tuple[str, ...]:
        """Formats in which the answer can be drawn, the one asked for first."""
        return ("png",)

    def drawn_as(self, form: str) -> Self:
        """The same for an answer in one of these formats."""
        return self

    @property
    def variant(self) -> str:
        """What a model must be able to, beside its task, to answer this where none is named; empty where all are."""
        return ""


class EncodedImage(BaseModel):
    """A picture inside a JSON answer."""

    encoding: str = Field(description="`png`; of `/enhance` also `jpeg` or `webp`.")
    width: int
    height: int
    data: str = Field(description="Base64 (RFC 4648, section 4) of the encoded picture.")


OptionsT = TypeVar("OptionsT", bound=TaskOptions)


@dataclass(frozen=True)
class Prepared:
    """The rows of one call, and what its answer needs to know of the picture they came from."""

    tensors: Tensors
    picture: Picture | None = None
    parts: "Parts | None" = None
    """Where there are too many rows to be made at once; `tensors` is empty then."""


class Parts(Protocol):
    """The rows of one call, made as they are run; what is kept of their outputs is up to the task."""

    def __len__(self) -> int:
        """How many rows there are."""

    def rows(self, start: int, stop: int) -> Tensors:
        """Make some of them."""

    def take(self, start: int, outputs: Tensors) -> None:
        """Keep what is needed of the outputs of the rows from `start` on; in any order, from several threads."""

    def outputs(self) -> Tensors:
        """What `interpret` and `draw` are given when all rows were taken."""


@dataclass(frozen=True)
class Graph:
    """What a graph takes and gives."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class Task(ABC, Generic[OptionsT]):
    """One kind of question that one model version answers.

    Raises:
        InvalidModel: on construction, where manifest, labels or graph do not have what this task needs.
    """

    kind: ClassVar[str]
    """Path, manifest word and metric label."""
    summary: ClassVar[str]
    Options: ClassVar[type[TaskOptions]]
    Answer: ClassVar[type[BaseModel]]
    """The shape of one result; results themselves are plain dictionaries."""
    inputs: ClassVar[Mapping[str, str]]
    outputs: ClassVar[Mapping[str, str]]
    """Names that the graph must have, with dtype and axes of each: `float32 [N,C]`."""
    optional_inputs: ClassVar[Mapping[str, str]] = {}
    optional_outputs: ClassVar[Mapping[str, str]] = {}
    """Names that it may have besides; what needs one of them is refused by models without it."""
    made: ClassVar[str] = ""
    """The output that is a picture and the answer, where there is one."""
    whole: bool = False
    """Whether its graph knows no rows: callers who speak tensors leave the first axis out, which is 1."""
    labelled: ClassVar[bool] = True
    """Whether answers speak of labels."""
    full_size: ClassVar[bool] = False
    """Whether results, and not drawings alone, have as many pixels as the picture that was sent."""
    variant: str = ""
    """What this model is able to beside its task, as options ask for it."""

    def __init__(self, manifest: Manifest, labels: tuple[str, ...], graph: Graph) -> None:
        if self.labelled and not labels:
            raise InvalidModel(f"A {self.kind} model needs labels.txt, one label a line.")
        self.labels = labels
        self.variant = self.variant_of(manifest)
        self._check(graph)

    @classmethod
    def variant_of(cls, manifest: Manifest) -> str:
        """What a model with this manifest is able to beside its task; nothing, where the task has no variants."""
        return ""

    def _check(self, graph: Graph) -> None:
        for side, wanted, found in (("input", self.inputs, graph.inputs), ("output", self.outputs, graph.outputs)):
            have = {spec.name: spec for spec in found}
            missing = wanted.keys() - have.keys()
            rules = {**wanted, **(self.optional_outputs if side == "output" else self.optional_inputs)}
            wrong = [name for name, rule in rules.items() if name in have and not _obeys(have[name], rule)]
            if missing or wrong or (side == "input" and have.keys() - rules.keys()):
                shown = ", ".join(f"{name}: {rule}" for name, rule in wanted.items())
                more = "".join(f" and perhaps {name}: {rule}" for name, rule in rules.items() if name not in wanted)
                seen = ", ".join(map(str, found)) or "none"
                raise InvalidModel(f"The {side}s of a {self.kind} graph are {shown}{more}; this one has {seen}.")

    def settle(self, options: OptionsT) -> OptionsT:
        """Draw what the caller left to chance, so that all after this depends on the options alone."""
        return options

    @abstractmethod
    def prepare(self, picture: Picture | None, options: OptionsT) -> Prepared:
        """Make the rows of one call. Raises `CorruptImage` and its kin, or `InvalidOption`."""

    def check(self, tensors: Tensors) -> None:
        """Look at rows that a caller made, whose dtypes and shapes are the graph's. Raises `InvalidRequest` where the
        graph would fail on a value."""

    @abstractmethod
    def interpret(self, outputs: Tensors, prepared: Prepared, options: OptionsT) -> list[JsonObject]:
        """Make the results of one call, each in the shape of `Answer`, from the rows that came back."""

    @abstractmethod
    def draw(self, outputs: Tensors, prepared: Prepared, options: OptionsT) -> bytes:
        """Make the answer of one call as one PNG."""

    def agreement(self, outputs: Tensors, other: "Task[Any]", others: Tensors) -> float:
        """The share, 0 to 1, in which another version of a model gives the same for the same rows: here 1 less the mean
        difference of pictures, as a share of a colour's range; or of all numbers in outputs that both have, in equal
        shapes, those that are equal within a hundredth."""
        if self.made:
            mine, theirs = (found[self.made].astype(np.float32) for found in (outputs, others))
            return 1 - float(np.abs(mine - theirs).mean()) / 255 if mine.shape == theirs.shape else 0.0
        shared = [
            (array, others[name])
            for name, array in outputs.items()
            if name in others and others[name].shape == array.shape
        ]
        total = sum(array.size for array, _ in shared)
        close = sum(int(np.isclose(one, two, rtol=0.01, atol=0.01).sum()) for one, two in shared)
        return close / total if total else 0.0

    def _label(self, index: int) -> str:
        return self.labels[index] if index < len(self.labels) else str(index)


class PictureTask(Task[OptionsT]):
    """A task that answers one question about one picture."""

    inputs: ClassVar[Mapping[str, str]] = {"image": "uint8 [N,H,W,C]"}


class FittedTask(PictureTask[OptionsT]):
    """A task whose graph sees the picture in one size: one row in, one result out."""

    def __init__(self, manifest: Manifest, labels: tuple[str, ...], graph: Graph) -> None:
        super().__init__(manifest, labels, graph)
        if manifest.image is None:
            raise InvalidModel(f"The manifest of a {self.kind} model needs 'image': the size that its graph takes.")
        want = self.image_input = manifest.image
        sizes = zip(graph.inputs[0].shape[1:], (want.height, want.width, want.channels), strict=False)
        if any(taken not in (None, given) for taken, given in sizes):
            raise InvalidModel(
                f"The graph takes {graph.inputs[0]}; the manifest says {want.width} x {want.height} pixels of"
                f" {want.channels} channels."
            )

    def prepare(self, picture: Picture | None, options: OptionsT) -> Prepared:
        """Decode and fit the picture: `image` uint8 [1, height, width, channels]."""
        if picture is None:
            raise EmptyBody
        return Prepared({"image": fit(picture, self.image_input)[np.newaxis]}, picture)

    def seen(self, picture: Picture) -> Box:
        """The part of a picture that the graph sees."""
        return visible_box(picture.width, picture.height, self.image_input)


class HeatMap(EncodedImage):
    """Grey PNG, 0 to 255: the brighter, the more the answer rests on that part."""

    box: tuple[int, int, int, int] = Field(description="Part of the picture that it covers: left, top, right, bottom.")


class ExplainedOptions(TaskOptions):
    """Options of a task whose answers can be explained from outside."""

    explain: bool = Field(
        False,
        description=f"Add a heat map of what the answer depends on: the model is asked {1 + GRID**2} times, each time "
        "with another part of the picture hidden, so it costs as much.",
    )


ExplainedT = TypeVar("ExplainedT", bound=ExplainedOptions)


class ExplainedTask(FittedTask[ExplainedT]):
    """A task whose graph cannot tell what its answer depends on: it is asked again, with parts hidden."""

    def prepare(self, picture: Picture | None, options: ExplainedT) -> Prepared:
        """As of every fitted task, or the rows of an explained call."""
        prepared = super().prepare(picture, options)
        if not options.explain:
            return prepared
        return Prepared({}, prepared.picture, Occlusion(prepared.tensors["image"][0], self.evidence))

    @abstractmethod
    def evidence(self, outputs: Tensors, whole: Tensors, hidden: Cell) -> float:
        """What is left of an answer, `app.tasks.occlusion.Evidence`."""

    def heatmap(self, prepared: Prepared) -> JsonObject:
        """A `HeatMap` as a plain dictionary, or None, where that was not asked for, under its name."""
        if not isinstance(prepared.parts, Occlusion) or prepared.picture is None:
            return {}
        heat = prepared.parts.heat()
        picture, box = encoded(encode_png(heat), heat.shape[1], heat.shape[0]), self.seen(prepared.picture)
        return {"heatmap": {**picture, "box": list(box)}}

    def draw_heat(self, prepared: Prepared) -> bytes | None:
        """The picture, in its own size, with its heat map over it; None where that was not asked for."""
        picture, parts = prepared.picture, prepared.parts
        if not isinstance(parts, Occlusion) or picture is None:
            return None
        return encode_png(heat_overlay(picture.decode(), parts.heat(), self.seen(picture)))


def _obeys(spec: TensorSpec, rule: str) -> bool:
    """Whether dtype and number of axes are those of the rule; a graph may leave its axes open."""
    dtype, _, axes = rule.partition(" ")
    return str(spec.dtype) == dtype and len(spec.shape) in (0, axes.count(",") + 1)


def colours(manifest: Manifest, labels: tuple[str, ...]) -> tuple[tuple[int, int, int], ...]:
    """A colour for each value of a byte: what a graph says beyond its labels is drawn, too.

    Raises:
        InvalidModel: the manifest names another number of colours than there are labels.
    """
    if manifest.palette is not None and len(manifest.palette) != len(labels):
        raise InvalidModel(f"The palette has {len(manifest.palette)} colours for {len(labels)} labels.")
    chosen = manifest.palette or tuple(default_palette(len(labels)))
    return chosen + tuple(default_palette(256))[len(chosen) :]


def encoded(data: bytes, width: int, height: int, encoding: str = "png") -> JsonObject:
    """An `EncodedImage` as a plain dictionary."""
    return {"encoding": encoding, "width": width, "height": height, "data": base64.b64encode(data).decode("ascii")}
