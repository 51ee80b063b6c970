"""Tensors on the wire, in every datatype: what Triton's client writes is read, and what is written it reads."""

import json
import struct
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

from app.api.protocol import classified
from app.api.protocol_messages import read_request, write_answer
from app.api.protocol_requests import InferRequest, Signature
from app.errors import InvalidRequest
from app.tensors import TensorSpec

VALUES: dict[str, np.ndarray[Any, Any]] = {
    "BOOL": np.array([[True, False], [False, True]]),
    "UINT8": np.array([[0, 255], [1, 2]], np.uint8),
    "UINT16": np.array([[0, 65535], [1, 2]], np.uint16),
    "UINT32": np.array([[0, 2**32 - 1], [1, 2]], np.uint32),
    "UINT64": np.array([[0, 2**64 - 1], [1, 2]], np.uint64),
    "INT8": np.array([[-128, 127], [1, 2]], np.int8),
    "INT16": np.array([[-(2**15), 2**15 - 1], [1, 2]], np.int16),
    "INT32": np.array([[-(2**31), 2**31 - 1], [1, 2]], np.int32),
    "INT64": np.array([[-(2**63), 2**63 - 1], [1, 2]], np.int64),
    "FP16": np.array([[0.5, -65504], [1, 2]], np.float16),
    "FP32": np.array([[1e-45, -3.4028235e38], [0.1, 2]], np.float32),
    "FP64": np.array([[5e-324, -1.7976931348623157e308], [0.1, 2]], np.float64),
    "BF16": np.array([[0.5, -3.3895314e38], [1.0078125, 2]], ml_dtypes.bfloat16),
}


def signature(dtype: Any, *dims: int | None, pictures: bool = False, most_rows: int = 8) -> Signature:
    """A model whose output is its input."""
    spec = TensorSpec("x", np.dtype(dtype), (None, *dims))
    return Signature("m", {"x": spec}, {"x": spec}, {}, "x" if pictures else None, most_rows)


def served(datatype: str) -> Signature:
    """A model that takes a datatype; there are none of BF16, whose values are float32."""
    return signature(np.float32 if datatype == "BF16" else VALUES[datatype].dtype, 2)


def sent(datatype: str, values: np.ndarray[Any, Any], binary: bool) -> tuple[bytes, int | None]:
    """A request as Triton's client writes it: the body, and the length of its header."""
    tensor = InferInput("x", list(values.shape), datatype)
    tensor.set_data_from_numpy(values, binary_data=binary)
    body, length = InferenceServerClient.generate_request_body([tensor], [InferRequestedOutput("x", binary)])
    return bytes(body), length if binary else None


def echoed(request: InferRequest, model: Signature) -> Any:
    """What Triton's client reads in the answer of a model that gives back what it takes."""
    answer = write_answer(request, 1, request.tensors, model)
    found = InferenceServerClient.parse_response_body(answer.body, header_length=answer.header_length)
    return found.as_numpy("x")


@pytest.mark.parametrize("datatype", VALUES)
def test_binary_tensors_come_and_go_whole(datatype: str) -> None:
    model = served(datatype)
    found = echoed(read_request(*sent(datatype, VALUES[datatype], binary=True), model), model)
    np.testing.assert_array_equal(found, VALUES[datatype].astype(found.dtype), strict=True)


@pytest.mark.parametrize("datatype", sorted(VALUES.keys() - {"FP16", "BF16"}))
def test_json_tensors_come_and_go_whole(datatype: str) -> None:
    model = served(datatype)
    found = echoed(read_request(*sent(datatype, VALUES[datatype], binary=False), model), model)
    np.testing.assert_array_equal(found, VALUES[datatype], strict=True)


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_half_precision_is_taken_in_binary_only(datatype: str) -> None:
    with pytest.raises(InvalidRequest, match=f"{datatype} cannot be sent as JSON"):
        read(served(datatype), datatype=datatype, shape=[1, 2], data=[1, 2])


