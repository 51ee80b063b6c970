"""Pictures and inference requests that nobody thought of: made up by Hypothesis, the same ones each time.

`pytest tests/hostile/test_fuzzing.py --hypothesis-profile long` looks for new ones, fifty times as many.
"""

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.protocol_messages import read_request, write_answer
from app.api.protocol_requests import Signature
from app.errors import InvalidRequest, ServiceError
from app.imaging.codec import Decoder
from app.settings import FORMATS
from app.tensors import TensorSpec
from tests.hostile.files import catalogue
from tests.imaging.pictures import chunk, noise, save

MOST_PIXELS = 100_000
DECODER = Decoder(FORMATS, max_pixels=MOST_PIXELS)
SEEDS = [file.data for file in catalogue() if file.form and 8 < len(file.data) < 20_000]
SEEDS += [save(noise(24, 17), form) for form in FORMATS]
REFUSALS = {"empty-body", "unsupported-image", "corrupt-image", "image-too-large"}

Edit = tuple[float, bytes, bool]
edits: st.SearchStrategy[list[Edit]] = st.lists(
    st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=6), st.booleans()), min_size=1, max_size=6
)
"""Where in the file, as a share of its length; what is written there; and whether in place of what was there."""


def edited(data: bytes, changes: list[Edit]) -> bytes:
    for share, new, replaces in changes:
        # Half of all places are among the first bytes, where headers are.
        place = int((share * 2) ** 3 / 8 * len(data)) if share < 0.5 else int((share - 0.5) * 2 * len(data))
        data = data[:place] + new + data[place + (len(new) if replaces else 0) :]
    return data


def look(data: bytes) -> None:
    """A picture within the limits, or a refusal that says what is wrong with it; nothing else may come of any bytes."""
    try:
        pixels = DECODER.open(data).decode()
    except ServiceError as error:
        assert error.code in REFUSALS  # noqa: PT017 - which of them it is nobody knows before
        return
    height, width, channels = pixels.shape
    assert (pixels.dtype, channels) == (np.uint8, 3)
    assert 0 < height * width <= MOST_PIXELS


SIGNATURES = [
    b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"RIFF\0\0\0\0WEBPVP8 ", b"II*\0", b"MM\0*",
]  # fmt: skip
picture_files = pytest.mark.filterwarnings("ignore:.*:UserWarning:PIL")


@picture_files
@given(st.sampled_from(SEEDS), edits)
def test_a_file_with_other_bytes_in_it_is_a_picture_or_refused(data: bytes, changes: list[Edit]) -> None:
    look(edited(data, changes))


@picture_files
@given(st.sampled_from(SEEDS), st.sampled_from(SEEDS), st.floats(0, 1), st.floats(0, 1))
def test_two_files_in_one_are_a_picture_or_refused(first: bytes, second: bytes, end: float, start: float) -> None:
    look(first[: int(end * len(first))] + second[int(start * len(second)) :])


@picture_files
@given(st.sampled_from(SIGNATURES), st.binary(max_size=400))
def test_any_bytes_behind_a_signature_are_a_picture_or_refused(front: bytes, rest: bytes) -> None:
    look(front + rest)


numbers = st.one_of(st.integers(0, 70), st.sampled_from([2**16, 2**31 - 1, 2**31, 2**32 - 1]))
NAMES = "IHDR PLTE IDAT IEND tRNS iCCP gAMA pHYs eXIf zTXt iTXt tEXt acTL fcTL fdAT sRGB cHRM bKGD"
names = st.sampled_from(NAMES.encode().split())
parts = st.lists(st.tuples(names, st.binary(max_size=60)), max_size=8)


@picture_files
@given(numbers, numbers, st.binary(min_size=5, max_size=5), parts)
def test_any_chunks_with_right_checksums_are_a_picture_or_refused(
    width: int, height: int, rest: bytes, others: list[tuple[bytes, bytes]]
) -> None:
    body = b"".join(chunk(name, data) for name, data in others)
    look(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">II", width, height) + rest) + body + chunk(b"IEND", b""))


