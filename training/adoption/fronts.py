"""Fronts: what stands before a foreign network, from the inputs of imago's contract to those of the file."""

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from app.manifest import ImageInput
from app.tensors import Tensor, Tensors
from training.adoption.foreign import FLOATS, WHOLE, Foreign, Port, shape
from training.adoption.text import chain, floats, whole
from training.adoption.wanted import Layout, Pixels, Wanted
from training.export import ExportRefused

_LARGEST = 8192
"""Pixels of a side."""


@dataclass(frozen=True)
class Front:
    """One front, with some random rows to try it on."""

    text: str
    names: dict[str, str]
    """What the values of the text are called outside of it: the inputs of the contract and of the file."""
    inputs: tuple[onnx.ValueInfoProto, ...]
    """Those of the contract."""
    served: Tensors
    """Random rows of them."""
    plain: Tensors
    """The same rows as the file takes them."""
    batch: int | None
    """Rows that the file insists on; None where the axis is free."""
    image: ImageInput | None = None
    classes: int = 1
    """Kinds that a generator is asked for."""


def picture_front(network: Foreign, wanted: Wanted, rows: int) -> Front:
    """From bytes uint8 [N,H,W,C] to normalised floats. Raises ExportRefused."""
    port = _picture(network, wanted)
    height, width, channels = _sides(port, wanted)
    pixels = wanted.pixels
    _check_pixels(pixels, channels)
    images = _random_images(rows, height, width, channels)
    plain = pixels.plain(images).astype(port.dtype)
    if wanted.layout == "nchw":
        plain = np.ascontiguousarray(plain.transpose(0, 3, 1, 2))
    dims: list[str | int | None] = ["batch", height, width, channels]
    return Front(
        _from_bytes(pixels, wanted.layout, port),
        {"image": "image", "x": port.name},
        (helper.make_tensor_value_info("image", TensorProto.UINT8, dims),),
        {"image": images},
        {port.name: plain},
        port.dims[0],
        ImageInput.model_validate({"width": width, "height": height, "channels": channels, "fit": wanted.fit}),
    )


def _picture(network: Foreign, wanted: Wanted) -> Port:
    """The one input."""
    if len(network.inputs) != 1:
        names = ", ".join(port.name for port in network.inputs) or "none"
        raise ExportRefused(f"{wanted.task} needs a file with one input, its picture; this file has {names}")
    (port,) = network.inputs
    if len(port.dims) != 4 or port.kind not in FLOATS:
        raise ExportRefused(f"the input is float [N,C,H,W] or [N,H,W,C]; {port}")
    return port


def _sides(port: Port, wanted: Wanted) -> tuple[int, int, int]:
    """Height, width and channels: the file's own, or where it leaves the sides open those of `size`."""
    _, first, second, third = port.dims
    sides, channels = ((second, third), first) if wanted.layout == "nchw" else ((first, second), third)
    if channels not in (1, 3):
        other, axis = (third, "second") if wanted.layout == "nchw" else (first, "last")
        names = {"nchw": "last (NHWC): say --layout nhwc", "nhwc": "first (NCHW): say --layout nchw"}
        raise ExportRefused(
            f"{port.name} is {shape(port.dims)}, channels {names[wanted.layout]}"
            if other in (1, 3)
            else f"{port.name} is {shape(port.dims)}: the {axis} axis has to be 1 (grey) or 3 channels"
        )
    if wanted.size is None:
        if None in sides:
            raise ExportRefused("the file takes pictures of any size: choose one with --size")
    elif any(own not in (None, given) for own, given in zip(sides, wanted.size[::-1], strict=True)):
        size = "x".join(map(str, wanted.size))
        raise ExportRefused(f"--size says {size}, and the file takes height and width {shape(sides)}")
    height, width = (own or given for own, given in zip(sides, (wanted.size or (0, 0))[::-1], strict=True))
    if max(height, width) > _LARGEST:
        raise ExportRefused(f"the file takes {width}x{height} pixels; {_LARGEST} is the longest side that is served")
    return height, width, channels


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


def _random_images(count: int, height: int, width: int, channels: int) -> NDArray[np.uint8]:
    """Noise around a colour of its own in each image, so that answers differ: uint8 [N,H,W,C]."""
    random = np.random.default_rng(0)
    colours = random.integers(0, 128, (count, 1, 1, channels), dtype=np.uint8)
    return colours + random.integers(0, 128, (count, height, width, channels), dtype=np.uint8)


