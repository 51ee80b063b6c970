"""Adopting segmenters, detectors and generators: what is served is what onnxruntime and numpy make of the file."""

import base64
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import onnxruntime
import pytest
from onnx import numpy_helper
from PIL import Image

from app.manifest import read_labels, read_manifest
from app.runtime.ort import OrtSession
from app.settings import Settings
from app.tasks.generate import latent_row
from tests.api.service import Service
from tests.imaging.pictures import noise, save
from training.adoption.adopt import adopt
from training.adoption.wanted import Boxes, Pixels, Wanted
from training.export import ExportRefused

Array = np.ndarray[Any, Any]
HEIGHT, WIDTH = 16, 24
PIXELS = Pixels((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "foreign.onnx"


def write(file: Path, signature: str, lines: str, opset: int = 17, **constants: Any) -> None:
    """A file in ONNX's text form, with constants."""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> net {signature} {{ {lines} }}')
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items())
    file.write_bytes(model.SerializeToString())


def drawn(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape, dtype=np.float32)


def images(count: int) -> Array:
    random = np.random.default_rng(7)
    colours = random.integers(0, 128, (count, 1, 1, 3))
    return (colours + random.integers(0, 128, (count, HEIGHT, WIDTH, 3))).astype(np.uint8)


def said(file: Path, **rows: Array) -> list[Array]:
    """What the file itself answers."""
    session = onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(None, rows)]


def floats(rows: Array) -> Array:
    """Images [N,H,W,3] as the file's makers prepared them: [N,3,H,W]."""
    values = (rows / 255 - np.array(PIXELS.mean)) / np.array(PIXELS.std)
    return values.transpose(0, 3, 1, 2).astype(np.float32)


def adopted(file: Path, **wanted: Any) -> OrtSession:
    if wanted.get("task") != "generate":
        wanted = {"pixels": PIXELS, **wanted}
    folder = adopt(file, file.parent / "models", Wanted("net", **wanted))
    return OrtSession((folder / "model.onnx").read_bytes(), threads=1)


def labels_of(file: Path, *labels: str) -> Path:
    path = file.with_name("labels.txt")
    path.write_text("".join(f"{label}\n" for label in labels))
    return path


def softmax(values: Array, axis: int) -> Array:
    powers = np.exp(values - values.max(axis, keepdims=True))
    return powers / powers.sum(axis, keepdims=True)


def sigmoid(values: Array) -> Array:
    return 1 / (1 + np.exp(-values))


def picture(name: str) -> str:
    """Names as exporters write them are no words of the text form; they are put in afterwards."""
    return f"float[N,3,{HEIGHT},{WIDTH}] {name}"


def segmenter(file: Path, classes: int = 4, shrink: int = 4, after: str = "Identity", **options: Any) -> None:
    """Scores at a part of the size, from the mean colour around."""
    write(
        file,
        f"({picture('x')}) => (float[N,{classes},h,w] maps)",
        f"""small = AveragePool <kernel_shape = [{shrink},{shrink}], strides = [{shrink},{shrink}]> (x)
            logits = Conv <kernel_shape = [1,1]> (small, filters)
            maps = {after} (logits)""",
        filters=3 * drawn(classes, 3, 1, 1) if classes > 1 else np.float32([5, -5, 6]).reshape(1, 3, 1, 1),
        **options,
    )


def enlarged(maps: Array) -> Array:
    """[N,C,h,w] to the size of the picture: np.interp between the middles of pixels."""
    for axis, side in ((2, HEIGHT), (3, WIDTH)):
        small = maps.shape[axis]
        middles, wanted = (np.arange(small) + 0.5) / small, (np.arange(side) + 0.5) / side
        maps = np.apply_along_axis(lambda line, at=middles, to=wanted: np.interp(to, at, line), axis, maps)
    return maps


