"""Tiny models for tests: real ONNX files of a few KB that obey the contract, with arithmetic that a test can redo.

A picture is `red` where red is its largest channel, and so on; nothing here was trained.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from app.manifest import (
    CARD,
    GRAPH,
    LABELS,
    ImageInput,
    Manifest,
    Tiling,
    digest_files,
    read_manifest,
    write_manifest,
)
from app.serving import SERVING

COLOURS = ("red", "green", "blue")
CLASSES = 4
"""Of the foreign files."""
LITTLE = 0.01
"""Added to what may be zero before it is brought to length 1."""
SHARPNESS = 8.0
"""Logits are this many times a channel's mean, 0 to 1."""


def make_classifier(
    root: Path,
    name: str = "tiny-classifier",
    version: int = 1,
    size: int = 8,
    labels: tuple[str, ...] = COLOURS,
    without: tuple[str, ...] = (),
    **manifest: Any,
) -> Path:
    """Probabilities are the softmax of each colour's mean; label `i` stands for channel `i % 3`.

    Outputs named in `without` are left out.
    """
    weights = np.zeros((3, len(labels)), dtype=np.float32)
    for index in range(len(labels)):
        weights[index % 3, index] = SHARPNESS / (1 + index // 3)
    nodes = [
        *_scaled(),
        helper.make_node("ReduceMean", ["x"], ["means"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["means", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        helper.make_node("Add", ["means", "little"], ["not_zero"]),
        helper.make_node("LpNormalization", ["not_zero"], ["embedding"], axis=1, p=2),
        helper.make_node("ArgMax", ["logits"], ["top"], axis=1, keepdims=0),
        helper.make_node("Gather", ["channel", "top"], ["chosen"], axis=0),
        helper.make_node("Mul", ["x", "chosen"], ["seen"]),
        helper.make_node("ReduceSum", ["seen", "last"], ["cam"], keepdims=0),
        helper.make_node("ReduceLogSumExp", ["logits"], ["lse"], axes=[1], keepdims=0),
        helper.make_node("Neg", ["lse"], ["energy"]),
    ]
    channel = np.stack([np.eye(3, dtype=np.float32)[index % 3] for index in range(len(labels))])
    constants = {
        "weights": weights,
        "little": np.float32([0.01]),
        "channel": channel.reshape(len(labels), 1, 1, 3),
        "last": np.int64([3]),
    }
    outputs = {
        "probabilities": (TensorProto.FLOAT, ["N", len(labels)]),
        "embedding": (TensorProto.FLOAT, ["N", 3]),
        "cam": (TensorProto.FLOAT, ["N", size, size]),
        "energy": (TensorProto.FLOAT, ["N"]),
    }
    outputs = {output: kind for output, kind in outputs.items() if output not in without}
    graph = _graph(nodes, _picture(size), outputs, constants)
    return _write(
        root, graph, labels, name=name, version=version, task="classify", **{"image": _input(size), **manifest}
    )


def make_versions(root: Path, serving: str, count: int = 2, **second: Any) -> None:
    """So many versions of a tiny classifier, and what its operator chose; what is said of the second may differ."""
    for version in range(1, count + 1):
        folder = make_classifier(root, version=version, **(second if version == 2 else {}))
    (folder.parent / SERVING).write_text(serving)


def make_fragile(root: Path, name: str = "fragile", size: int = 8) -> Path:
    """A classifier that fails on a picture that is all red, and knows no number for one that is all green."""
    folder = make_classifier(root, name=name, size=size)
    model = onnx.load(folder / GRAPH)
    (lse,) = (node for node in model.graph.node if list(node.output) == ["energy"])
    lse.output[0] = "sound_energy"
    (softmax,) = (node for node in model.graph.node if list(node.output) == ["probabilities"])
    softmax.output[0] = "sound_probabilities"
    model.graph.node.extend(
        [
            helper.make_node("Split", ["means"], ["red", "green", "blue"], axis=1),
            helper.make_node("Greater", ["red", "nearly"], ["all_red"]),
            helper.make_node("Cast", ["all_red"], ["place"], to=TensorProto.INT64),
            helper.make_node("Gather", ["nothing", "place"], ["zero"]),  # of one number: there is no second
            helper.make_node("ReduceSum", ["zero", "side"], ["flat"], keepdims=0),
            helper.make_node("Add", ["sound_energy", "flat"], ["energy"]),
            helper.make_node("Sub", ["nearly", "green"], ["room"]),
            helper.make_node("Sqrt", ["room"], ["root"]),
            helper.make_node("Mul", ["root", "nothing"], ["none"]),
            helper.make_node("Add", ["sound_probabilities", "none"], ["probabilities"]),
        ]
    )
    constants = {"nearly": np.float32([0.999]), "nothing": np.float32([0]), "side": np.int64([1])}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    return _rewrite(folder, model.SerializeToString())


def _rewrite(folder: Path, graph: bytes) -> Path:
    """Put another graph into a version, and its digest into the manifest."""
    (folder / GRAPH).write_bytes(graph)
    write_manifest(folder, read_manifest(folder).model_copy(update={"files": digest_files(folder)}))
    return folder


def make_segmenter(
    root: Path,
    name: str = "tiny-segmenter",
    version: int = 1,
    size: int = 8,
    labels: tuple[str, ...] = COLOURS,
    **manifest: Any,
) -> Path:
    """Each pixel has the label of its largest channel, the first of equal ones."""
    nodes = [
        *_scaled(),
        helper.make_node("ArgMax", ["x"], ["largest"], axis=3, keepdims=0),
        helper.make_node("Cast", ["largest"], ["mask"], to=TensorProto.UINT8),
        helper.make_node("ReduceMax", ["x"], ["value"], axes=[3], keepdims=0),
        helper.make_node("Mul", ["value", "full"], ["bytes"]),
        helper.make_node("Cast", ["bytes"], ["confidence"], to=TensorProto.UINT8),
    ]
    outputs = {output: (TensorProto.UINT8, ["N", size, size]) for output in ("mask", "confidence")}
    graph = _graph(nodes, _picture(size), outputs, {})
    return _write(
        root, graph, labels, name=name, version=version, task="segment", **{"image": _input(size), **manifest}
    )


def make_detector(
    root: Path,
    name: str = "tiny-detector",
    version: int = 1,
    size: int = 8,
    labels: tuple[str, ...] = COLOURS,
    **manifest: Any,
) -> Path:
    """One object for each colour that is there: the box around all pixels whose channel is above a half, scored by the
    brightest of them. Label `i` stands for channel `i % 3`."""
    nodes = [
        *_scaled(),
        helper.make_node("Gather", ["x", "channels"], ["planes"], axis=3),
        helper.make_node("Greater", ["planes", "half"], ["lit"]),
        *(
            node
            for axis, low, high in ((2, "x1", "x2"), (1, "y1", "y2"))
            for node in (
                helper.make_node("Where", ["lit", f"start{axis}", "full"], [f"starts{axis}"]),
                helper.make_node("Where", ["lit", f"end{axis}", "none"], [f"ends{axis}"]),
                helper.make_node("ReduceMin", [f"starts{axis}"], [low], axes=[1, 2], keepdims=0),
                helper.make_node("ReduceMax", [f"ends{axis}"], [high], axes=[1, 2], keepdims=0),
            )
        ),
        helper.make_node("Where", ["lit", "planes", "none"], ["shown"]),
        helper.make_node("ReduceMax", ["shown"], ["score"], axes=[1, 2], keepdims=0),
        helper.make_node("Mul", ["score", "none"], ["zeros"]),
        helper.make_node("Add", ["zeros", "numbers"], ["class"]),
        *(
            helper.make_node("Unsqueeze", [column, "last"], [f"{column}_column"])
            for column in ("x1", "y1", "x2", "y2", "score", "class")
        ),
        helper.make_node(
            "Concat", [f"{column}_column" for column in ("x1", "y1", "x2", "y2", "score", "class")], ["boxes"], axis=2
        ),
    ]
    places = np.arange(size, dtype=np.float32)
    constants = {
        "channels": np.int64([index % 3 for index in range(len(labels))]),
        "half": np.float32([0.5]),
        "none": np.float32([0]),
        "start1": places.reshape(1, size, 1, 1),
        "end1": places.reshape(1, size, 1, 1) + 1,
        "start2": places.reshape(1, 1, size, 1),
        "end2": places.reshape(1, 1, size, 1) + 1,
        "numbers": np.arange(len(labels), dtype=np.float32),
        "last": np.int64([2]),
    }
    graph = _graph(nodes, _picture(size), {"boxes": (TensorProto.FLOAT, ["N", len(labels), 6])}, constants)
    return _write(root, graph, labels, name=name, version=version, task="detect", **{"image": _input(size), **manifest})


def make_autoencoder(
    root: Path, name: str = "tiny-autoencoder", version: int = 1, size: int = 8, **manifest: Any
) -> Path:
    """It knows pictures of one grey: every pixel becomes the mean of all numbers; the score is their mean error."""
    nodes = [
        helper.make_node("Cast", ["image"], ["levels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["levels"], ["mean"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Sub", ["levels", "mean"], ["apart"]),
        helper.make_node("Abs", ["apart"], ["errors"]),
        helper.make_node("ReduceMean", ["errors"], ["score"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("ReduceMax", ["errors"], ["largest"], axes=[3], keepdims=0),
        helper.make_node("Round", ["largest"], ["whole"]),
        helper.make_node("Cast", ["whole"], ["error"], to=TensorProto.UINT8),
        helper.make_node("Sub", ["levels", "apart"], ["alike"]),
        helper.make_node("Round", ["alike"], ["rounded"]),
        helper.make_node("Cast", ["rounded"], ["reconstruction"], to=TensorProto.UINT8),
    ]
    outputs = {
        "reconstruction": (TensorProto.UINT8, ["N", size, size, 3]),
        "error": (TensorProto.UINT8, ["N", size, size]),
        "score": (TensorProto.FLOAT, ["N"]),
    }
    graph = _graph(nodes, _picture(size), outputs, {})
    facts = {"image": _input(size), **manifest}
    return _write(root, graph, (), name=name, version=version, task="reconstruct", **facts)


def make_embedder(root: Path, name: str = "tiny-embedder", version: int = 1, size: int = 8, **manifest: Any) -> Path:
    """Means of each channel in each quarter of the picture, a little added, at length 1: `embedding_of` redoes it."""
    half = size // 2
    nodes = [
        *_scaled(),
        helper.make_node("Transpose", ["x"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["planes"], ["quarters"], kernel_shape=[half, half], strides=[half, half]),
        helper.make_node("Flatten", ["quarters"], ["means"], axis=1),
        helper.make_node("Add", ["means", "little"], ["not_zero"]),
        helper.make_node("LpNormalization", ["not_zero"], ["embedding"], axis=1, p=2),
    ]
    outputs = {"embedding": (TensorProto.FLOAT, ["N", 12])}
    graph = _graph(nodes, _picture(size), outputs, {"little": np.float32([LITTLE])})
    return _write(root, graph, (), name=name, version=version, task="embed", **{"image": _input(size), **manifest})


def embedding_of(picture: np.ndarray) -> np.ndarray:
    """What the embedder makes of a picture uint8 [H,W,3] that has its size."""
    half = len(picture) // 2
    quarters = (picture / 255.0).reshape(2, half, 2, half, 3).mean((1, 3)).transpose(2, 0, 1).ravel() + LITTLE
    return quarters / np.linalg.norm(quarters)


def make_generator(
    root: Path,
    name: str = "tiny-generator",
    version: int = 1,
    size: int = 8,
    labels: tuple[str, ...] = COLOURS,
    latent: int = 4,
    **manifest: Any,
) -> Path:
    """A convolution over `z` spread along fixed waves; class `i` brightens channel `i % 3`."""
    random = np.random.default_rng(0)
    tint = np.stack([4 * np.eye(3, dtype=np.float32)[index % 3] - 2 for index in range(len(labels))])
    nodes = [
        helper.make_node("Unsqueeze", ["z", "sides"], ["column"]),
        helper.make_node("Mul", ["column", "waves"], ["spread"]),
        helper.make_node("Conv", ["spread", "kernel"], ["drawn"], pads=[1, 1, 1, 1]),
        helper.make_node("Gather", ["tint", "class"], ["colour"], axis=0),
        helper.make_node("Add", ["drawn", "colour"], ["tinted"]),
        helper.make_node("Sigmoid", ["tinted"], ["shares"]),
        helper.make_node("Mul", ["shares", "full"], ["levels"]),
        helper.make_node("Cast", ["levels"], ["planes"], to=TensorProto.UINT8),
        helper.make_node("Transpose", ["planes"], ["image"], perm=[0, 2, 3, 1]),
    ]
    constants = {
        "sides": np.int64([2, 3]),
        "waves": random.standard_normal((1, latent, size, size), dtype=np.float32),
        "kernel": 0.3 * random.standard_normal((3, latent, 3, 3), dtype=np.float32),
        "tint": tint.reshape(len(labels), 3, 1, 1),
    }
    inputs = {"z": (TensorProto.FLOAT, ["N", latent]), "class": (TensorProto.INT64, ["N"])}
    graph = _graph(nodes, inputs, {"image": (TensorProto.UINT8, ["N", size, size, 3])}, constants)
    return _write(root, graph, labels, name=name, version=version, task="generate", **manifest)


def make_denoiser(root: Path, name: str = "tiny-denoiser", version: int = 1, side: int = 16, **manifest: Any) -> Path:
    """Each pixel moves towards the mean of the nine around it (fewer at the border), by strength / 75 of the way."""
    nodes = [
        helper.make_node("Cast", ["image"], ["levels"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["levels"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["planes"], ["means"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Sub", ["means", "planes"], ["way"]),
        helper.make_node("Div", ["strength", "strongest"], ["shares"]),
        helper.make_node("Unsqueeze", ["shares", "sides"], ["share"]),
        helper.make_node("Mul", ["way", "share"], ["part"]),
        helper.make_node("Add", ["planes", "part"], ["moved"]),
        helper.make_node("Round", ["moved"], ["whole"]),
        helper.make_node("Cast", ["whole"], ["bytes"], to=TensorProto.UINT8),
        helper.make_node("Transpose", ["bytes"], ["enhanced"], perm=[0, 2, 3, 1]),
    ]
    inputs = {**_free_picture(), "strength": (TensorProto.FLOAT, ["N"])}
    constants = {"strongest": np.float32([75]), "sides": np.int64([1, 2, 3])}
    graph = _graph(nodes, inputs, {"enhanced": (TensorProto.UINT8, ["N", "H", "W", 3])}, constants)
    tiling = Tiling(side=side, overlap=2, multiple=2)
    return _write(root, graph, (), name=name, version=version, task="enhance", **{"tiling": tiling, **manifest})


def make_upscaler(root: Path, name: str = "tiny-upscaler", version: int = 1, side: int = 16, **manifest: Any) -> Path:
    """Every pixel becomes four."""
    asymmetric = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
    nodes = [
        helper.make_node("Cast", ["image"], ["levels"], to=TensorProto.FLOAT),
        helper.make_node("Resize", ["levels", "", "scales"], ["larger"], **asymmetric),
        helper.make_node("Cast", ["larger"], ["enhanced"], to=TensorProto.UINT8),
    ]
    outputs = {"enhanced": (TensorProto.UINT8, ["N", "H2", "W2", 3])}
    graph = _graph(nodes, _free_picture(), outputs, {"scales": np.float32([1, 2, 2, 1])})
    tiling = Tiling(side=side, overlap=0, scale=2)
    return _write(root, graph, (), name=name, version=version, task="enhance", **{"tiling": tiling, **manifest})


Side = int | str | None


def make_foreign(
    path: Path,
    channels: int = 3,
    size: tuple[Side, Side] = (6, 8),
    batch: Side = "N",
    steps: Sequence[tuple[str, dict[str, Any]]] = (("Softmax", {"axis": 1}),),
    names: tuple[str, str] = ("input", "scores"),
    dtype: int = TensorProto.FLOAT,
    shape: Sequence[Side] = ("N", CLASSES),
    opset: int = 17,
    ir_version: int = 8,
) -> ModelProto:
    """A file as others make them: float [N,C,H,W] (height before width) to scores.

    Scores are `foreign_logits`, with `steps` (operators of one input) after them. Like many exporters it writes a fixed
    `batch` into the shape to which it flattens.
    """
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    gaze, weights = foreign_weights(channels, size)
    between = [f"step{place}" for place in range(len(steps))]
    ends = [*["logits", *between][: len(steps)], names[1]]
    nodes = [
        helper.make_node("Mul", [names[0], "gaze"], ["seen"]),
        helper.make_node("ReduceMean", ["seen"], ["pooled"], axes=[2, 3], keepdims=1),
        helper.make_node("Reshape", ["pooled", "flat"], ["means"]),
        helper.make_node("MatMul", ["means", "weights"], [ends[0]]),
        *(
            helper.make_node(operator, [ends[place]], [ends[place + 1]], **attributes)
            for place, (operator, attributes) in enumerate(steps)
        ),
    ]
    constants = {
        "gaze": gaze.astype(kind),
        "weights": weights.astype(kind),
        "flat": np.int64([batch if isinstance(batch, int) else 0, -1]),
    }
    graph = _graph(nodes, {names[0]: (dtype, [batch, channels, *size])}, {names[1]: (dtype, shape)}, constants)
    graph.opset_import[0].version, graph.ir_version = opset, ir_version
    path.write_bytes(graph.SerializeToString())
    return graph


def foreign_weights(channels: int, size: tuple[Side, Side]) -> tuple[np.ndarray, np.ndarray]:
    """What each place of a picture counts [H,W], and each channel for each class [C,CLASSES]."""
    random = np.random.default_rng(3)
    weights = 4 * random.standard_normal((channels, CLASSES), dtype=np.float32)
    sides = tuple(side if isinstance(side, int) else 1 for side in size)
    return random.uniform(0, 2, sides).astype(np.float32), weights


def foreign_logits(pictures: np.ndarray) -> np.ndarray:
    """The scores of pictures float [N,C,6,8] before the last steps: channel means, weighed by place and by class."""
    gaze, weights = foreign_weights(pictures.shape[1], pictures.shape[2:])
    return (pictures * gaze).mean((2, 3)) @ weights


def _picture(size: int) -> dict[str, Any]:
    return {"image": (TensorProto.UINT8, ["N", size, size, 3])}


def _free_picture() -> dict[str, Any]:
    return {"image": (TensorProto.UINT8, ["N", "H", "W", 3])}


def _input(size: int) -> ImageInput:
    return ImageInput(width=size, height=size)


def _scaled() -> list[Any]:
    return [
        helper.make_node("Cast", ["image"], ["levels"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["levels", "full"], ["x"]),
    ]


def _graph(
    nodes: list[Any], inputs: dict[str, Any], outputs: dict[str, Any], constants: dict[str, np.ndarray]
) -> ModelProto:
    values = {"full": np.float32([255]), **constants}
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()],
        [helper.make_tensor_value_info(name, *kind) for name, kind in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _write(root: Path, graph: ModelProto, labels: tuple[str, ...], **manifest: Any) -> Path:
    folder = root / manifest["name"] / str(manifest["version"])
    folder.mkdir(parents=True)
    (folder / GRAPH).write_bytes(graph.SerializeToString())
    if labels:
        (folder / LABELS).write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
    (folder / CARD).write_text(f"# {manifest['name']}\n\nArithmetic for tests.\n", encoding="utf-8")
    facts = {
        "description": f"Tells {', '.join(labels[:3])} apart by arithmetic",
        "licence": "Apache-2.0",
        "created": "2026-01-01T00:00:00Z",
        **manifest,
    }
    write_manifest(folder, Manifest(files=digest_files(folder), **facts))
    return folder