def _from_bytes(pixels: Pixels, layout: Layout, port: Port) -> str:
    """Lines from `image` to `x`.

    The bytes are transposed before they become floats: on 224x224x3, with ONNX Runtime 1.31 on one core, all steps take
    0.11 ms so, and 1.2 ms where scale and shift come first, applied to the three neighbours of one pixel at a time.
    """
    first = layout == "nchw"
    lines, steps = [], ["Transpose <perm = [0, 3, 1, 2]> ($)"] if first else []
    if pixels.channels == "bgr":
        lines.append(whole("order", 2, 1, 0))
        steps.append(f"Gather <axis = {1 if first else 3}> ($, order)")
    steps.append("Cast <to = 1> ($)")
    for operator, name, values, neutral in zip(
        ("Mul", "Add"), ("scale", "shift"), pixels.folded(), (1, 0), strict=True
    ):
        if (values != neutral).any():
            lines.append(floats(name, values.reshape(-1, 1, 1) if first else values))
            steps.append(f"{operator} ($, {name})")
    if port.dtype == "float16":  # last: a mean taken off in half precision would lose what it is close to
        steps.append(f"Cast <to = {port.kind}> ($)")
    return "\n".join([*lines, chain("image", steps, "x")])


def latent_front(network: Foreign, wanted: Wanted, labels: int | None, rows: int) -> Front:
    """From `z` float32 [N,latent] and `class` int64 [N] to what a generator takes; `labels` is how many there are.

    Raises ExportRefused.
    """
    z, kind = _ports(network, wanted)
    if not _is_latent(z):
        raise ExportRefused(f"latent vectors are float [N,L] or [N,L,1,1] with a fixed L; {z}")
    classes = _classes(kind, labels)
    length = int(z.dims[1] or 0)
    drawn = np.random.default_rng(0).standard_normal((rows, length), dtype=np.float32)
    chosen = np.arange(rows, dtype=np.int64) % classes
    plain: dict[str, Tensor] = {z.name: drawn.reshape(rows, length, *(1 for _ in z.dims[2:])).astype(z.dtype)}
    text, names = _from_latent(z), {"z": "z", "class": "class", "x": z.name}
    if kind is not None:
        text, names["y"] = f"{text}\n{_from_class(kind, classes)}", kind.name
        plain[kind.name] = _class_rows(kind, chosen, classes)
    inputs = (
        helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", length]),
        helper.make_tensor_value_info("class", TensorProto.INT64, ["batch"]),
    )
    return Front(text, names, inputs, {"z": drawn, "class": chosen}, plain, z.dims[0], classes=classes)


def _ports(network: Foreign, wanted: Wanted) -> tuple[Port, Port | None]:
    """The input with the latent vector, and the one with the class, if any."""
    every = network.inputs
    seen = "; ".join(map(str, every)) or "none"
    reals = [port for port in every if port.kind in FLOATS]
    named = [port for port in every if port.name == wanted.latent] if wanted.latent else reals
    if wanted.latent and not named:
        raise ExportRefused(f"{wanted.latent!r} is no input of the file: choose with --latent one of those: {seen}")
    if len(every) > 2 or not named:
        raise ExportRefused(f"a generator takes latent vectors and perhaps a class; this file's inputs: {seen}")
    if len(named) > 1:
        raise ExportRefused(f"two inputs could be latent vectors: choose with --latent one of those: {seen}")
    return named[0], next((port for port in every if port is not named[0]), None)


def _is_latent(port: Port) -> bool:
    dims = port.dims
    return port.kind in FLOATS and len(dims) >= 2 and dims[1] is not None and all(size == 1 for size in dims[2:])


def _classes(port: Port | None, labels: int | None) -> int:
    """How many kinds the generator is asked for."""
    if port is None:
        if labels not in (None, 1):
            raise ExportRefused(f"--labels names {labels} classes; the file has no input for a class")
        return 1
    if port.kind in WHOLE and len(port.dims) in (1, 2) and port.dims[1:] in ((), (1,)):
        if labels is None:
            raise ExportRefused(f"{port}, the number of a class: say with --labels which classes there are")
        return labels
    if port.kind in FLOATS and len(port.dims) == 2 and port.dims[1] is not None:
        return port.dims[1]
    raise ExportRefused(f"a class is whole numbers [N] or [N,1], or float [N,C] with a fixed C; {port}")


def _class_rows(port: Port, chosen: NDArray[np.int64], classes: int) -> Tensor:
    if port.kind in FLOATS:
        return np.eye(classes, dtype=port.dtype)[chosen]
    return chosen.reshape(len(chosen), *port.dims[1:]).astype(port.dtype)


def _from_latent(port: Port) -> str:
    """Lines from `z` to `x`."""
    steps = ["Reshape ($, form)", f"Cast <to = {port.kind}> ($)"]
    return "\n".join([whole("form", 0, *(int(size or 0) for size in port.dims[1:])), chain("z", steps, "x")])


def _from_class(port: Port, classes: int) -> str:
    """Lines from `class` to `y`."""
    if port.kind in FLOATS:
        lines = [whole("depth", classes), floats("values", [0, 1])]
        return "\n".join([*lines, chain("class", ["OneHot ($, depth, values)", f"Cast <to = {port.kind}> ($)"], "y")])
    lines = [whole("column", *(-1, *port.dims[1:]))]  # type: ignore[arg-type]
    return "\n".join([*lines, chain("class", ["Reshape ($, column)", f"Cast <to = {port.kind}> ($)"], "y")])
