"""What every peer does with a picture: decode, resize, normalise, run ONNX Runtime, answer the five best classes.

All peers share these lines, so that they differ in how they serve and in nothing else. Needs numpy, Pillow and
onnxruntime only.
"""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True)
class Network:
    """What a network takes: pictures of `side` x `side` pixels in Pillow's `mode`, normalised by channel."""

    side: int
    mode: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NETWORKS = {
    "tiny": Network(28, "L", (0.1307,), (0.3081,)),
    "cifar": Network(32, "RGB", *_IMAGENET),
    "resnet50": Network(224, "RGB", *_IMAGENET),
}


@dataclass(frozen=True)
class Settings:
    """How a peer is to run; each comes as a variable, `PEER_PORT` and so on."""

    network: str
    file: Path
    port: int
    workers: int
    threads: int
    """Of one ONNX Runtime session; 0 for its own default."""
    max_batch: int
    delay_ms: float
    """How long a batch may wait to fill."""
    scratch: Path
    """An empty folder for files that the server needs."""

    @classmethod
    def from_environment(cls) -> "Settings":
        """Read the variables that `benchmarks.servers` sets."""
        given = {name.removeprefix("PEER_").lower(): value for name, value in os.environ.items() if name[:5] == "PEER_"}
        return cls(
            network=given["network"],
            file=Path(given["file"]),
            port=int(given["port"]),
            workers=int(given["workers"]),
            threads=int(given["threads"]),
            max_batch=int(given["max_batch"]),
            delay_ms=float(given["delay_ms"]),
            scratch=Path(given["scratch"]),
        )


class Classifier:
    """One ONNX Runtime session, and the arithmetic before and after it."""

    def __init__(self, network: Network, file: Path, threads: int, draft: bool = False) -> None:
        self._network = network
        self._draft = draft
        # x / 255 / std - mean / std as one multiplication and one addition.
        self._scale = (1 / (255 * np.array(network.std))).astype(np.float32)
        self._shift = (-np.array(network.mean) / np.array(network.std)).astype(np.float32)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    @classmethod
    def from_environment(cls) -> "Classifier":
        """The classifier that the variables ask for."""
        settings = Settings.from_environment()
        return cls(NETWORKS[settings.network], settings.file, settings.threads)

    def prepare(self, data: bytes) -> NDArray[np.float32]:
        """Encoded picture to float32 [channels, side, side]."""
        return self.prepare_opened(Image.open(io.BytesIO(data)))

    def prepare_opened(self, picture: Image.Image) -> NDArray[np.float32]:
        """Opened picture to float32 [channels, side, side]; with `draft` a JPEG is decoded at a smaller scale."""
        side, mode = self._network.side, self._network.mode
        if self._draft:
            picture.draft(mode, (side, side))
        if picture.mode != mode:
            picture = picture.convert(mode)
        if picture.size != (side, side):
            picture = picture.resize((side, side), Image.Resampling.BILINEAR)
        pixels = np.asarray(picture, np.float32) * self._scale + self._shift
        return pixels[None] if mode == "L" else np.ascontiguousarray(pixels.transpose(2, 0, 1))

    def run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Prepared pictures float32 [N, channels, side, side] to probabilities float32 [N, classes]."""
        outputs: list[Any] = self._session.run(None, {self._input: batch})
        probabilities: NDArray[np.float32] = outputs[0]
        return probabilities

    def answers(self, pictures: Sequence[bytes]) -> list[dict[str, Any]]:
        """The answer to each of some encoded pictures, run as one batch."""
        return [best_five(row) for row in self.run(np.stack([self.prepare(data) for data in pictures]))]


def best_five(probabilities: NDArray[np.float32]) -> dict[str, Any]:
    """The five most probable classes of float32 [classes], best first."""
    best = np.argsort(probabilities)[::-1][:5]
    return {"top5": [{"class": int(index), "p": float(probabilities[index])} for index in best]}
