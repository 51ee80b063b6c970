"""Shipped graphs stay in ONNX Runtime's blocked layout (NCHWc): a way out of it and back copies whole maps."""

import collections
from pathlib import Path

import onnx
import onnxruntime
import pytest

MODELS = Path(__file__).parents[2] / "models"

REORDERS = {"cifar10-classifier": 1, "camvid-segmenter": 3, "cifar10-generator": 5}
"""Copies between layouts, at most: into the blocked one where the first convolution does not take the picture itself,
out of it before what reads the maps."""


def operators(file: Path, scratch: Path) -> "collections.Counter[str]":
    """What ONNX Runtime makes of a graph on this processor."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(scratch / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(file), options, ["CPUExecutionProvider"])
    nodes = onnx.load(scratch / "optimised.onnx").graph.node
    return collections.Counter(f"{node.domain}.{node.op_type}".removeprefix(".") for node in nodes)


@pytest.mark.parametrize("name", REORDERS)
def test_a_shipped_graph_is_reordered_no_more_than_at_its_ends(name: str, tmp_path: Path) -> None:
    for version in sorted((MODELS / name).glob("*/model.onnx")):
        found = operators(version, tmp_path)
        if not found["com.microsoft.nchwc.Conv"]:
            pytest.skip("ONNX Runtime has no blocked layout on this processor")
        assert found["Conv"] == found["FusedConv"] == found["com.microsoft.FusedConv"] == 0
        reorders = found["com.microsoft.nchwc.ReorderInput"] + found["com.microsoft.nchwc.ReorderOutput"]
        assert reorders <= REORDERS[name], dict(found)
