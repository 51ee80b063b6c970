"""Adopting: foreign ONNX files of a few KB, whose answers a test can compute by hand, become served versions."""

import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import typer
from onnx import TensorProto, helper, numpy_helper

from app.errors import InvalidModel
from app.manifest import digest_files, read_labels, read_manifest
from app.runtime.ort import OrtSession
from app.settings import Settings
from tests.api.service import Service
from tests.imaging.pictures import noise, save
from tests.make_models import CLASSES, foreign_logits, make_foreign
from training.__main__ import cli, main
from training.adoption.adopt import adopt
from training.adoption.wanted import Pixels, Wanted
from training.export import ExportRefused
from training.version import open_version

Array = np.ndarray[Any, Any]
SOFTMAX = (("Softmax", {"axis": 1}),)
IMAGENET = Pixels((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "foreign.onnx"


def adopted(file: Path, **wanted: Any) -> OrtSession:
    """Adopt a file and open what came of it."""
    folder = adopt(file, file.parent / "models", Wanted("net", **wanted))
    return OrtSession((folder / "model.onnx").read_bytes(), threads=1)


def images(count: int, channels: int = 3) -> Array:
    """Of height 6 and width 8, each with a colour of its own under noise."""
    random = np.random.default_rng(7)
    colours = random.integers(0, 128, (count, 1, 1, channels))
    return (colours + random.integers(0, 128, (count, 6, 8, channels))).astype(np.uint8)


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def by_hand(rows: Array, mean: Any = 0.0, std: Any = 1.0, input_range: int = 1) -> Array:
    """Probabilities of images [N,6,8,C], whose channels stand in the network's order."""
    values = (rows / 255 * input_range - np.array(mean)) / np.array(std)
    return softmax(foreign_logits(values.transpose(0, 3, 1, 2)))


@pytest.mark.parametrize("rows", [1, 2, 3, 16])
@pytest.mark.parametrize("batch", ["N", None, 1, 2, 4])
def test_any_number_of_rows_is_answered_as_computed_by_hand(file: Path, batch: Any, rows: int) -> None:
    make_foreign(file, batch=batch)
    session, sent = adopted(file, pixels=IMAGENET), images(rows)
    found = session.run({"image": sent})["probabilities"]
    np.testing.assert_allclose(found, by_hand(sent, IMAGENET.mean, IMAGENET.std), atol=1e-5)


def as_torch_writes_it(model: onnx.ModelProto) -> None:
    """A shape in a node of its own, and read to the letter."""
    (reshape,) = (node for node in model.graph.node if node.op_type == "Reshape")
    reshape.attribute.append(helper.make_attribute("allowzero", 1))
    shape = helper.make_node("Constant", [], ["constant"], value=numpy_helper.from_array(np.int64([1, 3]), "value"))
    reshape.input[1] = "constant"
    model.graph.node.insert(0, shape)


def test_a_fixed_batch_is_freed_where_shapes_are_nodes(file: Path) -> None:
    unlike(as_torch_writes_it, batch=1)(file)
    found = adopted(file).run({"image": images(3)})["probabilities"]
    np.testing.assert_allclose(found, by_hand(images(3)), atol=1e-5)


@pytest.mark.parametrize(
    ("channels", "pixels", "order"),
    [
        (1, Pixels(), [0]),
        (1, Pixels((0.1307,), (0.3081,)), [0]),
        (3, Pixels((0.5,), (0.5,)), [0, 1, 2]),
        (3, Pixels((0.1, 0.2, 0.3), (0.9, 0.8, 0.7), channels="bgr"), [2, 1, 0]),
        (3, Pixels((103.939, 116.779, 123.68), (57.0,), 255, "bgr"), [2, 1, 0]),
        (3, Pixels((0.0,), (255.0,), 255), [0, 1, 2]),
    ],
)
def test_pixels_become_what_the_network_was_trained_on(
    file: Path, channels: int, pixels: Pixels, order: list[int]
) -> None:
    make_foreign(file, channels)
    session, sent = adopted(file, pixels=pixels), images(5, channels)
    assert str(session.inputs[0]) == f"image: uint8 [?,6,8,{channels}]"
    expected = by_hand(sent[..., order], pixels.mean, pixels.std, pixels.input_range)
    np.testing.assert_allclose(session.run({"image": sent})["probabilities"], expected, atol=1e-5)


@pytest.mark.parametrize("activation", ["auto", "softmax"])
def test_logits_get_a_softmax(file: Path, activation: str) -> None:
    make_foreign(file, steps=())
    session = adopted(file, activation=activation)
    np.testing.assert_allclose(session.run({"image": images(4)})["probabilities"], by_hand(images(4)), atol=1e-5)


@pytest.mark.parametrize("activation", ["auto", "none"])
def test_probabilities_stay_as_they_are(file: Path, activation: str) -> None:
    make_foreign(file)
    session = adopted(file, activation=activation)
    assert read_manifest(file.parent / "models" / "net" / "1").training["activation"] == "none"
    np.testing.assert_allclose(session.run({"image": images(4)})["probabilities"], by_hand(images(4)), atol=1e-5)


def test_a_network_of_half_precision_is_fed_and_read_in_it(file: Path) -> None:
    make_foreign(file, dtype=TensorProto.FLOAT16)
    session, sent = adopted(file, pixels=IMAGENET), images(4)
    assert str(session.outputs[0]) == "probabilities: float32 [?,4]"
    found = session.run({"image": sent})["probabilities"]
    np.testing.assert_allclose(found, by_hand(sent, IMAGENET.mean, IMAGENET.std), atol=5e-3)


def test_scores_with_empty_axes_behind_them_are_flattened(file: Path) -> None:
    steps = (("Flatten", {"axis": 1}), ("GlobalAveragePool", {}))
    model = make_foreign(file, steps=steps, shape=("N", CLASSES, 1, 1))
    model.graph.node[-2].CopyFrom(helper.make_node("Unsqueeze", ["logits", "sides"], [model.graph.node[-1].input[0]]))
    model.graph.initializer.append(numpy_helper.from_array(np.int64([2, 3]), "sides"))
    onnx.save(model, file)
    found = adopted(file).run({"image": images(3)})["probabilities"]
    np.testing.assert_allclose(found, by_hand(images(3)), atol=1e-5)


@pytest.mark.parametrize("names", [("image", "probabilities"), ("probabilities", "image"), ("scale", "shift")])
@pytest.mark.parametrize("steps", [(), SOFTMAX])
def test_names_of_the_file_may_be_those_of_the_contract(file: Path, names: tuple[str, str], steps: Any) -> None:
    make_foreign(file, names=names, steps=steps)
    session, sent = adopted(file, pixels=IMAGENET), images(3)
    found = session.run({"image": sent})["probabilities"]
    np.testing.assert_allclose(found, by_hand(sent, IMAGENET.mean, IMAGENET.std), atol=1e-5)


def test_a_file_of_the_first_format_lists_its_weights_as_inputs(file: Path) -> None:
    model = make_foreign(file, opset=9, ir_version=3)
    for weight in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims))
    onnx.save(model, file)
    assert [spec.name for spec in adopted(file).inputs] == ["image"]


