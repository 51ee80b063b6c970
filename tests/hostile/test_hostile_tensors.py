"""Inference requests of protocol v2 that lie about names, datatypes, shapes, lengths and counts, through HTTP."""

import gzip
import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.api.connection import request
from tests.hostile.asking import GOOD, MEBIBYTE, Watched, check
from tests.hostile.conftest import MAX_BODY

CLASSIFIER, GENERATOR = b"/v2/models/tiny-classifier/infer", b"/v2/models/tiny-generator/infer"
REFUSED = "400 invalid-request"
IMAGE: dict[str, Any] = {"name": "image", "datatype": "UINT8", "shape": [1, 8, 8, 3], "data": [7] * 192}
LATENT: dict[str, Any] = {"name": "z", "datatype": "FP32", "shape": [1, 4], "data": [0, 0, 0, 0]}
CLASS: dict[str, Any] = {"name": "class", "datatype": "INT64", "shape": [1], "data": [1]}
Case = tuple[bytes, str]


def infer(body: bytes, length: bytes | None = None, target: bytes = CLASSIFIER) -> bytes:
    return request(body, target, [] if length is None else [(b"inference-header-content-length", length)])


def with_input(target: bytes = CLASSIFIER, whole: dict[str, Any] | None = None, **entry: Any) -> bytes:
    """A request in JSON whose only input is good but for some members."""
    return infer(json.dumps({"inputs": [{**IMAGE, **entry}], **(whole or {})}).encode(), target=target)


def with_tail(tail: bytes, parameters: dict[str, Any] | None = None, **entry: Any) -> bytes:
    """A request whose only input comes after the JSON."""
    sent = {key: value for key, value in IMAGE.items() if key != "data"} | entry
    head = json.dumps({"inputs": [sent | ({} if parameters is None else {"parameters": parameters})]}).encode()
    return infer(head + tail, b"%d" % len(head))


def with_output(**entry: Any) -> bytes:
    return with_input(whole={"outputs": [{"name": "probabilities", **entry}]})


def generate(*inputs: dict[str, Any]) -> bytes:
    return infer(json.dumps({"inputs": inputs}).encode(), target=GENERATOR)


def elements(*lengths_and_data: tuple[int, bytes]) -> bytes:
    return b"".join(struct.pack("<I", length) + data for length, data in lengths_and_data)


def shapes() -> Iterator[tuple[str, bytes]]:
    for shape in (
        [16, 2**60 + 2], [2**31, 2**31], [2**32 + 1, 8, 8, 3], [2**64, 8, 8, 3], [-1], [-1, 8, 8, 3], [0, 8, 8, 3],
        [1.5, 8, 8, 3], ["1", 8, 8, 3], [True, 8, 8, 3], [None, 8, 8, 3], [[1], 8, 8, 3], [1] * 200, [1] * 100_000, [],
        None, "1", {}, 192, [1, 8, 8], [1, 8, 8, 3, 1], [1, 192], [192], [33, 8, 8, 3], [10**9, 8, 8, 3], [1, 3, 8, 8],
        [10**300, 8, 8, 3], [float("1e300"), 8, 8, 3],
    ):  # fmt: skip
        yield f"shape {str(shape)[:30]}", with_input(shape=shape)
        yield f"shape {str(shape)[:30]}, after the JSON", with_tail(bytes(192), shape=shape)


def data() -> Iterator[tuple[str, bytes]]:
    deep: Any = 7
    for _ in range(500):
        deep = [deep]
    for values in (
        [], [7] * 191, [7] * 193, [7] * 100_000, None, "7" * 192, 7, {"0": 7}, [256] * 192, [-1] * 192, [2**70] * 192,
        [7.5] * 192, ["7"] * 192, [None] * 192, [True] * 192, [[7] * 96, [7] * 95], [[7] * 96, 7], deep, [{}] * 192,
        [[[[7, 7, 7]] * 8] * 8] * 2, [[]] * 192,
    ):  # fmt: skip
        yield f"data {str(values)[:30]} ({len(str(values))})", with_input(data=values)
    for text in (
        b"[NaN]",
        b"[Infinity]",
        b"[1e400]",
        b"[" + b"9" * 10_000 + b"]",
        b"[0x10]",
        b"[01]",
        b"[7,]",
        b"[" * 9999,
    ):
        whole = json.dumps({"inputs": [{**IMAGE, "data": 0}]}).encode().replace(b'"data": 0', b'"data": ' + text)
        yield f"data {text[:30].decode()}", infer(whole)