def test_half_precision_is_answered_in_binary_only() -> None:
    body, length = sent("FP16", VALUES["FP16"], binary=True)
    as_json = body.replace(b'"binary_data":true', b'"binary_data": false')
    assert length is not None
    with pytest.raises(InvalidRequest, match="Output 'x': FP16 cannot be sent as JSON"):
        read_request(as_json, length + len(as_json) - len(body), served("FP16"))


def test_elements_of_bytes_come_whole() -> None:
    pictures = np.array([b"", b"\0\xff", "gr\u00fc\u00df".encode()], object)
    body, length = sent("BYTES", pictures, binary=True)
    assert read_request(body, length, signature(np.uint8, 2, 2, 3, pictures=True)).pictures == list(pictures)


def read(model: Signature, length: int | None = None, tail: bytes = b"", **entry: Any) -> InferRequest:
    """Read a request with one input."""
    head = json.dumps({"inputs": [{"name": "x", **entry}]}).encode()
    return read_request(head + tail, len(head) if tail and length is None else length, model)


@pytest.mark.parametrize("data", [[1, 2, 3, 4], [[1, 2], [3, 4]], [[[1], [2]], [[3], [4]]]])
def test_json_data_may_be_flat_or_nested(data: Any) -> None:
    request = read(served("INT8"), datatype="INT8", shape=[2, 2], data=data)
    assert request.tensors["x"].tolist() == [[1, 2], [3, 4]]


def test_the_largest_tensor_may_be_nested() -> None:
    model = signature(np.uint8, 100, 50, 3)
    rows = np.zeros((model.most_rows, 100, 50, 3), np.uint8)
    assert read(model, datatype="UINT8", shape=rows.shape, data=rows.tolist()).rows == model.most_rows
    assert json.dumps(rows.tolist()).count("[") == model.most_lists


def test_a_single_input_need_not_say_how_many_bytes_follow() -> None:
    assert read(served("INT8"), datatype="INT8", shape=[1, 2], tail=b"\1\2").tensors["x"].tolist() == [[1, 2]]


def test_unaligned_numbers_are_read_right() -> None:
    for pad in range(8):
        head = json.dumps({"inputs": [{"name": "x", "datatype": "FP64", "shape": [1, 2]}]}).encode() + b" " * pad
        found = read_request(head + struct.pack("<2d", 0.1, -7), len(head), served("FP64")).tensors["x"]
        assert found.tolist() == [[0.1, -7]]
        assert found.flags.aligned


DEEP: Any = [1, 2]
for _ in range(40):
    DEEP = [DEEP]
