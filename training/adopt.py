"""Adopt: from a classifier that came as an ONNX file to a version folder, complete or invisible.

The file is asked with plainly normalised floats, row by row; the graph made of it is asked with the bytes, in batches
of several sizes. Only where both say the same is the version written.
"""

import hashlib
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from app.manifest import GRAPH, ImageInput, Manifest, explain
from app.runtime.ort import OrtSession
from app.tensors import Tensor, Tensors
from training import foreign
from training.card import write_adopted_card
from training.export import ExportRefused, complete, draft, next_version, now
from training.foreign import Foreign
from training.onnx_file import parity
from training.version import assemble
from training.wrapping import Pixels, wrap

BATCHES = (1, 2, 3)
"""Rows of the batches that are compared with single rows."""
TOLERANCE = {"float32": 5e-4, "float16": 5e-3}
"""Largest difference of a probability. A ResNet-50 with confident outputs gave 1.4e-4 between batches and single rows,
by rounding alone; rows that depend on one another differ by far more."""
_ROUNDING = 1e-3
"""How far the probabilities of a row may be from 1 in sum, in half precision, too."""


@dataclass(frozen=True)
class Wanted:
    """What the operator says of a file."""

    name: str
    version: int | None = None
    size: tuple[int, int] | None = None
    pixels: Pixels = field(default_factory=Pixels)
    output: str | None = None
    activation: Literal["auto", "softmax", "none"] = "auto"
    labels: Path | None = None
    fit: Literal["stretch", "cover"] = "stretch"
    description: str | None = None
    licence: str = "not stated"


def adopt(file: Path, models: Path, wanted: Wanted) -> Path:
    """Make the next (or the given) version of a model from an ONNX file; return its folder.

    Raises:
        ExportRefused: the file is not that of a classifier that can be served, what was said of it is wrong, or the
            version is there already.
        InvalidModel: ONNX Runtime does not take the file.
    """
    network = foreign.read(file, wanted.output, wanted.size)
    _check_pixels(wanted.pixels, network.channels)
    images = _random_images(sum(BATCHES), network)
    scores = _scores(network, wanted.pixels.plain(images))
    rows = scores.reshape(len(scores), -1).astype(np.float64)
    softmax = _needs_softmax(rows, wanted.activation)
    labels = _labels(wanted.labels, rows.shape[1])
    content = wrap(network, wanted.pixels, scores, softmax)
    agreed = _compare(_softmax(rows) if softmax else rows, _answers(content, images, network), network)
    home = models / wanted.name
    manifest = _manifest(file, network, wanted, wanted.version or next_version(home), softmax, agreed)
    with draft(home, manifest.version) as folder:
        (folder / GRAPH).write_bytes(content)
        assemble(manifest, labels, content, folder)
        complete(folder, manifest, labels, write_adopted_card(manifest))
    return home / str(manifest.version)


def _check_pixels(pixels: Pixels, channels: int) -> None:
    for name, numbers in (("--mean", pixels.mean), ("--std", pixels.std)):
        if len(numbers) not in (1, channels) or not np.isfinite(numbers).all():
            raise ExportRefused(f"{name} takes one number, or one for each of the {channels} channels of the file")
    if min(pixels.std) <= 0:
        raise ExportRefused("--std takes numbers above 0")
    if max(pixels.mean) > pixels.input_range:
        raise ExportRefused(
            f"--mean lies beyond {pixels.input_range}, the largest pixel value: means of 0..255 need --input-range 255"
        )
    if channels == 1 and pixels.channels == "bgr":
        raise ExportRefused("--channels bgr is for pictures in colour; the file takes grey ones")


def _random_images(count: int, network: Foreign) -> NDArray[np.uint8]:
    """Noise around a colour of its own in each image, so that answers differ: uint8 [N,H,W,C]."""
    random = np.random.default_rng(0)
    colours = random.integers(0, 128, (count, 1, 1, network.channels), dtype=np.uint8)
    noise = random.integers(0, 128, (count, network.height, network.width, network.channels), dtype=np.uint8)
    return colours + noise


def _scores(network: Foreign, pictures: NDArray[np.float32]) -> Tensor:
    """What the file itself answers to each picture, in the batch size that it insists on or else one by one."""
    session, step = OrtSession(network.content), network.batch or 1
    parts = []
    for start in range(0, len(pictures), step):
        rows = np.resize(pictures[start : start + step], (step, *pictures.shape[1:])).astype(network.dtype)
        parts.append(_run(session, {network.input: rows}, network.output, "the file fails on random pictures"))
    scores = np.concatenate(parts)[: len(pictures)]
    one_each = scores.ndim > 1 and scores.shape[0] == len(pictures) and scores.size == len(pictures) * scores.shape[1]
    if scores.dtype.kind != "f" or not one_each:
        raise ExportRefused(
            f"{network.output} is {scores.dtype} {list(scores.shape)} for {len(pictures)} pictures:"
            " not a row of scores for each"
        )
    if not np.isfinite(scores).all():
        raise ExportRefused(
            f"{network.output} is not finite for random pictures: check --mean, --std and --input-range"
        )
    return scores