def members() -> Iterator[tuple[str, bytes]]:
    for name in ("x", "", "Image", "image ", "image\0", "\u202eimage", "../image", "i" * MEBIBYTE, 1, None, [], {}):
        yield f"an input {str(name)[:20]!r}", with_input(name=name)
        yield f"an output {str(name)[:20]!r}", with_output(name=name)
    for datatype in ("UINT9", "uint8", "FP32", "INT8", "STRING", "", "B" * MEBIBYTE, 8, None, [], "BYTES"):
        yield f"datatype {str(datatype)[:20]!r}", with_input(datatype=datatype)
    for classes in (-1, 1.5, "1", True, None, 2**64, [1]):
        yield f"classes {classes!r}", with_output(parameters={"classification": classes})
    for flag in ("true", 1, None, [], {}):
        yield f"binary {flag!r}", with_output(parameters={"binary_data": flag})
        yield f"all binary {flag!r}", with_input(whole={"parameters": {"binary_data_output": flag}})
    for timeout in (-1, 1.5, "1", True, 2**64, [1], {}):
        yield f"timeout {timeout!r}", with_input(whole={"parameters": {"timeout": timeout}})
    for wrong in (1, "x", [], None, True):
        yield f"parameters {wrong!r}", with_input(whole={"parameters": wrong})
        yield f"parameters of an input {wrong!r}", with_input(parameters=wrong)
        yield f"outputs {wrong!r}", with_input(whole={"outputs": wrong if wrong != [] else [1]})
    for identity in (1, None, [], {}):
        yield f"id {identity!r}", with_input(whole={"id": identity})
    for place in ("shared_memory_region", "shared_memory_offset", "shared_memory_byte_size"):
        yield place, with_input(parameters={place: "x"})
        yield f"{place} of an output", with_output(parameters={place: "x"})
    yield "a reserved parameter", with_input(whole={"parameters": {"triton_final_response": True}})
    yield "an output twice", with_input(whole={"outputs": [{"name": "energy"}] * 2})
    yield "ten thousand outputs", with_input(whole={"outputs": [{"name": "energy"}] * 10_000})
    yield "an input twice", infer(json.dumps({"inputs": [IMAGE, IMAGE]}).encode())
    yield "ten thousand inputs", infer(json.dumps({"inputs": [{"name": "image"}] * 10_000}).encode())


def lengths() -> Iterator[tuple[str, bytes]]:
    good = json.dumps({"inputs": [IMAGE]}).encode()
    for length in (
        b"", b"-1", b"+1", b"1e3", b"1.0", b"0x10", b"\xef\xbc\x91", b"1 1", b"1,1", b"9" * 11, b"9" * 5000, b"NaN",
        b"99999999999", b"%d" % (len(good) + 1), b"%d" % (len(good) - 1), b"1", b"4294967296", b"9223372036854775807",
    ):  # fmt: skip
        yield f"a header of {length[:20].decode('latin-1')!r}", infer(good, length)
    yield "a raw body that is no row", infer(b"x" * 191, b"0")
    yield "a raw body of nothing", infer(b"", b"0")
    yield "a raw body for several inputs", infer(bytes(24), b"0", GENERATOR)
    for size in (-1, 1.5, "192", True, None, 2**62, 2**64, 191, 193, 0):
        yield f"a size of {size!r}", with_tail(bytes(192), {"binary_data_size": size})
    yield "no tail", with_tail(b"", {"binary_data_size": 192})
    yield "a longer tail", with_tail(bytes(193), {"binary_data_size": 192})
    yield "a tail of megabytes", with_tail(bytes(5 * MEBIBYTE))
    yield "data and a tail", with_tail(bytes(192), {"binary_data_size": 192}, data=[7] * 192)
    for what, tail in {
        "nothing": b"", "half a length": b"\1\0", "a length beyond its end": elements((99, GOOD)),
        "a length of everything": elements((2**32 - 1, GOOD)), "two": elements((1, b"x"), (1, b"x")),
        "other bytes behind": elements((len(GOOD), GOOD)) + b"x", "a million of nothing": bytes(4 * MEBIBYTE),
    }.items():  # fmt: skip
        yield f"pictures of {what}", with_tail(tail, datatype="BYTES", shape=[1])
    yield "as many pictures as bytes", with_tail(bytes(132), datatype="BYTES", shape=[33])


