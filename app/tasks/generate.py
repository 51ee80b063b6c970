"""Generation: images drawn from a generator, each decided by (model version, seed, index) alone."""

import secrets
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, StrictInt

from app.errors import InvalidModel, InvalidOption, InvalidRequest
from app.imaging.codec import Picture, encode_png
from app.imaging.paint import contact_sheet
from app.manifest import Manifest
from app.tasks.base import EncodedImage, Graph, JsonObject, Prepared, Task, TaskOptions, encoded
from app.tensors import Tensors

MAX_SEED = 2**53 - 1
"""The largest integer that every JSON reader keeps exact (RFC 8259, section 6)."""


Draw = tuple[NDArray[np.float32], int]
"""A latent vector float32 [latent], and a class."""


class GenerateOptions(TaskOptions):
    """Options of `/generate`, in the query or in a JSON body."""

    count: int = Field(1, ge=1, le=64, description="How many images.")
    label: str | StrictInt | None = Field(
        None, alias="class", description="Class by name or number; without it one is drawn for each."
    )
    seed: int | None = Field(None, ge=0, le=MAX_SEED, description="Same seed, same images; without it one is drawn.")
    index: int = Field(0, ge=0, le=2**31, description="Index of the first image of the seed's endless series.")
    to: int | None = Field(
        None, ge=0, le=MAX_SEED, description="Go from the first image of `seed` to that of this one, in `count` steps."
    )
    truncation: float | None = Field(
        None, ge=0.1, le=10, description="Redraw latent values beyond this many standard deviations: less variety."
    )


class Generated(BaseModel):
    """One result of `/generate`."""

    model_config = ConfigDict(populate_by_name=True)

    seed: int
    index: int
    position: float | None = Field(None, description="With `to`: 0 is the image of `seed`, 1 that of `to`.")
    label: str = Field(alias="class")
    image: EncodedImage


class Generate(Task[GenerateOptions]):
    """Graph: `z` float32 [N, latent], `class` int64 [N] -> `image` uint8 [N, H, W, 3]."""

    kind = "generate"
    summary = "Draw new images"
    Options = GenerateOptions
    Answer = Generated
    inputs: ClassVar[Mapping[str, str]] = {"z": "float32 [N,latent]", "class": "int64 [N]"}
    outputs: ClassVar[Mapping[str, str]] = {"image": "uint8 [N,H,W,3]"}
    made = "image"

    def __init__(self, manifest: Manifest, labels: tuple[str, ...], graph: Graph) -> None:
        super().__init__(manifest, labels, graph)
        latent = next((spec.shape[1] for spec in graph.inputs if spec.name == "z" and spec.shape), None)
        if latent is None:
            raise InvalidModel("The input z of a generate graph needs a fixed length.")
        self._latent = latent

    def settle(self, options: GenerateOptions) -> GenerateOptions:
        """Draw the seed where the caller named none."""
        if options.seed is not None:
            return options
        return options.model_copy(update={"seed": secrets.randbelow(MAX_SEED)})

    def prepare(self, picture: Picture | None, options: GenerateOptions) -> Prepared:
        """Latent vectors and classes: `z` float32 [count, latent], `class` int64 [count].

        Raises:
            InvalidOption: the class is no label and no index of one.
        """
        chosen = self._class(options.label)
        draws = self._way(options) if options.to is not None else self._series(options)
        classes = [drawn if chosen is None else chosen for _, drawn in draws]
        return Prepared({"z": np.stack([z for z, _ in draws]), "class": np.array(classes, dtype=np.int64)})

    def _series(self, options: GenerateOptions) -> list[Draw]:
        return [self._drawn(options.seed or 0, options.index + place, options) for place in range(options.count)]

    def _way(self, options: GenerateOptions) -> list[Draw]:
        """From one seed to another, on an arc: on a straight line lie codes that are shorter than any that are drawn
        (White 2016, arXiv 1609.04468). The class is that of the first."""
        begin, drawn = self._drawn(options.seed or 0, options.index, options)
        end, _ = self._drawn(options.to or 0, options.index, options)
        return [(between(begin, end, position), drawn) for position in positions(options.count)]

    def _drawn(self, seed: int, index: int, options: GenerateOptions) -> Draw:
        return latent_row(seed, index, self._latent, len(self.labels), options.truncation)

    def check(self, tensors: Tensors) -> None:
        """Raises `InvalidRequest` where a class is no index of a label: the graph looks it up."""
        classes = tensors["class"].astype(np.int64, copy=False)
        if ((classes < 0) | (classes >= len(self.labels))).any():
            raise InvalidRequest(f"Input 'class' holds indices of labels: 0 to {len(self.labels) - 1}.")

    def interpret(self, outputs: Tensors, prepared: Prepared, options: GenerateOptions) -> list[JsonObject]:
        """One result an image, in the order of their indices."""
        classes, way = prepared.tensors["class"].tolist(), options.to is not None
        return [
            {
                "seed": options.seed,
                "index": options.index if way else options.index + place,
                **({"position": positions(options.count)[place]} if way else {}),
                "class": self._label(classes[place]),
                "image": encoded(encode_png(image), image.shape[1], image.shape[0]),
            }
            for place, image in enumerate(_images(outputs))
        ]

    def draw(self, outputs: Tensors, prepared: Prepared, options: GenerateOptions) -> bytes:
        """The image, or a contact sheet of several."""
        images = _images(outputs)
        return encode_png(images[0] if len(images) == 1 else contact_sheet(list(images)))

    def _class(self, label: str | int | None) -> int | None:
        if label is None:
            return None
        if isinstance(label, str) and label in self.labels:
            return self.labels.index(label)
        text = str(label)
        number = int(text) if len(text) < 10 and text.isascii() and text.isdecimal() else -1
        if 0 <= number < len(self.labels):
            return number
        raise InvalidOption(f"class: {text[:64]!r} is neither a label nor an index; labels: {_all(self.labels)}.")


