"""Embedding: what a picture shows as a vector of length 1; pictures of like things have vectors that lie close."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from pydantic import BaseModel, Field

from app.errors import InferenceFailed, InvalidModel, NotAcceptable
from app.manifest import Manifest
from app.tasks.base import FittedTask, Graph, JsonObject, Prepared, TaskOptions
from app.tensors import Tensors

_DECIMALS = 7
"""Of each number in an answer: as many as single precision has near 0.1; all digits would be twice the bytes."""


class EmbedOptions(TaskOptions):
    """`/embed` has no options."""

    @property
    def forms(self) -> tuple[str, ...]:
        """None: nothing is drawn."""
        return ()


class Embedding(BaseModel):
    """One result of `/embed`."""

    embedding: list[float] = Field(
        description="A vector of length 1. The inner product of two of one version is their cosine similarity."
    )


class Embed(FittedTask[EmbedOptions]):
    """Graph: `image` -> `embedding` [N, D], each row of length 1."""

    kind = "embed"
    summary = "Turn a picture into a vector that lies close to those of like pictures"
    Options = EmbedOptions
    Answer = Embedding
    outputs: ClassVar[Mapping[str, str]] = {"embedding": "float32 [N,D]"}
    labelled = False

    def __init__(self, manifest: Manifest, labels: tuple[str, ...], graph: Graph) -> None:
        super().__init__(manifest, labels, graph)
        if any(spec.name == "embedding" and spec.shape[1:] == (0,) for spec in graph.outputs):
            raise InvalidModel("The embeddings of this graph have no numbers.")

    def interpret(self, outputs: Tensors, prepared: Prepared, options: EmbedOptions) -> list[JsonObject]:
        """The vector of one row.

        Raises:
            InferenceFailed: it is no vector of length 1, as with a picture that makes the graph divide by zero.
        """
        vector = outputs["embedding"][0].astype(np.float64)
        if not abs(float(vector @ vector) - 1) < 1e-2:  # nor where it is no number
            raise InferenceFailed
        return [{"embedding": vector.round(_DECIMALS).tolist()}]

    def draw(self, outputs: Tensors, prepared: Prepared, options: EmbedOptions) -> bytes:
        """Raises NotAcceptable: there is nothing to draw."""
        raise NotAcceptable("An embedding is not drawn: accept application/json.")