def test_branches_keep_what_they_see_of_the_graph_around_them(file: Path) -> None:
    model = make_foreign(file, steps=(("Identity", {}),))
    scores = [helper.make_tensor_value_info("chosen", TensorProto.FLOAT, None)]
    taken = helper.make_graph([helper.make_node("Mul", ["logits", "twice"], ["chosen"])], "taken", [], scores)
    left = helper.make_graph([helper.make_node("Neg", ["logits"], ["chosen"])], "left", [], scores)
    nodes = model.graph.node
    nodes[-1].CopyFrom(helper.make_node("If", ["yes"], ["scores"], then_branch=taken, else_branch=left))
    model.graph.initializer.append(numpy_helper.from_array(np.float32([2]), "twice"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    onnx.save(model, file)
    found = adopted(file).run({"image": images(3)})["probabilities"]
    np.testing.assert_allclose(found, softmax(2 * np.log(by_hand(images(3)))), atol=1e-5)


def test_functions_of_the_file_are_written_out(file: Path) -> None:
    model = make_foreign(file)
    imports = [helper.make_opsetid("", 17)]
    body = [helper.make_node("Softmax", ["a"], ["b"], axis=1)]
    model.functions.append(helper.make_function("theirs", "Tail", ["a"], ["b"], body, imports))
    model.graph.node[-1].CopyFrom(helper.make_node("Tail", ["logits"], ["scores"], domain="theirs"))
    model.opset_import.append(helper.make_opsetid("theirs", 1))
    onnx.save(model, file)
    found = adopted(file).run({"image": images(3)})["probabilities"]
    np.testing.assert_allclose(found, by_hand(images(3)), atol=1e-5)


def with_two_heads(file: Path) -> None:
    """A second output, which alone needs a node and a weight of its own."""
    model = make_foreign(file)
    model.graph.node.append(helper.make_node("Mul", ["pooled", "unused"], ["embedding"]))
    model.graph.initializer.append(numpy_helper.from_array(np.float32([2]), "unused"))
    model.graph.output.append(helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 3, 1, 1]))
    onnx.save(model, file)


