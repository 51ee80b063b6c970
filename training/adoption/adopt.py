"""Adopt: from a network that came as an ONNX file to a version folder, complete or invisible.

The file is asked by itself, row by row, and what it means is computed from its answers in numpy; the graph made of it
is asked in batches of several sizes. Only where both say the same is the version written.
"""

import hashlib
import shlex
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from app.manifest import GRAPH, Manifest, explain
from app.runtime.ort import OrtSession
from app.tensors import Tensor, Tensors
from training.adoption import foreign
from training.adoption.drawn import generate_tail
from training.adoption.foreign import Foreign
from training.adoption.found import detect_tail
from training.adoption.fronts import Front, latent_front, picture_front
from training.adoption.maps import segment_tail
from training.adoption.tails import Ask, Tail, classify_tail
from training.adoption.wanted import Boxes, Pixels, Wanted
from training.adoption.wrapping import wrap
from training.card import write_adopted_card
from training.export import ExportRefused, complete, draft, next_version, now
from training.onnx_file import parity
from training.version import assemble

BATCHES = (1, 2, 3)
"""Rows of the batches that are compared with single rows."""
_OPSETS = {"classify": 7, "segment": 13, "detect": 13, "generate": 13}
"""Least version of ai.onnx: from 7 on Mul and Add broadcast and ONNX Runtime runs it; from 13 on Softmax goes along one
axis, and axes come as inputs."""
_OWN: Mapping[str, set[str]] = {
    "size": {"classify", "segment", "detect"},
    "activation": {"classify", "segment", "detect"},
    "fit": {"classify", "detect"},  # segmenters label every pixel: pictures are stretched
    "boxes": {"detect"},
    "latent": {"generate"},
    "output_range": {"generate"},
}
"""The tasks to which something that may be said is of use; all else is to all."""


def adopt(file: Path, models: Path, wanted: Wanted) -> Path:
    """Make the next (or the given) version of a model from an ONNX file; return its folder.

    Raises:
        ExportRefused: the file is not one that can be served, what was said of it is wrong, or the version is there
            already.
        InvalidModel: ONNX Runtime does not take the file.
    """
    _check_said(wanted)
    network, labels = foreign.read(file, _OPSETS[wanted.task]), _labels(wanted.labels)
    count = None if labels is None else len(labels)
    rows = sum(BATCHES)
    front = (
        latent_front(network, wanted, count, rows)
        if wanted.task == "generate"
        else picture_front(network, wanted, rows)
    )
    ask = _asking(network, front)
    tail = _TAILS[wanted.task](network, front, wanted, ask, count)
    chosen = _fitting(labels, wanted, tail.labels)
    content = wrap(network, front, tail)
    agreed = _compare(tail, _answers(content, front, tail), front)
    home = models / wanted.name
    manifest = _manifest(file, network, wanted, wanted.version or next_version(home), front, tail, agreed)
    with draft(home, manifest.version) as folder:
        (folder / GRAPH).write_bytes(content)
        assemble(manifest, chosen, content, folder)
        complete(folder, manifest, chosen, write_adopted_card(manifest))
    return home / str(manifest.version)


_TAILS: Mapping[str, Callable[[Foreign, Front, Wanted, Ask, int | None], Tail]] = {
    "classify": classify_tail,
    "segment": segment_tail,
    "detect": detect_tail,
    "generate": generate_tail,
}


def _check_said(wanted: Wanted) -> None:
    """Refuse what the task has no use for."""
    plain = Wanted(wanted.name)
    for name, tasks in _OWN.items():
        if wanted.task not in tasks and getattr(wanted, name) != getattr(plain, name):
            flag = "--box-format, --suppress and their like" if name == "boxes" else f"--{name.replace('_', '-')}"
            raise ExportRefused(f"{flag} is of use for {', '.join(sorted(tasks))} alone, not for {wanted.task}")


def _asking(network: Foreign, front: Front) -> Ask:
    """A function that runs the file on the random rows, in the batch size that it insists on or else one by one, and
    hands out what each of its outputs said."""
    session, step = OrtSession(network.content), front.batch or 1
    count = len(next(iter(front.plain.values())))
    parts: dict[str, list[Tensor]] = {name: [] for name in network.outputs}
    for start in range(0, count, step):
        rows = {
            name: np.resize(values[start : start + step], (step, *values.shape[1:])).astype(values.dtype)
            for name, values in front.plain.items()
        }
        for name, values in _run(session, rows, "the file fails on random rows").items():
            parts[name].append(values)
    return partial(_whole, parts, count, step)


def _whole(parts: Mapping[str, list[Tensor]], count: int, step: int, name: str) -> Tensor:
    shapes = {part.shape[1:] for part in parts[name]}
    if len(shapes) > 1 or any(part.ndim == 0 for part in parts[name]):
        seen = ", ".join(str(list(shape)) for shape in sorted(shapes))
        raise ExportRefused(
            f"{name} has another shape for other rows ({seen}): export the file so that it always gives as much"
        )
    whole = np.concatenate(parts[name])
    return whole[:count] if len(parts[name][0]) == step else whole