@pytest.mark.parametrize("shrink", [1, 2, 4, 8])
def test_scores_of_pixels_become_a_mask_in_the_size_of_the_picture(file: Path, shrink: int) -> None:
    segmenter(file, shrink=shrink)
    session, sent = adopted(file, task="segment"), images(5)
    answer = session.run({"image": sent})
    shares = softmax(enlarged(said(file, x=floats(sent))[0]), 1)
    assert (answer["mask"] == shares.argmax(1)).mean() > 0.999
    np.testing.assert_allclose(answer["confidence"], 255 * shares.max(1), atol=1.01)
    assert len(set(answer["mask"].ravel().tolist())) > 1
    assert [str(spec) for spec in session.outputs] == [
        f"mask: uint8 [?,{HEIGHT},{WIDTH}]", f"confidence: uint8 [?,{HEIGHT},{WIDTH}]"
    ]  # fmt: skip


@pytest.mark.parametrize(("after", "activation"), [("Identity", "auto"), ("Sigmoid", "auto"), ("Identity", "sigmoid")])
def test_one_score_a_pixel_is_nothing_or_something(file: Path, after: str, activation: str) -> None:
    segmenter(file, classes=1, after=after)
    sent = images(4)
    answer = adopted(file, task="segment", activation=activation).run({"image": sent})
    maps = said(file, x=floats(sent))[0]
    sure = (sigmoid(enlarged(maps)) if after == "Identity" else enlarged(maps))[:, 0]
    assert (answer["mask"] == (sure > 0.5)).mean() > 0.999
    np.testing.assert_allclose(answer["confidence"], 255 * np.maximum(sure, 1 - sure), atol=1.01)
    assert set(answer["mask"].ravel().tolist()) == {0, 1}


def labeller(file: Path, signature: str, last: str = "") -> None:
    write(
        file,
        f"({picture('x')}) => ({signature} maps)",
        f"""small = AveragePool <kernel_shape = [2,2], strides = [2,2]> (x)
            logits = Conv <kernel_shape = [1,1]> (small, filters)
            maps = ArgMax <axis = 1, keepdims = {int(last == "kept")}> (logits)""",
        filters=3 * drawn(4, 3, 1, 1),
    )


