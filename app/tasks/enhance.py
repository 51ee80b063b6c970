"""Enhancement: the picture that was sent, with less noise or at a larger size."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from app.errors import EmptyBody, ImageTooLarge, InvalidModel, InvalidOption, InvalidRequest
from app.imaging.codec import LONGEST_SIDE, ImageArray, Picture, encode_as
from app.imaging.noise import noise_level
from app.imaging.tiles import Tiles
from app.manifest import Manifest, Tiling
from app.tasks.base import EncodedImage, Graph, JsonObject, PictureTask, Prepared, TaskOptions, encoded
from app.tensors import Tensor, Tensors

STRONGEST = 75.0
MAX_PIXELS = 100_000_000
"""Pixels of the largest result: 300 MB, beside the picture that was sent."""


class EnhanceOptions(TaskOptions):
    """Options of `/enhance`."""

    strength: float | None = Field(
        None, ge=0, le=STRONGEST,
        description="Standard deviation of the noise to take out, in steps of 255; without it, as strong as is found.",
    )  # fmt: skip
    scale: int | None = Field(
        None, ge=1, le=4, description="How many times larger, each way; a model that can is chosen where none is named."
    )
    encoding: Literal["png", "jpeg", "webp"] = Field("png", description="How the picture is encoded.")
    quality: int = Field(90, ge=1, le=100, description="Of JPEG and WebP.")

    @property
    def forms(self) -> tuple[str, ...]:
        """All three, the one that was named first."""
        return self.encoding, *(form for form in ("png", "jpeg", "webp") if form != self.encoding)

    def drawn_as(self, form: str) -> "EnhanceOptions":
        """The same in another encoding."""
        return self.model_copy(update={"encoding": form})

    @property
    def variant(self) -> str:
        """The scale."""
        return "" if self.scale is None else f"scale {self.scale}"


class Enhancement(BaseModel):
    """One result of `/enhance`."""

    strength: float | None = Field(
        None, description="Of the noise that was taken out; null where the model takes none out."
    )
    image: EncodedImage


class EnhanceParts:
    """The tiles of a picture, each with the strength of its noise where the graph asks for one."""

    def __init__(self, image: ImageArray, tiling: Tiling, strength: float | None) -> None:
        self.strength = strength
        self.tiles = Tiles(image, tiling)

    def __len__(self) -> int:
        return len(self.tiles)

    def rows(self, start: int, stop: int) -> Tensors:
        """Tiles uint8 [n,h,w,3], and strengths float32 [n]."""
        rows: dict[str, Tensor] = {"image": self.tiles.rows(start, stop)}
        if self.strength is not None:
            rows["strength"] = np.full(stop - start, self.strength, np.float32)
        return rows

    def take(self, start: int, outputs: Tensors) -> None:
        """Put enhanced tiles where they belong."""
        self.tiles.take(start, outputs["enhanced"].astype(np.uint8, copy=False))

    def outputs(self) -> Tensors:
        """`enhanced` uint8 [1,H*scale,W*scale,3]."""
        return {"enhanced": self.tiles.enhanced[np.newaxis]}


class Enhance(PictureTask[EnhanceOptions]):
    """Graph: `image` uint8 [N,H,W,3], perhaps `strength` float32 [N] -> `enhanced` uint8 [N,H*scale,W*scale,3].

    H and W are free; the manifest's `tiling` says how large they may be, and how far a pixel's result looks.
    """

    kind = "enhance"
    summary = "Take out noise, or enlarge"
    Options = EnhanceOptions
    Answer = Enhancement
    optional_inputs: ClassVar[Mapping[str, str]] = {"strength": "float32 [N]"}
    outputs: ClassVar[Mapping[str, str]] = {"enhanced": "uint8 [N,H,W,3]"}
    made = "enhanced"
    labelled = False

    def __init__(self, manifest: Manifest, labels: tuple[str, ...], graph: Graph) -> None:
        super().__init__(manifest, labels, graph)
        if manifest.tiling is None:
            raise InvalidModel("The manifest of an enhance model needs 'tiling': how large pictures are cut.")
        self.tiling = manifest.tiling
        self._takes_strength = any(spec.name == "strength" for spec in graph.inputs)

    @classmethod
    def variant_of(cls, manifest: Manifest) -> str:
        """The scale."""
        return "" if manifest.tiling is None else f"scale {manifest.tiling.scale}"

    def prepare(self, picture: Picture | None, options: EnhanceOptions) -> Prepared:
        """The whole picture as one row where the graph takes it so, else tiles that are cut as they are run.

        Raises:
            InvalidOption: the model has another scale, or takes no noise out, or the encoding holds no such picture.
            ImageTooLarge: the result would have too many pixels.
        """
        if picture is None:
            raise EmptyBody
        self._refuse(picture, options)
        image = picture.decode()
        strength = options.strength
        if self._takes_strength and strength is None:
            strength = min(STRONGEST, round(noise_level(image), 2))
        parts = EnhanceParts(image, self.tiling, strength)
        if len(parts) == 1:
            return Prepared(parts.rows(0, 1), picture)
        return Prepared({}, picture, parts)

    def _refuse(self, picture: Picture, options: EnhanceOptions) -> None:
        scale = self.tiling.scale
        if options.scale not in (None, scale):
            raise InvalidOption(f"scale: this model's is {scale}; name a model of scale {options.scale}.")
        if options.strength is not None and not self._takes_strength:
            raise InvalidOption("strength: this model takes no noise out; leave it out.")
        longest = LONGEST_SIDE.get(options.encoding)
        if longest is not None and max(picture.width, picture.height) * scale > longest:
            form = options.encoding.upper()
            raise InvalidOption(f"encoding: {form} holds at most {longest} pixels a side; ask for PNG.")
        if picture.pixels * scale**2 > MAX_PIXELS:
            raise ImageTooLarge(MAX_PIXELS // scale**2, (picture.width, picture.height))

    def check(self, tensors: Tensors) -> None:
        """Raises `InvalidRequest` where the graph does not take pictures of this size."""
        height, width = tensors["image"].shape[1:3]
        unit, side = self.tiling.multiple, self.tiling.side
        if not all(unit <= size <= side and size % unit == 0 for size in (height, width)):
            raise InvalidRequest(f"Input 'image': height and width are multiples of {unit}, up to {side}.")

    def interpret(self, outputs: Tensors, prepared: Prepared, options: EnhanceOptions) -> list[JsonObject]:
        """The enhanced picture, encoded."""
        image = self._enhanced(outputs, prepared)
        data = encode_as(image, options.encoding, options.quality)
        found = {"image": encoded(data, image.shape[1], image.shape[0], options.encoding)}
        return [{"strength": self._strength(prepared), **found}]

    def draw(self, outputs: Tensors, prepared: Prepared, options: EnhanceOptions) -> bytes:
        """The enhanced picture in the encoding asked for."""
        return encode_as(self._enhanced(outputs, prepared), options.encoding, options.quality)

    def _enhanced(self, outputs: Tensors, prepared: Prepared) -> NDArray[np.uint8]:
        image: NDArray[np.uint8] = outputs["enhanced"][0].astype(np.uint8, copy=False)
        if prepared.picture is None:
            return image
        scale = self.tiling.scale
        return np.ascontiguousarray(image[: prepared.picture.height * scale, : prepared.picture.width * scale])

    def _strength(self, prepared: Prepared) -> float | None:
        if isinstance(prepared.parts, EnhanceParts):
            return prepared.parts.strength
        strengths = prepared.tensors.get("strength")
        return None if strengths is None else round(float(strengths[0]), 2)