def test_of_several_outputs_one_is_chosen_and_the_others_cost_nothing(file: Path) -> None:
    with_two_heads(file)
    with pytest.raises(ExportRefused, match="choose with --output one of scores, embedding"):
        adopted(file)
    with pytest.raises(ExportRefused, match="'score' is no output of the file: choose with --output one of scores"):
        adopted(file, output="score")
    assert [spec.name for spec in adopted(file, output="scores").outputs] == ["probabilities"]
    graph = onnx.load(file.parent / "models" / "net" / "1" / "model.onnx").graph
    assert "network/unused" not in {weight.name for weight in graph.initializer}
    assert "network/embedding" not in {name for node in graph.node for name in node.output}


@pytest.mark.parametrize("batch", ["N", 1])
def test_sides_that_the_file_leaves_open_are_chosen(file: Path, batch: Any) -> None:
    make_foreign(file, size=("H", None), batch=batch)
    with pytest.raises(ExportRefused, match="takes pictures of any size: choose one with --size"):
        adopted(file)
    assert str(adopted(file, size=(20, 10)).inputs[0]) == "image: uint8 [?,10,20,3]"


def test_a_size_that_the_file_has_itself_may_be_repeated(file: Path) -> None:
    make_foreign(file)
    assert str(adopted(file, size=(8, 6)).inputs[0]) == "image: uint8 [?,6,8,3]"


def unlike(change: Callable[[onnx.ModelProto], Any], **builder: Any) -> Callable[[Path], None]:
    """A maker of a file in which something was changed."""

    def make(file: Path) -> None:
        model = make_foreign(file, **builder)
        change(model)
        onnx.save(model, file)

    return make


def last(*node: Any, **attributes: Any) -> Callable[[onnx.ModelProto], None]:
    """Replace the last node."""
    return lambda model: model.graph.node[-1].CopyFrom(helper.make_node(*node, **attributes))


def second_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["N"]))


def in_other_files(file: Path) -> None:
    onnx.save(make_foreign(file), file, save_as_external_data=True, location="weights.bin", size_threshold=0)


def of(**builder: Any) -> Callable[[Path], Any]:
    return lambda file: make_foreign(file, **builder)


def saying(content: bytes) -> Callable[[Path], Any]:
    return lambda file: file.write_bytes(content)


def squeezing(model: onnx.ModelProto) -> None:
    """Only a batch of one row can be squeezed."""
    at, model.graph.node[-1].input[0] = model.graph.node[-1].input[0], "whole"
    nodes = [
        helper.make_node("Squeeze", [at, "first"], ["row"]),
        helper.make_node("Unsqueeze", ["row", "first"], ["whole"]),
    ]
    model.graph.initializer.append(numpy_helper.from_array(np.int64([0]), "first"))
    before = [*model.graph.node[:-1], *nodes, model.graph.node[-1]]
    del model.graph.node[:]
    model.graph.node.extend(before)


def mixing(model: onnx.ModelProto) -> None:
    """Add to each row what the rows of the batch have in common."""
    at, model.graph.node[-1].input[0] = model.graph.node[-1].input[0], "mixed"
    nodes = [
        helper.make_node("ReduceMax", [at], ["common"], axes=[0], keepdims=1),
        helper.make_node("Sub", [at, "common"], ["apart"]),
        helper.make_node("Add", [at, "apart"], ["mixed"]),
    ]
    before = [*model.graph.node[:-1], *nodes, model.graph.node[-1]]
    del model.graph.node[:]
    model.graph.node.extend(before)


