"""What the operator says of a foreign file, and how pixels became what its network was trained on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["classify", "segment", "detect", "generate"]
Layout = Literal["nchw", "nhwc"]
Activation = Literal["auto", "softmax", "sigmoid", "none"]
BoxFormat = Literal["xyxy", "yxyx", "xywh", "cxcywh"]
Unit = Literal["auto", "pixels", "fractions"]
Background = Literal["none", "first", "last"]
Range = Literal["auto", "-1..1", "0..1", "0..255"]

RANGES: Mapping[str, tuple[float, float]] = {"-1..1": (-1.0, 1.0), "0..1": (0.0, 1.0), "0..255": (0.0, 255.0)}


@dataclass(frozen=True)
class Pixels:
    """What the network was trained on: `(byte / 255 * input_range - mean) / std`, channel by channel in its own order.

    `mean` and `std` hold one number for all channels, or one for each.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    input_range: Literal[1, 255] = 1
    channels: Literal["rgb", "bgr"] = "rgb"

    def plain(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Images uint8 [N,H,W,C] the way training code writes it, to float32 [N,H,W,C]."""
        ordered = images[..., ::-1] if self.channels == "bgr" else images
        values = ordered.astype(np.float32) / np.float32(255) * np.float32(self.input_range)
        return np.ascontiguousarray((values - np.array(self.mean, np.float32)) / np.array(self.std, np.float32))

    def folded(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The same as one multiplication and one addition: scale and shift of a byte."""
        mean, std = np.array(self.mean), np.array(self.std)
        return self.input_range / (255 * std), -mean / std


@dataclass(frozen=True)
class Boxes:
    """How a detector says where things are."""

    output: str | None = None
    """The output with four numbers a box; None where it is told by its shape."""
    classes: str | None = None
    """The output with the class of each box, where the file has already chosen one."""
    form: BoxFormat = "xyxy"
    unit: Unit = "auto"
    background: Background = "none"
    """Which class means that there is nothing."""
    suppress: float | None = None
    """IoU from which on the surer of two boxes of a class stays alone; None where that was not said."""


@dataclass(frozen=True)
class Wanted:
    """All of it; what a task does not know is left as it is."""

    name: str
    version: int | None = None
    task: Kind = "classify"
    size: tuple[int, int] | None = None
    layout: Layout = "nchw"
    pixels: Pixels = field(default_factory=Pixels)
    output: str | None = None
    activation: Activation = "auto"
    boxes: Boxes = field(default_factory=Boxes)
    latent: str | None = None
    output_range: Range = "auto"
    labels: Path | None = None
    fit: Literal["stretch", "cover"] = "stretch"
    description: str | None = None
    licence: str = "not stated"
