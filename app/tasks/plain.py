"""Tensors in, tensors out: a graph of which nobody said what it means. It has no route: protocol v2 serves it."""

from collections.abc import Mapping
from typing import ClassVar, NoReturn

from pydantic import BaseModel

from app.errors import InvalidRequest
from app.imaging.codec import Picture
from app.manifest import PLAIN, Manifest
from app.tasks.base import Graph, JsonObject, Prepared, Task, TaskOptions
from app.tensors import Tensors


class Plain(Task[TaskOptions]):
    """Graph: anything. Where all first axes vary they are rows, which may share a batch with others; any other graph is
    run for each request alone, and shown as one row (`app.runtime.whole`)."""

    kind = PLAIN
    summary = "Run a graph on tensors"
    Options = TaskOptions
    Answer = BaseModel
    inputs: ClassVar[Mapping[str, str]] = {}
    outputs: ClassVar[Mapping[str, str]] = {}

    def __init__(self, manifest: Manifest, labels: tuple[str, ...], graph: Graph) -> None:
        self.labels = labels
        self.whole = graph.inputs[0].shape[0] is not None

    def prepare(self, picture: Picture | None, options: TaskOptions) -> NoReturn:
        """Raises `InvalidRequest`: nobody knows what a picture is to it."""
        raise InvalidRequest("This model takes tensors: POST /v2/models/NAME/infer.")

    def interpret(self, outputs: Tensors, prepared: Prepared, options: TaskOptions) -> list[JsonObject]:
        """As `prepare`."""
        self.prepare(None, options)

    def draw(self, outputs: Tensors, prepared: Prepared, options: TaskOptions) -> bytes:
        """As `prepare`."""
        self.prepare(None, options)
