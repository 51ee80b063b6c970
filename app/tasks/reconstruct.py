"""Reconstruction: a picture said again by a model that knows one kind of picture, and how far it is from that kind."""

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from app.imaging.codec import encode_png
from app.imaging.paint import heat_overlay
from app.tasks.base import EncodedImage, ExplainedOptions, ExplainedTask, HeatMap, JsonObject, Prepared, encoded
from app.tasks.occlusion import Cell
from app.tensors import Tensors


class ReconstructOptions(ExplainedOptions):
    """Options of `/reconstruct`."""

    render: Literal["reconstruction", "error"] = Field(
        "reconstruction",
        description="What `Accept: image/png` gives: the reconstruction, or the picture with its errors as a heat map.",
    )


class Reconstruction(BaseModel):
    """One result of `/reconstruct`."""

    score: float | None = Field(
        description="High for pictures unlike those of the training set; null where what the model gave is no number."
    )
    image: EncodedImage = Field(description="The reconstruction, in the size of the model.")
    error: EncodedImage = Field(description="Grey, the same size: how far each pixel is from what was sent, 0 to 255.")
    box: tuple[int, int, int, int] = Field(description="Part of the picture that they cover: left, top, right, bottom.")
    heatmap: HeatMap | None = None


class Reconstruct(ExplainedTask[ReconstructOptions]):
    """Graph: `image` -> `reconstruction` uint8 [N,H,W,3], `error` uint8 [N,H,W], `score` float32 [N]."""

    kind = "reconstruct"
    summary = "Say a picture again, and how unlike the known ones it is"
    Options = ReconstructOptions
    Answer = Reconstruction
    outputs: ClassVar[Mapping[str, str]] = {
        "reconstruction": "uint8 [N,H,W,3]", "error": "uint8 [N,H,W]", "score": "float32 [N]",
    }  # fmt: skip
    made = "reconstruction"
    labelled = False

    def interpret(self, outputs: Tensors, prepared: Prepared, options: ReconstructOptions) -> list[JsonObject]:
        """Score, reconstruction and errors of one row."""
        score = float(outputs["score"][0])
        pictures = {name: _bytes(outputs, key) for name, key in (("image", "reconstruction"), ("error", "error"))}
        return [
            {
                "score": round(score, 6) if math.isfinite(score) else None,
                **{
                    name: encoded(encode_png(pixels), pixels.shape[1], pixels.shape[0])
                    for name, pixels in pictures.items()
                },
                "box": list(self._box(prepared)),
                **self.heatmap(prepared),
            }
        ]

    def draw(self, outputs: Tensors, prepared: Prepared, options: ReconstructOptions) -> bytes:
        """The reconstruction, or the picture in its own size with the errors or what the score rests on over it."""
        if (explained := self.draw_heat(prepared)) is not None:
            return explained
        if options.render == "reconstruction":
            return encode_png(_bytes(outputs, "reconstruction"))
        if prepared.picture is None:
            raise TypeError("errors are drawn over a picture")
        return encode_png(heat_overlay(prepared.picture.decode(), _bytes(outputs, "error"), self._box(prepared)))

    def evidence(self, outputs: Tensors, whole: Tensors, hidden: Cell) -> float:
        """The share of the score that is left: what is strange is in the cells without which it falls."""
        return float(outputs["score"][0]) / max(float(whole["score"][0]), 1e-12)

    def _box(self, prepared: Prepared) -> tuple[int, int, int, int]:
        if prepared.picture is None:
            return (0, 0, self.image_input.width, self.image_input.height)
        return self.seen(prepared.picture)


def _bytes(outputs: Tensors, name: str) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = outputs[name][0].astype(np.uint8, copy=False)
    return pixels
