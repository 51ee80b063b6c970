"""Quantise: an exported version in whole numbers (INT8, for CPUs) or half precision (for GPUs), as the next version.

INT8 is ONNX Runtime's static quantisation (QDQ, Jacob et al. 2018, arXiv 1712.05877), with ranges found on training
pictures. What is gained and lost is measured, and a version that is not better is not made unless asked for.
"""

import logging
import platform
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

from app.errors import InvalidModel
from app.manifest import GRAPH, Manifest, read_labels, read_verified
from app.runtime import Choices, Ready, make_ready
from app.runtime.cores import usable_cores
from app.runtime.ort import OrtSession
from app.runtime.probe import noise, seconds_per_batch
from training import onnx_file
from training.card import write_optimised_card
from training.data import BrokenData
from training.export import ExportRefused, complete, draft, next_version, now
from training.recipe import Recipe
from training.recipes import RECIPES
from training.version import Version, assemble, open_version

Precision = Literal["int8", "fp16"]
_QUANTISED = ["Conv", "Add", "MaxPool", "Relu", "Concat"]
"""Operators in whole numbers: heads, softmax and what resizes stay in floating point."""
_KEPT_FLOAT = [*DEFAULT_OP_BLOCK_LIST, "Softmax", "ReduceLogSumExp", "LpNormalization", "ReduceL2", "Div"]
"""Operators that stay in single precision in an fp16 graph: ranges and small differences matter there."""


@dataclass(frozen=True)
class Measured:
    """One version: bytes, score, milliseconds of a row alone, of one among sixteen, and of one in the best batch."""

    size: int
    score: float
    lone_ms: float
    sixteen_ms: float
    row_ms: float


@dataclass(frozen=True)
class Gain:
    """A version beside the one that it was made from."""

    folder: Path
    recipe: Recipe[Any]
    headline: str
    before: Measured
    after: Measured

    @property
    def lost(self) -> float:
        """How much worse the headline is; negative where it is better."""
        fallen = self.before.score - self.after.score
        return -fallen if self.recipe.less_is_better else fallen

    def told(self, score: float) -> str:
        """A headline score, or a difference of two, in its unit."""
        return f"{100 * score:.2f} %" if self.recipe.unit == "%" else f"{score:.4g} {self.recipe.unit}".rstrip()

    def table(self) -> str:
        """Both as Markdown."""
        lines = [
            ("", "before", "after"),
            ("---", "---", "---"),
            ("size", f"{self.before.size / 1e6:.1f} MB", f"{self.after.size / 1e6:.1f} MB"),
            (self.headline, self.told(self.before.score), self.told(self.after.score)),
            ("one row", f"{self.before.lone_ms:.3g} ms", f"{self.after.lone_ms:.3g} ms"),
            ("a row among 16", f"{self.before.sixteen_ms:.3g} ms", f"{self.after.sixteen_ms:.3g} ms"),
            ("a row in the best batch", f"{self.before.row_ms:.3g} ms", f"{self.after.row_ms:.3g} ms"),
        ]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def quantize(
    folder: Path,
    data: Path,
    precision: Precision = "int8",
    pictures: int = 512,
    loss: float = 0.005,
    force: bool = False,
) -> Gain:
    """Make the next version of a model from one that is there.

    `loss` is how far the headline score may fall. With `force` a version is made that loses more, or is not faster.

    Raises:
        InvalidModel: no recipe made the version, so that nothing could tell what it is worth.
        ExportRefused: it would be worse, or no faster.
        BrokenData: there are no pictures to find ranges on, or none to score with.
    """
    folder = folder.absolute()  # its parent is asked for, and `.` has none
    version = open_version(folder)
    recipe = RECIPES.get(str(version.manifest.training.get("recipe")))
    if recipe is None:
        raise InvalidModel(f"{version.manifest.name} was made by no recipe, so nothing tells what it would lose.")
    labels = read_labels(folder, version.manifest)
    content = read_verified(folder, version.manifest, GRAPH)
    rows = prepared(version, recipe.training_pictures(data), pictures) if precision == "int8" else {}
    made = whole_numbers(content, rows) if precision == "int8" else half_precision(content)
    number = next_version(folder.parent)
    manifest = _manifest(version.manifest, number, precision, pictures)
    opened = assemble(manifest, labels, made, folder)
    if manifest.conformal is not None:  # promised of other probabilities than these
        sets = recipe.calibrate(recipe.hyper.model_validate(manifest.training["hyper"]), opened, data)
        manifest = manifest.model_copy(update={"conformal": sets})
    metrics = recipe.score(opened, data)
    headline = recipe.headline_of(metrics)
    before = _measured(content, recipe.score(version, data)[headline])
    after = _measured(made, metrics[headline])
    gain = Gain(folder.parent / str(number), recipe, headline, before, after)
    if not force:
        _check(gain, precision, loss)
    with draft(folder.parent, number) as scratch:
        (scratch / GRAPH).write_bytes(made)
        scored = manifest.model_copy(update={"metrics": metrics})
        complete(scratch, scored, labels, write_optimised_card(scored, gain.table()))
    return gain