def only_one_row(model: onnx.ModelProto) -> None:
    model.graph.node[-1].CopyFrom(helper.make_node("ReduceMax", ["logits"], ["scores"], axes=[0], keepdims=1))


REFUSED: dict[str, tuple[Callable[[Path], Any], dict[str, Any], str]] = {
    "missing": (lambda file: None, {}, r"foreign\.onnx cannot be read: No such file"),
    "text": (saying(b"This is a text.\n" * 9), {}, r"foreign\.onnx is no ONNX file"),
    "empty": (saying(b""), {}, r"foreign\.onnx is no ONNX file, or one without a graph"),
    "three axes": (of(size=(), shape=("N", 4)), {}, r"is float \[N,C,H,W\] or \[N,H,W,C\]; input is float \[\?,3\]"),
    "bytes": (of(dtype=TensorProto.UINT8), {}, r"input is uint8 \[\?,3,6,8\]"),
    "several inputs": (unlike(second_input), {}, "with one input, its picture; this file has input, mask"),
    "external": (in_other_files, {}, "the weights lie in other files: put all into one"),
    "domain": (unlike(last("Softmax", ["logits"], ["scores"], domain="ai.onnx.ml")), {}, "operators of 'ai.onnx.ml'"),
    "opset": (of(opset=6), {}, "has opset 6: export it with 7 or later"),
    "channels": (of(channels=4), {}, r"input is \[\?,4,6,8\]: the second axis has to be 1 \(grey\) or 3 channels"),
    "channels last": (of(channels=6, size=(8, 3)), {}, r"\[\?,6,8,3\], channels last \(NHWC\): say --layout nhwc"),
    "size": (of(), {"size": (6, 8)}, r"--size says 6x8, and the file takes height and width \[6,8\]"),
    "half a size": (of(size=("H", 8)), {"size": (9, 9)}, r"height and width \[\?,8\]"),
    "two means": (of(), {"pixels": Pixels(mean=(0.5, 0.5))}, "--mean takes one number, or one for each of the 3 chann"),
    "three stds": (of(channels=1), {"pixels": Pixels(std=(1, 1, 1))}, "--std takes one number, or one .* the 1 chann"),
    "no number": (of(), {"pixels": Pixels(mean=(float("nan"),))}, "--mean takes one number"),
    "zero std": (of(), {"pixels": Pixels(std=(0.0,))}, "--std takes numbers above 0"),
    "means of bytes": (of(), {"pixels": Pixels(mean=(123.7,))}, "--mean lies beyond 1, .* need --input-range 255"),
    "grey as bgr": (of(channels=1), {"pixels": Pixels(channels="bgr")}, "bgr is for pictures in colour"),
    "sigmoid": (of(steps=(("Sigmoid", {}),)), {}, "those of a sigmoid for several labels .* classify does not serve"),
    "no probabilities": (of(steps=()), {"activation": "none"}, "no probabilities: they are negative, or their sum"),
    "one score": (of(steps=(("ReduceMax", {"axes": [1], "keepdims": 1}),)), {}, "one score a picture, a yes or no"),
    "whole numbers": (
        unlike(lambda model: model.graph.output[0].CopyFrom(
            helper.make_tensor_value_info("scores", TensorProto.INT64, ["N", 1])
        ), steps=(("ArgMax", {"axis": 1}),)), {}, r"scores is int64 \[6, 1\] for 6 pictures: not a row of scores",
    ),
    "a number each": (of(steps=(("ReduceMax", {"axes": [1], "keepdims": 0}),), shape=("N",)), {}, r"float32 \[6\] for"),
    "not finite": (of(steps=(("Log", {}),)), {}, "scores is not finite for random rows"),
    "fixed batch": (unlike(squeezing, batch=1), {}, "insists on batches of 1 and fails in batches of 1, 2 and 3"),
    "free, it says": (unlike(squeezing), {}, r"^the file fails in batches of 1, 2 and 3 \(export it with a dyn"),
    "mixed rows": (unlike(mixing), {}, "the rows of a batch seem to depend on one another"),
    "one row": (unlike(only_one_row, batch=1, steps=SOFTMAX), {"activation": "softmax"}, "does not answer each row"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_served_is_refused_in_one_sentence_and_leaves_nothing(file: Path, case: str) -> None:
    make, wanted, sentence = REFUSED[case]
    make(file)
    with pytest.raises(ExportRefused, match=sentence) as refusal:
        adopted(file, **wanted)
    assert "\n" not in str(refusal.value)
    assert not list((file.parent / "models").glob("*/*"))


def test_a_file_that_onnx_runtime_does_not_take_is_refused(file: Path) -> None:
    unlike(last("Softmaxx", ["logits"], ["scores"]))(file)
    with pytest.raises(InvalidModel, match="ONNX Runtime does not take the graph"):
        adopted(file)


def test_a_file_may_have_more_rows_at_once_than_are_compared(file: Path) -> None:
    make_foreign(file, batch=8)
    assert adopted(file).run({"image": images(3)})["probabilities"].shape == (3, 4)


@pytest.mark.parametrize("text", ["cat\ndog\nbird", "a\nb\nc\nd\ne\n"])
def test_labels_that_are_not_as_many_as_classes_are_refused(file: Path, text: str) -> None:
    make_foreign(file)
    labels = file.with_name("labels.txt")
    labels.write_text(text)
    with pytest.raises(ExportRefused, match=r"has \d labels, one a line; the file tells 4 classes apart"):
        adopted(file, labels=labels)


@pytest.mark.parametrize(
    ("content", "words"), [(b"\xff\xfe\0", "is not UTF-8 text"), (None, "labels.txt cannot be read: No such file")]
)
def test_labels_that_cannot_be_read_are_refused(file: Path, content: bytes | None, words: str) -> None:
    make_foreign(file)
    labels = file.with_name("labels.txt")
    if content is not None:
        labels.write_bytes(content)
    with pytest.raises(ExportRefused, match=words):
        adopted(file, labels=labels)


def test_a_version_says_where_it_came_from_and_what_was_compared(file: Path) -> None:
    make_foreign(file, steps=())
    labels = file.with_name("animals.txt")
    labels.write_text("\ufeffcat\ndog\nbird\nOtter\n", encoding="utf-8")
    wanted = Wanted("net", pixels=IMAGENET, labels=labels, fit="cover", description="Four animals", licence="CC0-1.0")
    folder = adopt(file, file.parent / "models", wanted)
    manifest = read_manifest(folder)
    assert (manifest.name, manifest.version, manifest.task) == ("net", 1, "classify")
    assert (manifest.description, manifest.licence) == ("Four animals", "CC0-1.0")
    assert manifest.image is not None
    assert (manifest.image.width, manifest.image.height, manifest.image.fit) == (8, 6, "cover")
    assert manifest.files == digest_files(folder)
    assert set(manifest.files) == {"model.onnx", "labels.txt", "README.md"}
    assert read_labels(folder, manifest) == ("cat", "dog", "bird", "Otter")
    assert manifest.training["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert manifest.training["mean"] == list(IMAGENET.mean)
    assert manifest.training["activation"] == "softmax"
    assert manifest.parity["probabilities_max_abs_diff"] < 1e-5
    assert manifest.parity["top1_agreement"] == 1
    card = (folder / "README.md").read_text()
    command = str(manifest.training["command"])
    for word in ("Four animals", "CC0-1.0", "top1_agreement", command, str(manifest.training["sha256"])):
        assert word in card
    assert "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225" in command
    assert str(file.parent) not in card + (folder / "manifest.json").read_text()


def test_labels_are_numbered_where_none_are_given(file: Path) -> None:
    make_foreign(file)
    adopted(file)
    assert open_version(file.parent / "models" / "net" / "1").task.labels == (
        "class 0",
        "class 1",
        "class 2",
        "class 3",
    )


def test_an_adopted_file_tells_nothing_of_the_machine_that_wrote_it(file: Path) -> None:
    model = make_foreign(file)
    model.doc_string = model.graph.doc_string = "made in /home/somebody"
    model.graph.node[0].doc_string = "/home/somebody/net.py"
    helper.set_model_props(model, {"path": "/home/somebody"})
    onnx.save(model, file)
    adopted(file)
    assert b"somebody" not in (file.parent / "models" / "net" / "1" / "model.onnx").read_bytes()


def test_versions_follow_one_another_and_are_never_changed(file: Path) -> None:
    make_foreign(file)
    models = file.parent / "models"
    assert [adopt(file, models, Wanted("net")).name for _ in range(2)] == ["1", "2"]
    assert adopt(file, models, Wanted("net", version=7)).name == "7"
    with pytest.raises(ExportRefused, match="is there already"):
        adopt(file, models, Wanted("net", version=2))
    assert sorted(path.name for path in (models / "net").iterdir()) == ["1", "2", "7"]


@pytest.mark.parametrize("name", ["../net", "a b", "", "x" * 65])
def test_a_name_that_is_no_folder_of_its_own_is_refused(file: Path, name: str) -> None:
    make_foreign(file)
    with pytest.raises(ExportRefused, match="name: String should match pattern"):
        adopt(file, file.parent / "models", Wanted(name))
    assert not list(file.parent.glob("models*"))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The real application with one adopted model and nothing else."""
    root = tmp_path_factory.mktemp("adopted")
    make_foreign(root / "foreign.onnx")
    adopt(root / "foreign.onnx", root / "models", Wanted("net", pixels=IMAGENET))
    running = Service(Settings(models=root / "models", device="cpu", threads=1))
    yield running
    running.close()


def test_an_adopted_model_is_served(service: Service) -> None:
    sent = noise(8, 6)
    answer = service.post("/classify?top_k=1", save(sent))
    assert answer.status_code == 200
    (label,) = answer.json()["results"][0]["labels"]
    expected = by_hand(sent[None], IMAGENET.mean, IMAGENET.std)[0]
    assert label["label"] == f"class {expected.argmax()}"
    assert label["probability"] == pytest.approx(expected.max(), abs=1e-5)


def test_an_adopted_model_refuses_to_explain(service: Service) -> None:
    answer = service.post("/classify?explain=true", save(noise(8, 6)))
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-option")
    assert "has no heat maps" in answer.json()["detail"]


def test_an_adopted_model_refuses_to_draw(service: Service) -> None:
    answer = service.post("/classify", save(noise(8, 6)), accept="image/png")
    assert (answer.status_code, answer.json()["code"]) == (406, "not-acceptable")
    assert "has no heat maps" in answer.json()["detail"]


def run_main(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(["adopt", *arguments])
    return int(end.value.code or 0)


def test_the_command_in_the_manifest_makes_the_same_graph(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    make_foreign(file, size=("H", "W"), steps=())
    options = [
        "--size",
        "8x6",
        "--mean",
        "103.9,116.8,123.7",
        "--std",
        "57",
        "--input-range",
        "255",
        "--channels",
        "bgr",
    ]
    assert run_main("foreign.onnx", "--name", "net", *options, "--licence", "CC0-1.0") == 0
    manifest = read_manifest(Path("models/net/1"))
    words = str(manifest.training["command"]).replace("FILE", "foreign.onnx").split()
    assert words[:2] == ["imago-train", "adopt"]
    assert run_main(*words[2:]) == 0
    assert read_manifest(Path("models/net/2")).files["model.onnx"] == manifest.files["model.onnx"]


@pytest.mark.parametrize("size", ["8", "8x8"])
def test_one_number_is_both_sides(file: Path, size: str) -> None:
    make_foreign(file, size=("H", "W"))
    assert run_main(str(file), "--name", "net", "--models", str(file.parent / "models"), "--size", size) == 0
    assert str(open_version(file.parent / "models" / "net" / "1").session.inputs[0]) == "image: uint8 [?,8,8,3]"


def test_a_refusal_is_one_sentence(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(str(file), "--name", "net") == 1
    assert capsys.readouterr().err == f"imago-train: {file} cannot be read: No such file or directory\n"


@pytest.mark.parametrize(
    "option", [("--size", "0"), ("--size", "8x"), ("--mean", "0.5;0.5"), ("--std", ""), ("--channels", "bgra")]
)
def test_an_option_that_cannot_be_read_is_refused(file: Path, option: tuple[str, str]) -> None:
    assert run_main(str(file), "--name", "net", *option) == 2


def test_every_option_is_in_the_readme() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    section = readme.split("\n## Bring your own ONNX file\n")[1].split("\n## ")[0]
    command: Any = typer.main.get_command(cli)
    options = {flag for option in command.commands["adopt"].params for flag in option.opts if flag.startswith("--")}
    assert options - {"--help"} == set(re.findall(r"--[a-z][a-z-]+", section))