def _run(session: OrtSession, tensors: Tensors, sentence: str) -> Tensors:
    try:
        return session.run(tensors)
    except Exception as error:  # onnxruntime raises its own classes for each status, all straight from Exception
        raise ExportRefused(f"{sentence}: {str(error).splitlines()[0][:300]}") from error


def _answers(content: bytes, front: Front, tail: Tail) -> Tensors:
    """What the graph for serving answers to the rows, in batches of 1, 2 and 3."""
    subject = "the file" if front.batch is None else f"the file insists on batches of {front.batch} and"
    sentence = f"{subject} fails in batches of 1, 2 and 3 (export it with a dynamic batch axis)"
    session, ends = OrtSession(content), np.cumsum(BATCHES)[:-1]
    parts = {name: np.split(values, ends) for name, values in front.served.items()}
    answers = [
        _run(session, {name: rows[place] for name, rows in parts.items()}, sentence) for place in range(len(BATCHES))
    ]
    names = [value.name for value in tail.outputs]
    if any(len(answer[name]) != count for answer, count in zip(answers, BATCHES, strict=True) for name in names):
        raise ExportRefused(f"{subject} does not answer each row of a batch: export it with a dynamic batch axis")
    return {name: np.concatenate([answer[name] for answer in answers]) for name in names}


def _compare(tail: Tail, found: Tensors, front: Front) -> dict[str, float]:
    """How far the graph for serving is from the file."""
    shapes = [(list(found[name].shape), list(values.shape)) for name, values in tail.expected.items()]
    figures = parity(tail.expected, found) if all(one == other for one, other in shapes) else {}
    for name, limit in tail.limits.items():
        apart = figures.get(name, float("nan"))
        if not (apart <= limit if name.endswith("diff") else apart >= limit):
            raise ExportRefused(
                f"in batches of {BATCHES} the graph for serving answers otherwise than the file does row by row"
                f" ({name} is {apart:.2g}): the rows of a batch seem to depend on one another"
            )
    return figures


def _labels(file: Path | None) -> tuple[str, ...] | None:
    """One label a line."""
    if file is None:
        return None
    try:
        return tuple(file.read_text(encoding="utf-8-sig").splitlines())
    except OSError as error:
        raise ExportRefused(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ExportRefused(f"{file} is not UTF-8 text") from None


def _fitting(labels: tuple[str, ...] | None, wanted: Wanted, count: int) -> tuple[str, ...]:
    """As many as the file has classes; where none were given they are numbered."""
    if labels is None:
        return tuple(f"class {index}" for index in range(count))
    if len(labels) != count:
        hint = (
            " (--background says which of its classes means that there is nothing)" if wanted.task == "detect" else ""
        )
        raise ExportRefused(
            f"{wanted.labels} has {len(labels)} labels, one a line; the file tells {count} classes apart{hint}:"
            " give --labels another file"
        )
    return labels


def _manifest(
    file: Path, network: Foreign, wanted: Wanted, version: int, front: Front, tail: Tail, agreed: dict[str, float]
) -> Manifest:
    """Everything but the digests."""
    pixels = wanted.pixels
    origin: dict[str, Any] = {
        "command": _command(wanted),
        "file": file.name,
        "sha256": hashlib.sha256(network.content).hexdigest(),
        "producer": f"{network.proto.producer_name} {network.proto.producer_version}".strip() or "not stated",
        "opset": network.opset,
        **tail.facts,
    }
    if front.image is not None:
        origin |= {
            "mean": list(pixels.mean),
            "std": list(pixels.std),
            "input_range": pixels.input_range,
            "channels": pixels.channels if front.image.channels == 3 else "grey",
            "layout": wanted.layout,
        }
    try:
        return Manifest(
            name=wanted.name, version=version, task=wanted.task, licence=wanted.licence,
            description=wanted.description or f"{file.name}, adopted",
            image=front.image, training=origin, parity=agreed, files={}, created=now(),
        )  # fmt: skip
    except ValidationError as error:
        raise ExportRefused(explain(error, Manifest)) from None


def _command(wanted: Wanted) -> str:
    """The command that repeats this, without paths of this machine and without what is so anyway."""
    said, plain = _options(wanted), _options(Wanted(""))
    words = [f"--{name} {shlex.quote(value)}" for name, value in said.items() if value != plain[name]]
    return " ".join(["imago-train adopt FILE", *words])


def _options(wanted: Wanted) -> dict[str, str]:
    pixels: Pixels = wanted.pixels
    boxes: Boxes = wanted.boxes
    return {
        "name": wanted.name,
        "task": wanted.task,
        "size": "x".join(map(str, wanted.size or ())),
        "layout": wanted.layout,
        "mean": ",".join(map(str, pixels.mean)),
        "std": ",".join(map(str, pixels.std)),
        "input-range": str(pixels.input_range),
        "channels": pixels.channels,
        "output": wanted.output or "",
        "activation": wanted.activation,
        "boxes": boxes.output or "",
        "classes": boxes.classes or "",
        "box-format": boxes.form,
        "box-unit": boxes.unit,
        "background": boxes.background,
        "suppress": "" if boxes.suppress is None else f"{boxes.suppress:g}",
        "latent": wanted.latent or "",
        "output-range": wanted.output_range,
        "labels": wanted.labels.name if wanted.labels else "",
        "fit": wanted.fit,
    }
