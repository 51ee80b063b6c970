"""`imago-train report`: what versions cost and score, in one table."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from tests.make_models import make_classifier
from training import cost
from training.__main__ import main
from training.report import plot, report

ROOT = Path(__file__).parents[2]


def run_main(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return int(end.value.code or 0)


def graph_of(nodes: list[onnx.NodeProto], shape: list[int | str], weights: dict[str, list[int]]) -> onnx.ModelProto:
    """A graph of one input `x` and one output `y`, with weights of these shapes."""
    return helper.make_model(
        helper.make_graph(
            nodes,
            "tested",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [
                helper.make_tensor(name, TensorProto.FLOAT, dims, bytes(4 * _product(dims)), raw=True)
                for name, dims in weights.items()
            ],
        )
    )


def node_of(kind: str, **attributes: Any) -> onnx.NodeProto:
    """A node that makes `y` of `x` and `w`."""
    return helper.make_node(kind, ["x", "w"], ["y"], **attributes)


def _product(dims: list[int]) -> int:
    total = 1
    for size in dims:
        total *= size
    return total


@pytest.mark.parametrize(
    ("node", "shape", "weights", "operations"),
    [
        (node_of("Conv", pads=[1, 1, 1, 1]), ["n", 3, 8, 8], [16, 3, 3, 3], 2 * 64 * 16 * 27),
        (node_of("Conv", group=4, strides=[2, 2]), [5, 4, 8, 8], [4, 1, 2, 2], 2 * 16 * 4 * 4),
        (node_of("ConvTranspose", strides=[2, 2]), [1, 3, 4, 4], [3, 5, 2, 2], 2 * 16 * 3 * 20),
        (node_of("Gemm", transB=1), ["n", 20], [10, 20], 2 * 10 * 20),
        (node_of("MatMul"), ["n", 6, 20], [20, 10], 2 * 6 * 20 * 10),
    ],
)  # fmt: skip
def test_operations_of_one_row_are_counted(
    node: onnx.NodeProto, shape: list[int | str], weights: list[int], operations: int
) -> None:
    model = graph_of([node], shape, {"w": weights})
    assert cost.operations(model) == operations
    assert cost.parameters(model) == _product(weights)


def test_a_shape_that_cannot_be_told_is_said() -> None:
    with pytest.raises(ValueError, match="shape of 'y'"):
        cost.operations(graph_of([node_of("Conv")], ["n", 3, "h", "w"], {"w": [1, 3, 3, 3]}))


def test_weights_in_whole_numbers_are_parameters_and_their_scales_are_not() -> None:
    nodes = [helper.make_node("DequantizeLinear", ["v", "scale", "zero"], ["w"], axis=0), node_of("Conv")]
    graph = graph_of(nodes, ["n", 3, 8, 8], {"scale": [16]})
    graph.graph.initializer.extend([
        helper.make_tensor("v", TensorProto.INT8, [16, 3, 3, 3], bytes(16 * 27), raw=True),
        helper.make_tensor("zero", TensorProto.INT8, [16], bytes(16), raw=True),
    ])  # fmt: skip
    assert cost.parameters(graph) == 16 * 27


def test_free_axes_of_a_picture_are_as_long_as_it_is_said() -> None:
    model = graph_of([node_of("Conv")], ["n", 3, "h", "w"], {"w": [1, 3, 3, 3]})
    assert cost.operations(model, 12) == 2 * 10 * 10 * 27


def test_a_score_that_is_no_share_is_told_in_its_unit(models: Path) -> None:
    line = next(line for line in report(models).splitlines() if "`bsds-denoiser/1`" in line)
    score = json.loads((models / "bsds-denoiser" / "1" / "manifest.json").read_text())["metrics"]["cbsd68_psnr_25"]
    assert f"| cbsd68_psnr_25 {score:.4g} dB |" in line


def test_every_version_has_a_line_with_what_it_costs_and_scores(models: Path) -> None:
    lines = report(models).splitlines()
    assert len(lines) == 2 + len(list(models.glob("*/*/manifest.json")))
    line = next(line for line in lines if "`cifar10-classifier/1`" in line)
    score = json.loads((models / "cifar10-classifier" / "1" / "manifest.json").read_text())["metrics"]["test_accuracy"]
    assert f"test_accuracy {100 * score:.1f} %" in line
    assert "airbench94" in line
    assert "| classify |" in line


def test_times_are_kept_and_printed_with_their_machine(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(["report", str(models), "--measure"]) == 0
    measured = capsys.readouterr().out
    assert re.search(r"cifar10-classifier/1.* ms \| .* ms a row \(\d+\) \|", measured)
    assert "Times: ONNX Runtime on " in measured
    assert run_main(["report", str(models)]) == 0
    assert capsys.readouterr().out == measured
    (models / "latency.json").unlink()


def test_a_version_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    folder = make_classifier(tmp_path)
    before = report(tmp_path)
    for name in (".2.tmp-7", "kept"):
        shutil.copytree(folder, folder.with_name(name))
    assert report(tmp_path) == before


@pytest.mark.parametrize(
    ("content", "words"), [(None, "holds no version"), ("{}", "latency.json cannot be read")], ids=["empty", "broken"]
)
def test_a_folder_that_cannot_be_reported_is_one_sentence(
    content: str | None, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "latency.json").write_text(content)
    assert run_main(["report", str(tmp_path)]) == 1
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("file", ["README.md", "models/README.md"])
def test_the_table_of_the_shipped_models_is_what_the_command_prints(file: str) -> None:
    assert report(ROOT / "models") in (ROOT / file).read_text()


def test_a_version_without_a_test_part_is_told_by_its_validation_part(tmp_path: Path) -> None:
    training = {"recipe": "imagefolder-classifier"}
    make_classifier(tmp_path, training=training, metrics={"val_accuracy": 0.875, "val_calibration_error": 0.1})
    assert "| val_accuracy 87.5 % |" in report(tmp_path)
    latency = {"tiny-classifier/1": {"row_ms": 1.0, "batch": 4, "batch_ms": 2.0}}
    (tmp_path / "latency.json").write_text(json.dumps({"machine": "a test", "versions": latency}))
    assert plot(tmp_path).startswith(b"\x89PNG")