@pytest.mark.parametrize(("signature", "last"), [("int64[N,h,w]", ""), ("int64[N,1,h,w]", "kept")])
def test_labels_of_pixels_are_taken_as_they_are(file: Path, signature: str, last: str) -> None:
    labeller(file, signature, last)
    sent = images(4)
    answer = adopted(file, task="segment", labels=labels_of(file, "a", "b", "c", "d", "e")).run({"image": sent})
    maps = said(file, x=floats(sent))[0].reshape(4, HEIGHT // 2, WIDTH // 2)
    np.testing.assert_array_equal(answer["mask"], maps.repeat(2, 1).repeat(2, 2))
    assert (answer["confidence"] == 255).all()


def test_channels_may_be_last(file: Path) -> None:
    write(
        file,
        f"(float[N,{HEIGHT},{WIDTH},3] x) => (float[N,{HEIGHT},{WIDTH},4] maps)",
        "maps = MatMul (x, weights)",
        weights=3 * drawn(3, 4),
    )
    sent = images(3)
    answer = adopted(file, task="segment", layout="nhwc").run({"image": sent})
    maps = said(file, x=floats(sent).transpose(0, 2, 3, 1))[0]
    assert (answer["mask"] == maps.argmax(3)).all()


PLACES = 24
"""Boxes of a detector, 6 in each of 4 rows."""


def grid() -> Array:
    """Middles and sizes float [PLACES,4] in fractions of the picture: neighbours overlap."""
    down, across = np.divmod(np.arange(PLACES), 6)
    sides = np.tile([[0.35, 0.45], [0.25, 0.5]], (PLACES // 2, 1))
    return np.column_stack([(across + 0.5) / 6, (down + 0.5) / 4, sides]).astype(np.float32)


def detector(file: Path, classes: int = 3, form: str = "cxcywh", unit: int = 0, after: str = "Sigmoid") -> None:
    """Scores from the mean colour of a place; a box a place, moved a little by it."""
    base = grid()
    left, top = base[:, 0] - base[:, 2] / 2, base[:, 1] - base[:, 3] / 2
    right, bottom = left + base[:, 2], top + base[:, 3]
    columns = {
        "cxcywh": base.T,
        "xyxy": [left, top, right, bottom],
        "yxyx": [top, left, bottom, right],
        "xywh": [left, top, base[:, 2], base[:, 3]],
    }[form]
    factor = np.array([WIDTH, HEIGHT] * 2 if form != "yxyx" else [HEIGHT, WIDTH] * 2) if unit else np.ones(4)
    write(
        file,
        f"({picture('x')}) => (float[N,{PLACES},4] places, float[N,{PLACES},{classes}] sure)",
        """small = AveragePool <kernel_shape = [4,4], strides = [4,4]> (x)
           rows = Reshape (small, form)
           seen = Transpose <perm = [0,2,1]> (rows)
           moved = MatMul (seen, moves)
           places = Add (moved, base)
           logits = MatMul (seen, weights)
           sure = """
        + after
        + " (logits)",
        form=np.int64([0, 3, -1]),
        moves=(0.005 * drawn(3, 4) * factor).astype(np.float32),
        base=(np.column_stack(columns) * factor).astype(np.float32),
        weights=drawn(3, classes),
    )


def corners(boxes: Array, form: str, unit: int) -> Array:
    """In pixels."""
    a, b, c, d = (boxes[..., at] for at in range(4))
    edges = {
        "xyxy": (a, b, c, d),
        "yxyx": (b, a, d, c),
        "xywh": (a, b, a + c, b + d),
        "cxcywh": (a - c / 2, b - d / 2, a + c / 2, b + d / 2),
    }[form]
    return np.stack(edges, -1) * (np.ones(4) if unit else np.array([WIDTH, HEIGHT, WIDTH, HEIGHT]))


def listed(rows: Array, least: float = 0.01) -> Array:
    """Boxes [K,6] in an order that does not depend on ties."""
    kept = rows[rows[:, 4] > least].astype(np.float64)
    return kept[np.lexsort((kept[:, 0].round(2), kept[:, 5], -kept[:, 4].round(4)))]


def best(boxes: Array, scores: Array) -> Array:
    """All pairs of box and class, the hundred best."""
    rows = [
        [*boxes[place], scores[place, kind], kind] for place in range(len(boxes)) for kind in range(scores.shape[1])
    ]
    return np.array(sorted(rows, key=lambda row: -row[4])[:100])


@pytest.mark.parametrize("form", ["xyxy", "yxyx", "xywh", "cxcywh"])
@pytest.mark.parametrize("unit", [0, 1])
def test_boxes_and_scores_become_rows_of_six(file: Path, form: Any, unit: int) -> None:
    detector(file, form=form, unit=unit)
    session, sent = adopted(file, task="detect", boxes=Boxes(form=form)), images(4)
    assert str(session.outputs[0]) == f"boxes: float32 [?,{3 * PLACES},6]"
    boxes, scores = said(file, x=floats(sent))
    for row, found in enumerate(session.run({"image": sent})["boxes"]):
        expected = best(corners(boxes[row], form, unit), scores[row])
        np.testing.assert_allclose(listed(found), listed(expected), atol=1e-3)
        assert (np.diff(found[:, 4]) <= 0).all()


@pytest.mark.parametrize(("background", "activation"), [("none", "sigmoid"), ("last", "softmax"), ("first", "softmax")])
def test_logits_become_scores_and_the_background_is_none(file: Path, background: Any, activation: Any) -> None:
    detector(file, classes=5, after="Identity")
    places = Boxes(form="cxcywh", background=background)
    session, sent = adopted(file, task="detect", boxes=places, activation=activation), images(3)
    boxes, logits = said(file, x=floats(sent))
    scores = sigmoid(logits) if activation == "sigmoid" else softmax(logits, 2)
    scores = {"none": scores, "first": scores[..., 1:], "last": scores[..., :-1]}[background]
    for row, found in enumerate(session.run({"image": sent})["boxes"]):
        np.testing.assert_allclose(
            listed(found), listed(best(corners(boxes[row], "cxcywh", 0), scores[row])), atol=1e-3
        )


def overlap(one: Array, other: Array) -> float:
    sides = np.minimum(one[2:4], other[2:4]) - np.maximum(one[:2], other[:2])
    both = sides.clip(0).prod()
    return float(both / ((one[2:4] - one[:2]).prod() + (other[2:4] - other[:2]).prod() - both))


def test_of_boxes_on_one_another_the_surest_stays(file: Path) -> None:
    detector(file)
    sent = images(4)
    session = adopted(file, task="detect", boxes=Boxes(form="cxcywh", suppress=0.2))
    boxes, scores = said(file, x=floats(sent))
    for row, found in enumerate(session.run({"image": sent})["boxes"]):
        kept: list[Array] = []
        for each in best(corners(boxes[row], "cxcywh", 0), scores[row]):
            if all(each[5] != other[5] or overlap(each, other) <= 0.2 for other in kept):
                kept.append(each)
        np.testing.assert_allclose(listed(found), listed(np.array(kept)), atol=1e-3)
        assert len(listed(found)) < (scores[row] > 0.01).sum()


def chosen(file: Path) -> None:
    """A file that has chosen ten boxes and a class for each, 0 for none."""
    write(
        file,
        f"({picture('x')}) => (float[N,10,4] places, float[N,10] sure, int64[N,10] kinds)",
        """means = ReduceMean <axes = [2,3], keepdims = 0> (x)
           moved = MatMul (means, moves)
           boxes = Reshape (moved, four)
           near = Sigmoid (boxes)
           small = Mul (near, tenth)
           places = Add (small, base)
           worth = MatMul (means, weights)
           sure = Sigmoid (worth)
           over = Greater (worth, zero)
           kinds = Cast <to = 7> (over)""",
        moves=drawn(3, 40), four=np.int64([0, 10, 4]), tenth=np.float32(0.1), weights=2 * drawn(3, 10),
        zero=np.float32(0), base=np.tile(np.float32([0.1, 0.2, 0.5, 0.6]), (10, 1)),
    )  # fmt: skip


def test_classes_that_the_file_has_chosen_are_taken(file: Path) -> None:
    chosen(file)
    sent = images(4)
    places = Boxes("places", "kinds", "xyxy", "fractions", "first")
    session = adopted(file, task="detect", boxes=places, labels=labels_of(file, "cell"))
    boxes, scores, kinds = said(file, x=floats(sent))
    for row, found in enumerate(session.run({"image": sent})["boxes"]):
        rows = np.column_stack([corners(boxes[row], "xyxy", 0), scores[row], kinds[row] - 1])
        np.testing.assert_allclose(listed(found), listed(rows), atol=1e-3)
        assert set(found[:, 5].tolist()) == {-1, 0}


def generator(
    file: Path, inputs: str, lines: str = "given = Reshape (z, flat)", last: str = "Tanh", **more: Any
) -> None:
    """Pictures [N,3,4,6] from 8 numbers and whatever `lines` add to them."""
    write(
        file,
        f"({inputs}) => (float[N,c,4,6] made)",
        f"""{lines}
            values = MatMul (given, weights)
            planes = Reshape (values, form)
            made = {last} (planes)""",
        **{"flat": np.int64([0, 8]), "weights": drawn(8, 72), "form": np.int64([0, 3, 4, 6]), **more},
    )


def pictures_of(made: Array, low: float, high: float) -> Array:
    return np.round(((made - low) / (high - low)).clip(0, 1) * 255).transpose(0, 2, 3, 1)


@pytest.mark.parametrize("dims", ["N,8", "N,8,1,1"])
@pytest.mark.parametrize(("last", "low", "high"), [("Tanh", -1, 1), ("Sigmoid", 0, 1)])
def test_latent_vectors_become_pictures(file: Path, dims: str, last: str, low: float, high: float) -> None:
    generator(file, f"float[{dims}] z", last=last)
    z = drawn(5, 8)
    session = adopted(file, task="generate")
    assert {spec.name: str(spec) for spec in session.inputs} == {"z": "z: float32 [?,8]", "class": "class: int64 [?]"}
    found = session.run({"z": z, "class": np.zeros(5, np.int64)})["image"]
    expected = pictures_of(said(file, z=z.reshape(5, *map(int, dims.split(",")[1:])))[0], low, high)
    np.testing.assert_allclose(found.astype(float), expected, atol=1)


@pytest.mark.parametrize(
    ("given", "lines"),
    [
        ("int64[N] y", "row = Gather (table, y)\ngiven = Add (z, row)"),
        ("int32[N,1] y", "rows = Gather (table, y)\nrow = Reshape (rows, flat)\ngiven = Add (z, row)"),
        ("float[N,3] y", "row = MatMul (y, table)\ngiven = Add (z, row)"),
    ],
)
def test_a_class_is_handed_on_in_the_form_that_the_file_takes(file: Path, given: str, lines: str) -> None:
    generator(file, f"float[N,8] z, {given}", lines, table=3 * drawn(3, 8))
    labels = labels_of(file, "cat", "dog", "owl")
    session = adopted(file, task="generate", labels=labels, latent="z")
    z, kinds = drawn(6, 8), np.arange(6, dtype=np.int64) % 3
    rows: Array = kinds.astype(np.int32)[:, None] if "int32" in given else kinds
    if "float" in given:
        rows = np.eye(3, dtype=np.float32)[kinds]
    expected = pictures_of(said(file, z=z, y=rows)[0], -1, 1)
    np.testing.assert_allclose(session.run({"z": z, "class": kinds})["image"].astype(float), expected, atol=1)
    assert not np.array_equal(expected[:3], expected[3:])


def test_grey_pictures_and_swapped_colours_are_made_rgb(file: Path) -> None:
    generator(file, "float[N,8] z", weights=drawn(8, 24), form=np.int64([0, 1, 4, 6]))
    z = drawn(2, 8)
    found = adopted(file, task="generate").run({"z": z, "class": np.zeros(2, np.int64)})["image"]
    expected = pictures_of(said(file, z=z)[0], -1, 1).repeat(3, 3)
    np.testing.assert_allclose(found.astype(float), expected, atol=1)
    generator(file, "float[N,8] z")
    turned = adopted(file, task="generate", pixels=Pixels(channels="bgr"))
    found = turned.run({"z": z, "class": np.zeros(2, np.int64)})["image"]
    expected = pictures_of(said(file, z=z)[0], -1, 1)[..., ::-1]
    np.testing.assert_allclose(found.astype(float), expected, atol=1)


def plain(make: Callable[..., None], *arguments: Any, **named: Any) -> Callable[[Path], None]:
    return lambda file: make(file, *arguments, **named)


def many(file: Path) -> None:
    write(
        file,
        f"({picture('x')}) => (float[N,1200,4] places, float[N,1200,1] sure)",
        """means = ReduceMean <axes = [2,3], keepdims = 0> (x)
           rows = MatMul (means, moves)
           shaped = Reshape (rows, four)
           between = Sigmoid (shaped)
           places = Add (between, base)
           first = Slice (places, from, to, third)
           sure = Sigmoid (first)""",
        moves=drawn(3, 4800), four=np.int64([0, 1200, 4]), base=np.float32([[-0.5, -0.5, 0.5, 0.5]]),
        **{"from": np.int64([0]), "to": np.int64([1]), "third": np.int64([2])},
    )  # fmt: skip


SEGMENT, DETECT, GENERATE = ({"task": task} for task in ("segment", "detect", "generate"))
CENTRED = {**DETECT, "boxes": Boxes(form="cxcywh")}
REFUSED: dict[str, tuple[Callable[[Path], None], dict[str, Any], str]] = {
    "several a pixel": (
        plain(segmenter, after="Sigmoid"),
        SEGMENT,
        "which segment does not serve; .* --activation soft",
    ),
    "no probabilities": (plain(segmenter), {**SEGMENT, "activation": "none"}, r"sum is not 1 \(--activation softmax\)"),
    "one is no softmax": (
        plain(segmenter, 1),
        {**SEGMENT, "activation": "softmax"},
        "--activation is sigmoid, none or",
    ),
    "beyond 0..1": (plain(segmenter, 1), {**SEGMENT, "activation": "none"}, "leave 0..1: say --activation sigmoid"),
    "labels of segments": (
        plain(segmenter),
        {**SEGMENT, "labels": ("a", "b")},
        "has 2 labels, .* tells 4 classes apart",
    ),
    "labels unnamed": (plain(labeller, "int64[N,h,w]"), SEGMENT, "map of labels, not of scores: say with --labels"),
    "too few labels": (
        plain(labeller, "int64[N,h,w]"),
        {**SEGMENT, "labels": ("a",)},
        "holds labels from 0 to 3; --labels names 1",
    ),
    "maps for a classifier": (plain(segmenter), {}, r"maps is float32 \[6, 4, 4, 6\] .*\(--task segment is for maps"),
    "old": (plain(segmenter, opset=12), SEGMENT, "has opset 12: export it with 13 or later"),
    "a flag of others": (
        plain(segmenter),
        {**SEGMENT, "latent": "z"},
        "--latent is of use for generate alone, not for seg",
    ),
    "the middle alone": (
        plain(segmenter),
        {**SEGMENT, "fit": "cover"},
        "--fit is of use for classify, detect alone, not for segment",
    ),
    "boxes for classes": (
        plain(segmenter),
        {"boxes": Boxes(form="xywh")},
        "are of use for detect alone|is of use for dete",
    ),
    "form of boxes": (
        plain(detector, form="cxcywh"),
        DETECT,
        r"read as xyxy in fractions, \d+% of the boxes .* say another --box-format",
    ),
    "unit of boxes": (
        plain(detector, unit=1),
        {**DETECT, "boxes": Boxes(form="cxcywh", unit="fractions")},
        "up to .*: say --box-unit pix",
    ),
    "fractions": (
        plain(detector),
        {**DETECT, "boxes": Boxes(form="cxcywh", unit="pixels")},
        "larger than .*: say --box-unit frac",
    ),
    "logits": (
        plain(detector, after="Identity"),
        CENTRED,
        "run from -.* say --activation sigmoid, or softmax .with --backgr",
    ),
    "one output": (plain(segmenter), DETECT, "an output with boxes and one with scores; this file has maps alone"),
    "no such output": (
        plain(detector),
        {**DETECT, "boxes": Boxes("box")},
        "'box' is no .* with --boxes one of places, su",
    ),
    "scores as boxes": (
        plain(detector),
        {**DETECT, "boxes": Boxes("sure")},
        r"boxes are float \[N,K,4\], .*sure is float",
    ),
    "labels of boxes": (
        plain(detector),
        {**CENTRED, "labels": ("a",)},
        r"has 1 labels.* 3 classes apart \(--background",
    ),
    "classes unnamed": (
        chosen,
        {**DETECT, "output": "sure", "boxes": Boxes("places")},
        r"what class each box has with --classes; places",
    ),
    "chosen without labels": (
        chosen,
        {**DETECT, "boxes": Boxes("places", "kinds")},
        "number of a class: say with --labels",
    ),
    "background is a label": (
        chosen,
        {**DETECT, "boxes": Boxes("places", "kinds"), "labels": ("cell",)},
        r"speaks of number 1 \(--background fi",
    ),
    "chosen is suppressed": (
        chosen,
        {**DETECT, "boxes": Boxes("places", "kinds", suppress=0.5), "labels": ("a", "b")},
        "leave --suppress away",
    ),
    "dense": (many, DETECT, "gives 1200 boxes a picture, .* say with --suppress"),
    "latent of any length": (plain(generator, "float[N,L] z"), GENERATE, r"with a fixed L; z is float \[\?,\?\]"),
    "no latent": (
        plain(segmenter),
        GENERATE,
        r"float \[N,L\] or \[N,L,1,1\] with a fixed L; x is float \[\?,3,16,24\]",
    ),
    "two latents": (
        plain(generator, "float[N,8] z, float[N,8] y", "given = Add (z, y)"),
        GENERATE,
        "choose with --latent one of those",
    ),
    "no such input": (
        plain(generator, "float[N,8] z"),
        {**GENERATE, "latent": "y"},
        "'y' is no input of the file: .*z is",
    ),
    "class unnamed": (
        plain(generator, "float[N,8] z, int64[N] y", "row = Gather (z, y)\ngiven = Add (z, row)"),
        GENERATE,
        r"y is int64 \[\?\], the number of a class: say with --labels",
    ),
    "labels of none": (plain(generator, "float[N,8] z"), {**GENERATE, "labels": ("a", "b")}, "no input for a class"),
    "range": (
        plain(generator, "float[N,8] z", last="Identity"),
        GENERATE,
        "run from -.*: say with --output-range which",
    ),
    "no picture": (
        plain(generator, "float[N,8] z", form=np.int64([0, 4, 6, 3])),
        GENERATE,
        r"\[6, 4, 6, 3\], .*: say --layout nhwc",
    ),
    "rows that mix": (
        plain(generator, "float[N,8] z", "sum = ReduceMax <axes = [0], keepdims = 1> (z)\ngiven = Add (z, sum)"),
        GENERATE,
        "rows of a batch seem to depend on one another",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_guess_is_told_what_was_found_and_what_to_say(file: Path, case: str) -> None:
    make, wanted, sentence = REFUSED[case]
    make(file)
    if isinstance(wanted.get("labels"), tuple):
        wanted = {**wanted, "labels": labels_of(file, *wanted["labels"])}
    with pytest.raises(ExportRefused, match=sentence) as refusal:
        adopted(file, **wanted)
    assert "\n" not in str(refusal.value)
    assert not list((file.parent / "models").glob("*/*"))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The real application with one adopted model of each task."""
    root = tmp_path_factory.mktemp("adopted")
    file = root / "foreign.onnx"
    for make, wanted in (
        (segmenter, Wanted("maps", task="segment", pixels=PIXELS)),
        (detector, Wanted("things", task="detect", pixels=PIXELS, boxes=Boxes(form="cxcywh", suppress=0.5))),
        (plain(generator, "float[N,8] z"), Wanted("made", task="generate")),
    ):
        make(file)
        file.rename(root / f"{wanted.name}.onnx")
        adopt(root / f"{wanted.name}.onnx", root / "models", wanted)
    running = Service(Settings(models=root / "models", device="cpu", threads=1))
    running.root = root  # type: ignore[attr-defined]
    yield running
    running.close()


def test_adopted_models_of_all_tasks_are_served(service: Service) -> None:
    root: Path = service.root  # type: ignore[attr-defined]
    sent = noise(WIDTH, HEIGHT)
    runs = service.post("/segment?mask=rle", save(sent)).json()["results"][0]["mask"]["data"]
    shares = softmax(enlarged(said(root / "maps.onnx", x=floats(sent[None]))[0]), 1)[0]
    mask = np.repeat([value for value, _ in runs], [length for _, length in runs]).reshape(HEIGHT, WIDTH)
    assert (mask == shares.argmax(0)).mean() > 0.99
    objects = service.post("/detect?threshold=0.3", save(sent)).json()["results"][0]["objects"]
    _, scores = said(root / "things.onnx", x=floats(sent[None]))
    assert objects[0]["score"] == pytest.approx(scores.max(), abs=1e-4)
    assert objects[0]["label"] == f"class {scores[0].max(0).argmax()}"
    made = service.post("/generate", json={"seed": 7}).json()["results"][0]
    z, _ = latent_row(7, 0, 8, 1, None)
    expected = pictures_of(said(root / "made.onnx", z=z[None])[0], -1, 1)[0]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(made["image"]["data"]))))
    np.testing.assert_allclose(pixels.astype(float), expected, atol=1)


def test_a_version_says_what_was_said_of_its_file(file: Path) -> None:
    detector(file)
    labels = labels_of(file, "cat", "dog", "owl")
    adopted(file, task="detect", boxes=Boxes(form="cxcywh", suppress=0.5), labels=labels)
    folder = file.parent / "models" / "net" / "1"
    manifest = read_manifest(folder)
    assert manifest.task == "detect"
    assert read_labels(folder, manifest) == ("cat", "dog", "owl")
    command = str(manifest.training["command"])
    for word in ("--task detect", "--box-format cxcywh", "--suppress 0.5", "--labels labels.txt"):
        assert word in command
    assert "--output-range" not in command
    assert manifest.parity == {"boxes_agreement": 1.0}