REFUSED: dict[str, tuple[str, str, Any]] = {
    "too few": ("INT8", "1 elements; its shape takes 2", {"data": [1]}),
    "too many": ("INT8", "3 elements; its shape takes 2", {"data": [1, 2, 3]}),
    "no list": ("INT8", "needs 'data', a list", {"data": "12"}),
    "null": ("INT8", "needs 'data', a list", {"data": None}),
    "text": ("INT8", "not of datatype INT8", {"data": ["1", "2"]}),
    "a fraction": ("INT8", "not of datatype INT8", {"data": [1, 1.5]}),
    "a truth": ("INT8", "not of datatype INT8", {"data": [1, True]}),
    "nothing": ("FP32", "not of datatype FP32", {"data": [1, None]}),
    "an object": ("FP32", "not of datatype FP32", {"data": [1, {}]}),
    "a number for a truth": ("BOOL", "not of datatype BOOL", {"data": [1, 0]}),
    "beyond the range": ("INT8", "beyond the range of INT8", {"data": [1, 128]}),
    "below zero": ("UINT8", "beyond the range of UINT8", {"data": [1, -1]}),
    "beyond 64 bits": ("INT64", "not of datatype INT64", {"data": [1, 10**30]}),
    "beyond FP32": ("FP32", "beyond the range of FP32", {"data": [1, 1e39]}),
    "beyond FP64": ("FP64", "cannot be read|beyond the range of FP64", {"data": [1, 10**400]}),
    "ragged": ("INT8", "unequal lengths", {"data": [[1], [2, 3]]}),
    "mixed": ("INT8", "unequal lengths", {"data": [[1], 2]}),
    "deep": ("INT8", "1 elements; its shape takes 2", {"data": DEEP}),
    "long text among short": ("INT8", "not of datatype INT8", {"data": ["x" * 100_000, *["y"] * 1]}),
    "shared memory": ("INT8", "Shared memory", {"parameters": {"shared_memory_region": "r"}}),
    "parameters no object": ("INT8", "'parameters' is an object", {"parameters": [1]}),
    "a size below zero": ("INT8", "unsigned integer", {"parameters": {"binary_data_size": -1}}),
    "a size that is text": ("INT8", "unsigned integer", {"parameters": {"binary_data_size": "2"}}),
    "a size that is true": ("INT8", "unsigned integer", {"parameters": {"binary_data_size": True}}),
    "a size of nothing": ("INT8", "unsigned integer", {"parameters": {"binary_data_size": None}}),
    "a size beyond the body": ("INT8", "expecting 2 additional bytes", {"parameters": {"binary_data_size": 2}}),
    "a size beyond all memory": ("INT8", "additional bytes", {"parameters": {"binary_data_size": 2**62}}),
    "data twice": ("INT8", "both 'data' and", {"data": [1, 2], "parameters": {"binary_data_size": 0}}),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_data_that_are_not_the_shape_s_are_refused(name: str) -> None:
    datatype, sentence, entry = REFUSED[name]
    with pytest.raises(InvalidRequest, match=sentence):
        read(served(datatype), datatype=datatype, shape=[1, 2], **entry)


@pytest.mark.parametrize(
    "shape",
    [[-1, 2], [0, 2], [1.0, 2], ["1", 2], [True, 2], [None, 2], [1], [2], [], [1, 2, 1], [1] * 200, [1, 3], [2, 1],
     "12", None, {}, [2**31, 2**31], [2**4, 2**60 + 2], [2**64, 2], [10**300, 2], [9, 2], [[1], 2]],
)  # fmt: skip
def test_a_shape_that_the_model_does_not_take_is_refused_before_anything_is_allocated(shape: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"shape|rows|cannot be read"):
        read(served("INT8"), datatype="INT8", shape=shape, tail=b"\1\2")


@pytest.mark.parametrize("datatype", ["INT16", "int8", "", None, 8, "BYTES", "STRING", "float64", "x" * 10_000])
def test_another_datatype_is_refused(datatype: Any) -> None:
    with pytest.raises(InvalidRequest, match="is of datatype INT8") as refused:
        read(served("INT8"), datatype=datatype, shape=[1, 2], tail=b"\1\2")
    assert len(refused.value.detail) < 200


@pytest.mark.parametrize(
    "data",
    [b"", b"\0", b"\0\0\0", b"\1\0\0\0", b"\2\0\0\0x", b"\xff\xff\xff\xff", b"\xff\xff\xff\xffxx", b"\0\0\0\0\0",
     b"\0\0\0\0" * 3, b"\1\0\0\0x\1\0\0\0"],
)  # fmt: skip
def test_elements_whose_lengths_lie_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequest, match=r"Element|elements"):
        read(signature(np.uint8, 2, 2, 3, pictures=True), datatype="BYTES", shape=[2], tail=data or b"", length=None)