def positions(count: int) -> list[float]:
    """So many places from 0 to 1, both ends among them where there are two or more."""
    return [round(place / max(1, count - 1), 6) for place in range(count)]


def between(begin: NDArray[np.float32], end: NDArray[np.float32], position: float) -> NDArray[np.float32]:
    """A place on the arc from one vector to another (Shoemake 1985)."""
    lengths = float(np.linalg.norm(begin) * np.linalg.norm(end))
    angle = float(np.arccos(np.clip(np.dot(begin, end) / lengths, -1, 1))) if lengths else 0.0
    if np.sin(angle) < 1e-6:
        return ((1 - position) * begin + position * end).astype(np.float32)
    shares = np.sin([(1 - position) * angle, position * angle]) / np.sin(angle)
    place: NDArray[np.float32] = (shares[0] * begin + shares[1] * end).astype(np.float32)
    return place


def latent_row(seed: int, index: int, latent: int, classes: int, truncation: float | None) -> Draw:
    """The latent vector float32 [latent] and the class of image `index` in the series of `seed`.

    A counter-based generator (Philox 4x64-10, Salmon et al. 2011) keyed by both makes any image of a series as cheap
    as its first. `truncation` redraws values beyond it (Brock et al. 2019, section 3.1).
    """
    random = np.random.Generator(np.random.Philox(key=[seed, index]))
    drawn = int(random.integers(classes))
    z = random.standard_normal(latent, dtype=np.float32)
    while truncation is not None and (beyond := np.abs(z) > truncation).any():
        z[beyond] = random.standard_normal(int(beyond.sum()), dtype=np.float32)
    return z, drawn


def _images(outputs: Tensors) -> NDArray[np.uint8]:
    return outputs["image"].astype(np.uint8, copy=False)


def _all(labels: tuple[str, ...]) -> str:
    return ", ".join(labels[:20]) + (", ..." if len(labels) > 20 else "")