def _run(session: OrtSession, tensors: Tensors, output: str, sentence: str) -> Tensor:
    try:
        return session.run(tensors)[output]
    except Exception as error:  # onnxruntime raises its own classes for each status, all straight from Exception
        raise ExportRefused(f"{sentence}: {str(error).splitlines()[0][:300]}") from error


def _needs_softmax(rows: NDArray[np.float64], activation: str) -> bool:
    """Whether the scores [N,C] are no probabilities yet."""
    if rows.shape[1] < 2:
        raise ExportRefused(
            "the file gives one score a picture, a yes or no: classify needs one for each of the labels"
        )
    if activation == "softmax":
        return True
    bounded = bool((rows >= 0).all() and (rows <= 1 + _ROUNDING).all())
    if bounded and np.allclose(rows.sum(1), 1, atol=_ROUNDING):
        return False
    if activation == "none":
        raise ExportRefused("the rows of the file are no probabilities: they are negative, or their sum is not 1")
    if bounded:
        raise ExportRefused(
            "every score lies in 0..1 and the rows do not add up to 1, as those of a sigmoid for several labels a"
            " picture do, which classify does not serve; if they are logits all the same, say --activation softmax"
        )
    return True


def _softmax(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(rows - rows.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def _answers(content: bytes, images: NDArray[np.uint8], network: Foreign) -> Tensor:
    """What the graph for serving answers to the images, in batches of 1, 2 and 3."""
    subject = "the file" if network.batch is None else f"the file insists on batches of {network.batch} and"
    sentence = f"{subject} fails in batches of 1, 2 and 3 (export it with a dynamic batch axis)"
    session = OrtSession(content)
    parts = np.split(images, np.cumsum(BATCHES)[:-1])
    answers = [_run(session, {"image": part}, "probabilities", sentence) for part in parts]
    if [len(answer) for answer in answers] != list(BATCHES):
        raise ExportRefused(f"{subject} does not answer each row of a batch: export it with a dynamic batch axis")
    return np.concatenate(answers)


def _compare(expected: NDArray[np.float64], found: Tensor, network: Foreign) -> dict[str, float]:
    """How far the graph for serving is from the file."""
    figures = parity({"probabilities": expected}, {"probabilities": found})
    apart, agreed = figures["probabilities_max_abs_diff"], figures["top1_agreement"]
    if apart > TOLERANCE[network.dtype] or agreed < 1:
        raise ExportRefused(
            f"in batches of {BATCHES} the graph for serving answers otherwise than the file does row by row (by"
            f" {apart:.2g}, with {agreed:.0%} of the top classes): the rows of a batch seem to depend on one another"
        )
    return figures


def _labels(file: Path | None, count: int) -> tuple[str, ...]:
    """One label a line; without a file they are numbered."""
    if file is None:
        return tuple(f"class {index}" for index in range(count))
    try:
        labels = tuple(file.read_text(encoding="utf-8-sig").splitlines())
    except OSError as error:
        raise ExportRefused(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ExportRefused(f"{file} is not UTF-8 text") from None
    if len(labels) != count:
        raise ExportRefused(f"{file} has {len(labels)} labels, one a line; the file tells {count} classes apart")
    return labels


def _manifest(
    file: Path, network: Foreign, wanted: Wanted, version: int, softmax: bool, agreed: dict[str, float]
) -> Manifest:
    """Everything but the digests."""
    pixels = wanted.pixels
    origin: dict[str, Any] = {
        "command": _command(wanted),
        "file": file.name,
        "sha256": hashlib.sha256(network.content).hexdigest(),
        "producer": f"{network.proto.producer_name} {network.proto.producer_version}".strip() or "not stated",
        "opset": network.opset,
        "output": network.output,
        "activation": "softmax" if softmax else "none",
        "mean": list(pixels.mean),
        "std": list(pixels.std),
        "input_range": pixels.input_range,
        "channels": pixels.channels if network.channels == 3 else "grey",
    }
    try:
        image = ImageInput.model_validate(
            {"width": network.width, "height": network.height, "channels": network.channels, "fit": wanted.fit}
        )
        return Manifest(
            name=wanted.name, version=version, task="classify", licence=wanted.licence,
            description=wanted.description or f"{file.name}, adopted",
            image=image, training=origin, parity=agreed, files={}, created=now(),
        )  # fmt: skip
    except ValidationError as error:
        raise ExportRefused(explain(error, Manifest)) from None


def _command(wanted: Wanted) -> str:
    """The command that repeats this, without paths of this machine."""
    options = {
        "name": wanted.name,
        "size": "x".join(map(str, wanted.size or ())),
        "mean": ",".join(map(str, wanted.pixels.mean)),
        "std": ",".join(map(str, wanted.pixels.std)),
        "input-range": str(wanted.pixels.input_range),
        "channels": wanted.pixels.channels,
        "output": wanted.output or "",
        "activation": wanted.activation,
        "labels": wanted.labels.name if wanted.labels else "",
        "fit": wanted.fit,
    }
    said = [f"--{name} {shlex.quote(value)}" for name, value in options.items() if value]
    return " ".join(["imago-train adopt FILE", *said])