BODIES: dict[str, tuple[bytes, int | None, str]] = {
    "a header that lies": (b'{"inputs":[]}', 99_999_999_999, "the whole body has 13 bytes"),
    "a header by one too long": (b'{"inputs":[]}', 14, "the whole body has 13 bytes"),
    "a header too short": (b'{"inputs":[]}', 12, "cannot be read"),
    "no JSON": (b"\x89PNG", None, "cannot be read"),
    "not even UTF-8": (b'{"inputs":["\xff"]}', None, "cannot be read"),
    "empty": (b"", None, "cannot be read"),
    "a list": (b"[]", None, "no object"),
    "deep": (b'{"inputs":' + b"[" * 9000, None, "cannot be read"),
    "deep and closed": (b'{"inputs":' + b"[" * 2000 + b"]" * 2000 + b"}", None, "cannot be read|list of objects"),
    "without inputs": (b"{}", None, "'inputs' is a list"),
    "inputs no list": (b'{"inputs":{}}', None, "'inputs' is a list"),
    "inputs of numbers": (b'{"inputs":[1]}', None, "'inputs' is a list"),
    "no input": (b'{"inputs":[]}', None, "'x' is missing"),
    "an unknown input": (b'{"inputs":[{"name":"y"}]}', None, "no input 'y'"),
    "an input without a name": (b'{"inputs":[{"shape":[1,2]}]}', None, "no input that is no text"),
    "NaN": (b'{"inputs":[{"name":"x","datatype":"INT8","shape":[1,2],"data":[NaN,1]}]}', None, "cannot be read"),
    "a million lists": (b'{"inputs":[' + b"[]," * 1_000_000 + b"[]]}", None, "more lists or objects"),
    "a million objects": (b'{"inputs":[' + b"{}," * 1_000_000 + b"{}]}", None, "more lists or objects"),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_no_request_is_refused(name: str) -> None:
    body, length, sentence = BODIES[name]
    with pytest.raises(InvalidRequest, match=sentence):
        read_request(body, length, served("INT8"))


REQUESTS: dict[str, tuple[dict[str, Any], str]] = {
    "id": ({"id": 1}, "'id' is a string"),
    "parameters": ({"parameters": 1}, "'parameters' is an object"),
    "outputs": ({"outputs": 1}, "'outputs' is a list"),
    "outputs null": ({"outputs": None}, "'outputs' is a list"),
    "an unknown output": ({"outputs": [{"name": "y"}]}, "no output 'y'"),
    "an output without a name": ({"outputs": [{}]}, "no output that is no text"),
    "an output twice": ({"outputs": [{"name": "x"}, {"name": "x"}]}, "asked for twice"),
    "an input twice": ({"inputs": 2 * [{"name": "x", "datatype": "INT8", "shape": [1, 2]}]}, "came twice"),
    "binary as text": ({"outputs": [{"name": "x", "parameters": {"binary_data": "yes"}}]}, "true or false"),
    "classes below zero": ({"outputs": [{"name": "x", "parameters": {"classification": -1}}]}, "unsigned integer"),
    "classes as text": ({"outputs": [{"name": "x", "parameters": {"classification": "1"}}]}, "unsigned integer"),
    "shared memory": ({"outputs": [{"name": "x", "parameters": {"shared_memory_region": "r"}}]}, "Shared memory"),
    "all binary": ({"parameters": {"binary_data_output": 1}}, "true or false"),
    "a timeout below zero": ({"parameters": {"timeout": -1}}, "unsigned integer"),
    "a timeout as text": ({"parameters": {"timeout": "1"}}, "unsigned integer"),
    "a priority": ({"parameters": {"priority": 1.5}}, "unsigned integer"),
    "a reserved parameter": ({"parameters": {"triton_x": 1}}, "reserved"),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_what_a_request_may_not_say_is_refused(name: str) -> None:
    message, sentence = REQUESTS[name]
    sound = {"inputs": [{"name": "x", "datatype": "INT8", "shape": [1, 2], "data": [1, 2]}]}
    with pytest.raises(InvalidRequest, match=sentence):
        read_request(json.dumps(sound | message).encode(), None, served("INT8"))


def test_parameters_that_mean_nothing_here_are_passed_over() -> None:
    message = {
        "id": "", "parameters": {"timeout": 0, "priority": 1, "sequence_id": 0, "mine": "x",
                             "triton_enable_empty_final_response": True},
        "inputs": [{"name": "x", "datatype": "INT8", "shape": [1, 2], "data": [1, 2], "parameters": {"mine": 1.5}}],
    }  # fmt: skip
    request = read_request(json.dumps(message).encode(), None, served("INT8"))
    assert (request.timeout, [output.name for output in request.wanted]) == (None, ["x"])


def several(*names: str) -> Signature:
    """A model of several inputs, INT8 [N]."""
    return Signature("m", {name: TensorSpec(name, np.dtype(np.int8), (None,)) for name in names}, {}, {}, None, 8)


def test_rows_must_be_as_many_in_each_input() -> None:
    model = several("x", "y")
    entries = [{"name": name, "datatype": "INT8", "shape": [rows]} for name, rows in (("x", 1), ("y", 2))]
    with pytest.raises(InvalidRequest, match="unequal numbers of rows"):
        read_request(json.dumps({"inputs": entries}).encode(), None, model)
    with pytest.raises(InvalidRequest, match="'y' is missing"):
        read_request(json.dumps({"inputs": entries[:1]}).encode(), None, model)


def test_tensors_follow_the_json_in_the_order_of_the_inputs() -> None:
    model = several("x", "y", "z")
    entries: list[dict[str, Any]] = [
        {"name": "z", "datatype": "INT8", "shape": [2], "parameters": {"binary_data_size": 2}},
        {"name": "y", "datatype": "INT8", "shape": [2], "data": [5, 6]},
        {"name": "x", "datatype": "INT8", "shape": [2], "parameters": {"binary_data_size": 2}},
    ]
    head = json.dumps({"inputs": entries}).encode()
    found = read_request(head + b"\1\2\3\4", len(head), model).tensors
    assert {name: array.tolist() for name, array in found.items()} == {"z": [1, 2], "y": [5, 6], "x": [3, 4]}
    with pytest.raises(InvalidRequest, match="expecting 1 additional bytes for model 'm'"):
        read_request(head + b"\1\2\3", len(head), model)
    with pytest.raises(InvalidRequest, match="unexpected additional input data for model 'm'"):
        read_request(head + b"\1\2\3\4\5", len(head), model)


def test_a_raw_body_is_one_row() -> None:
    assert read_request(b"\1\2", 0, served("INT8")).tensors["x"].tolist() == [[1, 2]]
    assert read_request(b"\1\2\3\4\5\6", 0, signature(np.int8, None, 3)).tensors["x"].shape == (1, 2, 3)
    assert read_request(b"\xff\xd8\xff", 0, signature(np.uint8, 1, 1, 3, pictures=True)).pictures == [b"\xff\xd8\xff"]
    for body, dims in ((b"", (2,)), (b"\1", (2,)), (b"\1\2\3\4", (2,)), (b"\1\2\3", (None, 2)), (b"\1", (None, None))):
        with pytest.raises(InvalidRequest, match="is not one row"):
            read_request(body, 0, signature(np.int8, *dims))


def test_what_is_not_finite_is_null_in_json_and_whole_in_binary() -> None:
    model = signature(np.float32, 3)
    values = np.array([[np.nan, np.inf, -np.inf]], np.float32)
    request = read(model, datatype="FP32", shape=[1, 3], data=[1, 2, 3])
    told = json.loads(write_answer(request, 1, {"x": values}, model).body)
    assert told["outputs"][0]["data"] == [None, None, None]
    body, length = sent("FP32", values, binary=True)
    found = echoed(read_request(body, length, model), model)
    np.testing.assert_array_equal(found, values)


def test_of_equal_elements_the_first_is_classified_first() -> None:
    assert classified(np.array([[1, 3, 3, 2]], np.uint64), 3, ()) == [["3:1", "3:2", "2:3"]]
    huge = np.array([[2**63 + 1, 2**63 + 2]], np.uint64)
    assert classified(huge, 2, ("a", "b")) == [[f"{2**63 + 2}:1:b", f"{2**63 + 1}:0:a"]]
    assert classified(np.array([0.5, 1], np.float16), 1, ()) == [["0.500000:0"], ["1.000000:0"]]
