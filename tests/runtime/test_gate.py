"""The gate before ONNX Runtime: what it lets through, what it refuses, and that no bytes can upset it."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from app.errors import InvalidModel
from app.runtime import gate, open_session, outside_files
from tests.make_models import make_classifier, make_foreign

ROOT = Path(__file__).parents[2]
WEIGHTS = np.arange(6, dtype=np.float32)


def value(name: str, shape: Sequence[Any] = ("N", 6)) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def graph_of(nodes: Sequence[NodeProto], tensors: Sequence[TensorProto] = ()) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "g", [value("x")], [value("y")], list(tensors))


def model_of(nodes: Sequence[NodeProto], tensors: Sequence[TensorProto] = (), **rest: Any) -> ModelProto:
    opsets = [helper.make_opsetid(domain, 17 if not domain else 1) for domain in ("", "com.microsoft", "pirate")]
    return helper.make_model(graph_of(nodes, tensors), opset_imports=opsets, ir_version=8, **rest)


ADD = helper.make_node("Add", ["x", "w"], ["y"])


def outside(location: str = "weights.bin", **place: Any) -> TensorProto:
    """A tensor whose bytes lie in a file."""
    tensor = TensorProto(name="w", dims=[6], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for key, content in {"location": location, **place}.items():
        tensor.external_data.add(key=key, value=str(content))
    return tensor


def nested(depth: int) -> NodeProto:
    """Branches within branches."""
    inner = ADD if not depth else nested(depth - 1)
    branch = helper.make_graph([inner], "b", [], [value("y")])
    return helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)


@pytest.mark.parametrize("path", sorted(ROOT.glob("models/*/*/model.onnx")), ids=lambda path: path.parts[-3])
def test_shipped_models_pass(path: Path) -> None:
    assert outside_files(path.read_bytes(), {}) == ()


def test_tiny_and_foreign_models_pass(tmp_path: Path) -> None:
    assert outside_files((make_classifier(tmp_path) / "model.onnx").read_bytes(), {}) == ()
    make_foreign(tmp_path / "foreign.onnx")
    assert outside_files((tmp_path / "foreign.onnx").read_bytes(), {}) == ()


def test_a_graph_may_keep_tensors_in_listed_files_and_runs_from_what_was_read() -> None:
    graph = model_of([ADD], [outside(offset=4, length=24)]).SerializeToString()
    content = b"\0" * 4 + WEIGHTS.tobytes()
    assert outside_files(graph, {"weights.bin": len(content), "labels.txt": 3}) == ("weights.bin",)
    session = open_session(graph, threads=1, files={"weights.bin": content})
    assert session.run({"x": np.ones((2, 6), np.float32)})["y"].tolist() == [(WEIGHTS + 1).tolist()] * 2


def every_way_in(tensor: TensorProto) -> dict[str, ModelProto]:
    """A tensor in each place where a file may have one."""
    constant = helper.make_node("Constant", [], ["w"], value=tensor)
    several = helper.make_node("Constant", [], ["w"])
    several.attribute.append(helper.make_attribute("values", [tensor]))
    deep = helper.make_node("If", ["c"], ["y"], then_branch=graph_of([ADD], [tensor]), else_branch=graph_of([ADD]))
    sparse = onnx.SparseTensorProto(values=tensor, indices=numpy_helper.from_array(np.int64([0]), "i"), dims=[6])
    pointed = model_of([ADD])
    pointed.graph.sparse_initializer.append(sparse)
    hidden = model_of([helper.make_node("Constant", [], ["w"], sparse_value=sparse), ADD])
    return {
        "initialiser": model_of([ADD], [tensor]), "constant": model_of([constant, ADD]),
        "attribute of several": model_of([several, ADD]), "branch": model_of([deep]), "sparse": pointed,
        "sparse constant": hidden,
    }  # fmt: skip


@pytest.mark.parametrize("way", every_way_in(outside()))
@pytest.mark.parametrize(
    "location",
    ["/etc/passwd", "../weights.bin", "sub/weights.bin", "..", ".", "", "weights.bin\0", "other.bin",
     "*/_ORT_MEM_ADDR_/*", "file:weights.bin", "weights.bin/", "..\\weights.bin"],
)  # fmt: skip
def test_tensors_elsewhere_are_refused_wherever_in_the_file_they_are(way: str, location: str) -> None:
    graph = every_way_in(outside(location, offset=0, length=24))[way].SerializeToString()
    with pytest.raises(InvalidModel, match="not listed"):
        outside_files(graph, {"weights.bin": 24})


def test_tensors_in_a_file_of_the_version_are_found_wherever_they_are() -> None:
    for model in every_way_in(outside()).values():
        assert outside_files(model.SerializeToString(), {"weights.bin": 24}) == ("weights.bin",)


def twice(tensor: TensorProto) -> TensorProto:
    tensor.external_data.add(key="location", value="weights.bin")
    return tensor


def nowhere() -> TensorProto:
    return TensorProto(name="w", dims=[6], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)


REFUSED: dict[str, tuple[Callable[[], ModelProto], str]] = {
    "a tensor behind the end of its file": (lambda: model_of([ADD], [outside(offset=1, length=24)]), "behind the end"),
    "a length that is no number": (lambda: model_of([ADD], [outside(length="-24")]), "no number"),
    "an offset beyond all": (lambda: model_of([ADD], [outside(offset=10**30)]), "no number"),
    "a tensor in two places": (lambda: model_of([ADD], [twice(outside())]), "not known"),
    "a tensor in no place": (lambda: model_of([ADD], [nowhere()]), "not known"),
    "weights packed by somebody else": (lambda: model_of([ADD], [outside(prepacked_0="x|0|8")]), "not known"),
    "an operator of a library": (
        lambda: model_of([helper.make_node("Board", ["x"], ["y"], domain="pirate")]), "domain 'pirate'",
    ),
    "a compiled program": (
        lambda: model_of([helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft")]), "compiled program",
    ),
    "functions": (
        lambda: model_of([ADD], functions=[
            helper.make_function("pirate", "F", ["a"], ["b"], [], [helper.make_opsetid("", 17)])
        ]), "functions",
    ),
    "an operator of a library in a branch": (
        lambda: model_of([helper.make_node("If", ["c"], ["y"], then_branch=graph_of(
            [helper.make_node("Board", ["x"], ["y"], domain="pirate")]), else_branch=graph_of([ADD]))]), "pirate",
    ),
    "branches nine deep": (lambda: model_of([nested(9)]), "nested"),
    "too many nodes": (lambda: model_of([ADD] * (gate.MOST_NODES + 1)), "nodes"),
    "too many tensors": (
        lambda: model_of([ADD], [TensorProto(name="w")] * (gate.MOST_TENSORS + 1)), "tensors",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_must_not_be_in_a_graph_is_refused_with_the_reason(name: str) -> None:
    make, reason = REFUSED[name]
    with pytest.raises(InvalidModel, match=reason):
        outside_files(make().SerializeToString(), {"weights.bin": 24})


def test_branches_eight_deep_pass() -> None:
    assert outside_files(model_of([nested(7)]).SerializeToString(), {}) == ()


def test_a_graph_that_comes_in_two_parts_is_looked_at_in_both() -> None:
    """Protobuf joins a message that is there twice: a reader of one part would see half of the graph."""
    good = model_of([ADD]).SerializeToString()
    bad = ModelProto(graph=graph_of([ADD], [outside("/etc/passwd")])).SerializeToString()
    for both in (good + bad, bad + good):
        with pytest.raises(InvalidModel, match="not listed"):
            outside_files(both, {})


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "no ONNX"), (b"PK\x03\x04rest", "zip"), (b"\x80\x04\x95", "pickle"), (b"\x18\0\0\0ORTM\0\0", "ORT's own"),
     (b"\x89HDF\r\n", "HDF5"), (b"<!doctype html>", "no ONNX"), (b"\x08\x08", "no ONNX"), (b"\0" * 64, "no ONNX")],
)  # fmt: skip
def test_what_is_no_onnx_is_refused(content: bytes, words: str) -> None:
    with pytest.raises(InvalidModel, match=words):
        outside_files(content, {})


def test_a_file_of_parts_without_end_is_refused() -> None:
    graph = model_of([ADD])
    graph.graph.doc_string = "x"
    parts = b"\x08\x01" * (gate.MOST_FIELDS + 1)
    with pytest.raises(InvalidModel, match="parts"):
        outside_files(graph.SerializeToString() + parts, {})


def test_no_damage_to_a_file_upsets_the_gate(tmp_path: Path) -> None:
    """It passes or is refused; nothing else is raised, and nothing takes long."""
    whole = (make_classifier(tmp_path) / "model.onnx").read_bytes()
    chance = random.Random(0)
    damaged = [whole[:cut] for cut in range(0, len(whole), 3)]
    for _ in range(2000):
        one = bytearray(whole)
        for _ in range(chance.randint(1, 8)):
            one[chance.randrange(len(one))] = chance.randrange(256)
        damaged.append(bytes(one))
    damaged += [chance.randbytes(chance.randint(1, 200)) for _ in range(2000)]
    outcomes = set()
    for one in damaged:
        try:
            outside_files(one, {})
            outcomes.add("passed")
        except InvalidModel:
            outcomes.add("refused")
    assert outcomes == {"passed", "refused"}