def bodies() -> Iterator[tuple[str, bytes]]:
    for what, body in {
        "nothing": b"", "a list": b"[]", "a text": b'"x"', "null": b"null", "no inputs": b"{}", "a picture": GOOD,
        "inputs of none": b'{"inputs":[]}', "inputs of numbers": b'{"inputs":[1]}', "inputs of one": b'{"inputs":{}}',
        "no text": b'{"inputs":["\xff"]}', "a mark of unicode": b"\xef\xbb\xbf{}",
        "two bytes a letter": "{}".encode("utf-16"),
        "250,000 lists": b'{"inputs":' + b"[" * 250_000, "120 lists": b'{"inputs":' + b"[" * 120 + b"]" * 120 + b"}",
        "objects in one another": b'{"inputs":' * 100_000, "half a letter": b'{"id":"\\ud800","inputs":[]}',
        "a million objects": b'{"inputs":[' + b"{}," * 1_000_000 + b"{}]}",
        "a million lists": b'{"inputs":[],"x":[' + b"[]," * 1_000_000 + b"[]]}",
        "a million members": b"{" + b",".join(b'"%d":0' % number for number in range(500_000)) + b"}",
    }.items():  # fmt: skip
        yield f"a body of {what}", infer(body)


def generators() -> Iterator[tuple[str, bytes]]:
    yield "an input is missing", generate(LATENT)
    yield "unequal rows", generate(LATENT, {**CLASS, "shape": [2], "data": [1, 1]})
    for chosen in (-1, 3, 2**62):
        yield f"class {chosen}", generate(LATENT, {**CLASS, "data": [chosen]})
    for value in (1e39, -1e39, 1e308):
        yield f"latent {value}", generate({**LATENT, "data": [value, 0, 0, 0]}, CLASS)
    yield "a latent that is text", generate({**LATENT, "data": ["0", 0, 0, 0]}, CLASS)


def packed(body: bytes, coding: bytes) -> bytes:
    return request(body, CLASSIFIER, [(b"content-encoding", coding)])


OTHERS: dict[str, Case] = {
    "a good one": (with_input(), "200"),
    "a good one after the JSON": (with_tail(bytes(192), {"binary_data_size": 192}), "200"),
    "a good picture": (with_tail(elements((len(GOOD), GOOD)), datatype="BYTES", shape=[1]), "200"),
    "a picture as the body": (infer(GOOD, b"0"), "200"),
    "all classes and more": (with_output(parameters={"classification": 10**9}), "200"),
    "parameters that mean nothing": (with_input(whole={"parameters": {"mine": "x", "priority": 9}}), "200"),
    "an id of scripts": (with_input(whole={"id": "<script>\r\nset-cookie: a=b"}), "200"),
    "a picture that is none": (with_tail(elements((4, b"none")), datatype="BYTES", shape=[1]), "415 unsupported-image"),
    "a picture of nothing": (with_tail(elements((0, b"")), datatype="BYTES", shape=[1]), "400 empty-body"),
    "a broken picture": (infer(GOOD[:45], b"0"), "422 corrupt-image"),
    "a body beyond the limit": (infer(bytes(MAX_BODY + 1)), "413 body-too-large"),
    "a bomb (gzip)": (packed(gzip.compress(bytes(64 * MEBIBYTE)), b"gzip"), "413 body-too-large"),
    "a bomb (deflate)": (packed(zlib.compress(bytes(64 * MEBIBYTE)), b"deflate"), "413 body-too-large"),
    "a bomb in a bomb": (packed(gzip.compress(gzip.compress(bytes(64 * MEBIBYTE))), b"gzip"), REFUSED),
    "half a gzip": (packed(gzip.compress(GOOD)[:40], b"gzip"), REFUSED),
    "no gzip": (packed(b"{}", b"gzip"), REFUSED),
    "no deflate": (packed(b"{}", b"deflate"), REFUSED),
    "another coding": (packed(b"{}", b"br"), "415 unsupported-content-encoding"),
    "two codings": (packed(gzip.compress(b"{}"), b"gzip, gzip"), "415 unsupported-content-encoding"),
}
MADE = (shapes, data, members, lengths, bodies, generators)
ALL: dict[str, Case] = OTHERS | {what: (sent, REFUSED) for make in MADE for what, sent in make()}


@pytest.mark.parametrize("what", ALL)
def test_an_inference_request_has_its_answer(lone: Watched, what: str) -> None:
    sent, expected = ALL[what]
    reply = check(lone, sent, expected)
    assert reply is not None
    if reply.status >= 400:
        assert isinstance(reply.json()["error"], str)
    lone.check_unharmed()