MODEL = Signature(
    "m",
    {
        "image": TensorSpec("image", np.dtype("u1"), (None, 2, 2, 3)),
        "z": TensorSpec("z", np.dtype("f4"), (None, None)),
    },
    {"y": TensorSpec("y", np.dtype("f4"), (None, 2))},
    {},
    "image",
    4,
)
odd_numbers = st.sampled_from([-1, 0, 1, 2, 3, 4, 5, 12, 2**31, 2**32, 2**62, 2**63, 2**64, 10**30, 1.5, 1e400])
anything = st.recursive(
    st.none()
    | st.booleans()
    | odd_numbers
    | st.text(max_size=5)
    | st.sampled_from(["image", "z", "y", "UINT8", "FP32"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)
shapes = st.lists(st.sampled_from([1, 2, 3, 4]), max_size=5) | anything
known = st.sampled_from(
    ["binary_data_size", "binary_data", "classification", "shared_memory_region", "timeout", "priority"]
)
parameters = anything | st.dictionaries(known, odd_numbers | anything, max_size=3)


def member(**known: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=known)


inputs = member(
    name=st.sampled_from(["image", "z", "x"]) | anything,
    datatype=st.sampled_from(["UINT8", "FP32", "BYTES"]) | anything,
    shape=shapes, data=st.lists(st.sampled_from([0, 1, 255, 256]), max_size=13) | anything, parameters=parameters,
)  # fmt: skip
outputs = member(name=st.just("y") | anything, parameters=parameters)
requests = member(
    id=anything, inputs=st.lists(inputs, max_size=3) | anything, outputs=st.lists(outputs, max_size=3) | anything,
    parameters=parameters,
)  # fmt: skip
sizes = st.one_of(st.none(), st.integers(0, 300), st.sampled_from([2**31, 2**63, 10**30]))


def read(body: bytes, length: int | None) -> None:
    """A request that the model can run, or a refusal; nothing else may come of any bytes."""
    try:
        request = read_request(body, length, MODEL)
    except InvalidRequest as error:
        assert len(error.detail) < 500  # noqa: PT017 - a refusal is short, whatever was sent
        return
    assert 1 <= request.rows <= MODEL.most_rows
    assert request.pictures or request.tensors.keys() == MODEL.inputs.keys()
    for name, array in request.tensors.items():
        assert array.dtype == MODEL.inputs[name].dtype
    rows = np.zeros((request.rows, 2), np.float32)
    write_answer(request, 1, {"y": rows}, MODEL)


@given(requests, st.binary(max_size=60), st.booleans(), sizes)
def test_any_request_with_any_tail_is_read_or_refused(
    message: dict[str, Any], tail: bytes, exact: bool, length: int | None
) -> None:
    head = json.dumps(message).encode()
    read(head + tail, len(head) if exact else length)


def sized(name: str, datatype: str, shape: list[int], size: int) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size}}


GOOD = json.dumps({"inputs": [sized("image", "UINT8", [1, 2, 2, 3], 12), sized("z", "FP32", [1, 1], 4)]}).encode()


@given(edits, st.integers(-3, 3))
def test_a_good_request_with_other_bytes_in_it_is_read_or_refused(changes: list[Edit], more: int) -> None:
    read(edited(GOOD + bytes(16), changes), len(GOOD) + more)


@given(st.binary(max_size=200), sizes)
def test_any_bytes_are_read_or_refused(body: bytes, length: int | None) -> None:
    read(body, length)


@given(st.integers(1, 4), st.integers(1, 5), st.data())
def test_any_tensors_come_as_they_were_sent(rows: int, width: int, drawn: st.DataObject) -> None:
    image, latent = (drawn.draw(st.binary(min_size=size, max_size=size)) for size in (12 * rows, 4 * rows * width))
    entries = [
        sized("z", "FP32", [rows, width], len(latent)),
        sized("image", "UINT8", [rows, 2, 2, 3], len(image)),
    ]
    head = json.dumps({"inputs": entries}).encode()
    found = read_request(head + latent + image, len(head), MODEL).tensors
    assert (found["image"].tobytes(), found["z"].tobytes()) == (image, latent)
