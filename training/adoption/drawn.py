"""The tail of generators: pictures in floats to pictures in bytes."""

import numpy as np
from onnx import TensorProto, helper

from training.adoption.foreign import Foreign
from training.adoption.fronts import Front
from training.adoption.tails import Ask, Rows, Tail, finite
from training.adoption.text import chain, floats, whole
from training.adoption.wanted import RANGES, Wanted
from training.export import ExportRefused


def generate_tail(network: Foreign, front: Front, wanted: Wanted, ask: Ask, labels: int | None) -> Tail:
    """Pictures float [N,3,H,W] (or 1 channel) to `image`. Raises ExportRefused."""
    output = network.output(wanted.output)
    said = ask(output)
    last = wanted.layout == "nhwc"
    channels = said.shape[-1 if last else 1] if said.ndim == 4 else 0
    if said.dtype.kind != "f" or channels not in (1, 3):
        turned = said.ndim == 4 and said.shape[1 if last else -1] in (1, 3)
        hint = f": say --layout {'nchw' if last else 'nhwc'}" if turned else ""
        form = "[N,H,W,C]" if last else "[N,C,H,W]"
        raise ExportRefused(f"{output} is {said.dtype} {list(said.shape)}, no float {form} of 1 or 3 channels{hint}")
    values = finite(said, output)
    low, high = _range(values, wanted)
    plain = values if last else values.transpose(0, 2, 3, 1)
    if wanted.pixels.channels == "bgr":
        plain = plain[..., ::-1]
    images = np.round(np.clip((plain - low) * 255 / (high - low), 0, 255)).astype(np.uint8)
    steps = ["Cast <to = 1> ($)"] + ([] if last else ["Transpose <perm = [0, 2, 3, 1]> ($)"])
    lines = [floats("low", low), floats("factor", 255 / (high - low)), floats("zero", 0), floats("byte", 255)]
    if channels == 3 and wanted.pixels.channels == "bgr":
        lines.append(whole("order", 2, 1, 0))
        steps.append("Gather <axis = 3> ($, order)")
    if channels == 1:
        steps.append("Concat <axis = 3> ($, $, $)")
    steps += ["Sub ($, low)", "Mul ($, factor)", "Clip ($, zero, byte)", "Round ($)", "Cast <to = 2> ($)"]
    height, width = images.shape[1:3]
    dims: list[str | int | None] = ["batch", height, width, 3]
    return Tail(
        "\n".join([*lines, chain("x", steps, "image")]),
        {"x": output, "image": "image"},
        (helper.make_tensor_value_info("image", TensorProto.UINT8, dims),),
        {"image": np.broadcast_to(images, (*images.shape[:3], 3))},
        {"image_max_abs_diff": 1, "image_agreement": 0.98},
        front.classes,
        {"output": output, "output_range": f"{low:g}..{high:g}"},
    )


def _range(values: Rows, wanted: Wanted) -> tuple[float, float]:
    """The values that stand for black and white."""
    low, high = float(values.min()), float(values.max())
    if wanted.output_range != "auto":
        return RANGES[wanted.output_range]
    for least, most in RANGES.values():
        beyond = 0.02 * (most - least)
        # A range that is mostly empty is the wrong one: fractions would make a black picture of 0..255.
        if least - beyond <= low and high <= most + beyond and (high - low) > 0.02 * (most - least):
            if least < 0 <= low:
                continue
            return least, most
    raise ExportRefused(
        f"the pixels of the file run from {low:.3g} to {high:.3g}: say with --output-range which of"
        f" {', '.join(RANGES)} it is"
    )