def prepared(version: Version, files: Iterable[bytes], count: int) -> onnx_file.Arrays:
    """Rows of the graph's `image` from encoded pictures, as the server prepares them. Raises BrokenData for none."""
    options, taken = version.task.Options(), enumerate(islice(files, count), 1)
    rows = [version.prepared(file, f"picture {number}", options).tensors["image"] for number, file in taken]
    if not rows:
        raise BrokenData(version.folder, "there are no pictures to find ranges on")
    return {"image": np.concatenate(rows)}


def whole_numbers(content: bytes, rows: onnx_file.Arrays) -> bytes:
    """The graph with its convolutions in INT8: activations unsigned, weights signed and scaled by channel."""
    with tempfile.TemporaryDirectory() as scratch:
        plain, folded, written = (Path(scratch) / name for name in ("plain.onnx", "folded.onnx", "written.onnx"))
        plain.write_bytes(content)
        quant_pre_process(plain, folded, skip_symbolic_shape=True)
        logging.getLogger().setLevel(logging.ERROR)  # the library advises through the root logger
        quantize_static(
            folded, written, _Rows(rows), QuantFormat.QDQ, _QUANTISED, per_channel=True, reduce_range=not has_vnni(),
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
        proto = onnx.load(written)
    onnx_file.clean(proto)
    onnx.checker.check_model(proto, full_check=True)
    return bytes(proto.SerializeToString(deterministic=True))


def half_precision(content: bytes) -> bytes:
    """The graph in float16, its inputs, outputs and tail as they were."""
    proto = convert_float_to_float16(
        onnx.load_from_string(content), keep_io_types=True, op_block_list=_KEPT_FLOAT, disable_shape_infer=False
    )
    onnx_file.clean(proto)
    _drop_doubles(proto.graph)
    return bytes(proto.SerializeToString(deterministic=True))


def _drop_doubles(graph: onnx.GraphProto) -> None:
    """Keep the first of the casts that the converter writes anew for each reader of a value."""
    defined: set[str] = set()
    kept = []
    for node in graph.node:
        if defined.isdisjoint(node.output):
            defined.update(node.output)
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)


def has_vnni() -> bool:
    """Whether this processor adds up 8-bit products without saturation; elsewhere weights get 7 bits."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_vnni" in flags or "avx_vnni" in flags


class _Rows(CalibrationDataReader):  # type: ignore[misc]
    """Feeds ONNX Runtime's calibration, a few rows at a time."""

    def __init__(self, rows: onnx_file.Arrays, size: int = 16) -> None:
        count = len(next(iter(rows.values())))
        self._parts: Iterator[dict[str, NDArray[Any]]] = (
            {name: array[start : start + size] for name, array in rows.items()} for start in range(0, count, size)
        )

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """The next rows, or None."""
        return next(self._parts, None)


def _manifest(before: Manifest, number: int, precision: Precision, pictures: int) -> Manifest:
    source = f"{before.name}/{before.version}"
    training = before.training | {
        "made_from": source,
        "precision": precision,
        "command": f"imago-train quantize models/{source} --data DIR --precision {precision} --pictures {pictures}",
        "verify": f"imago-train verify models/{before.name}/{number} --data DIR",
    }
    training.pop("export", None)
    return before.model_copy(
        update={"version": number, "training": training, "parity": {}, "files": {}, "created": now()}
    )


def _measured(content: bytes, score: float) -> Measured:
    ready = make_ready(lambda threads: OrtSession(content, threads=threads), Choices(), usable_cores())
    plan = ready.plan
    best = plan.batch_seconds[plan.max_batch_size] / plan.max_batch_size / plan.concurrency
    sixteen = _quickest(ready, 16) / 16 / plan.concurrency
    for session in ready.sessions:
        session.close()
    return Measured(len(content), score, *(1000 * seconds for seconds in (plan.lone_seconds, sixteen, best)))


def _quickest(ready: Ready, rows: int) -> float:
    """Seconds a batch of so many rows takes under load: the least of five, as a shared machine is slow now and then."""
    batch = noise(ready.crowd.inputs, rows)
    plan = ready.plan
    return min(seconds_per_batch(ready.crowd, batch, plan.threads, plan.concurrency) for _ in range(5))


def _check(gain: Gain, precision: Precision, loss: float) -> None:
    if gain.lost > loss:
        raise ExportRefused(
            f"the {precision} version would lose {gain.told(gain.lost)} of {gain.headline}, and"
            f" {gain.told(loss)} are allowed; --force makes it all the same:\n{gain.table()}"
        )
    if precision == "int8" and gain.after.row_ms >= gain.before.row_ms:
        raise ExportRefused(
            f"the {precision} version is no faster on this machine; --force makes it all the same:\n{gain.table()}"
        )
