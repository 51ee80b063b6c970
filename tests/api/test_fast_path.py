"""The short way of a small picture: what it answers, counts and logs is what the long way does."""

import asyncio
import base64
import gc
import json
import logging
import re
import threading
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.api.fast_path import FastPath
from app.api.middleware import Edge
from app.api.task_routes import Limits, task_endpoints
from app.imaging.codec import Decoder, Picture
from app.main import create_registry, create_resources
from app.runtime import BACKENDS
from app.runtime.function import FunctionSession
from app.settings import Settings
from app.telemetry.metrics import Metrics
from app.tensors import Tensors, TensorSpec
from tests.api.connection import Caller, Headers, Observed, Served, make_models, request, serving, until
from tests.imaging import pictures
from tests.imaging.pictures import corners, noise, png, save
from tests.imaging.test_codec_hostile import BOMBS, STRANGERS
from tests.make_models import make_classifier

PICTURE = save(noise(12, 9))
LARGE = save(np.full((700, 700, 3), (10, 20, 200), np.uint8))
"""Many pixels in few bytes: its answer leaves the short way once they are known."""
LONG_WAY = (b"expect", b"100-continue")
"""A request with this header never takes the short way."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(make_models(tmp_path_factory.mktemp("served") / "models")) as running:
        yield running


def told(observed: Observed) -> tuple[Any, ...]:
    """What must be equal: all but the ids, the times, and which spans of a trace are our own."""
    answer = observed.answer
    own = answer.headers["x-request-id"]
    headers = {name: value.replace(own, "ID") for name, value in answer.headers.items() if name != "date"}
    headers["server-timing"] = re.sub(r"\d+\.\d\d", "T", headers["server-timing"])
    headers["traceparent"] = re.sub(r"-[0-9a-f]{16}-|(?!4bf92f3577b34da6)[0-9a-f]{32}", "-NEW-", headers["traceparent"])
    headers.pop("retry-after", None)
    lines = [re.sub(r"^\S+|\d+\.\d ms", "T", line.replace(own, "ID").partition("\n")[0]) for line in observed.lines]
    return answer.status, headers, answer.body.replace(own.encode(), b"ID"), observed.counted, lines


def alike(served: Served, body: bytes, target: bytes, headers: Headers = ()) -> Observed:
    """The answer of the short way, found to be that of the long way, too."""
    short = served.observe(request(body, target, headers))
    long = served.observe(request(body, target, [*headers, LONG_WAY]))
    assert not long.short
    assert told(short) == told(long)
    return short


GOOD = {
    "png": PICTURE,
    "grey": save(Image.new("L", (9, 7), 90)),
    "grey of sixteen bits": save(Image.fromarray(np.full((9, 7), 40_000, np.uint16))),
    "bilevel": save(Image.new("1", (9, 7), 1)),
    "transparent": save(Image.new("RGBA", (9, 7), (200, 10, 10, 100))),
    "palette": save(Image.new("P", (9, 7), 3)),
    "jpeg": save(corners(), "JPEG"),
    "jpeg in cmyk": save(Image.new("CMYK", (9, 7), (10, 200, 0, 0)), "JPEG"),
    "progressive": save(corners(), "JPEG", progressive=True),
    "turned by a camera": save(Image.fromarray(corners()), "JPEG", exif=pictures.exif(6)),
    "webp": save(corners(), "WEBP"),
    "one pixel": save(noise(1, 1)),
    "of the most pixels": save(np.zeros((128, 128, 3), np.uint8)),
    "a row more": save(np.zeros((129, 128, 3), np.uint8)),
    "many pixels": LARGE,
}


@pytest.mark.parametrize("target", [b"/classify", b"/segment", b"/detect", b"/classify?model=tiny-threaded"])
@pytest.mark.parametrize("name", GOOD)
def test_a_picture_is_answered_alike(served: Served, name: str, target: bytes) -> None:
    observed = alike(served, GOOD[name], target)
    assert observed.short
    assert observed.answer.status == 200
    assert len(observed.lines) == 1
    counted = {series.partition("{")[0]: count for series, count in observed.counted.items()}
    stages = ("request_duration", "decode", "queue", "inference", "encode")
    seconds = {f"imago_{stage}_seconds_count": 1 for stage in stages}
    assert counted == {"imago_requests_total": 1, "imago_batch_size_count": 1, **seconds}


HOSTILE = {
    **{f"{kind} {percent} %": save(noise(40, 30), kind)[: len(save(noise(40, 30), kind)) * percent // 100]
       for kind in ("PNG", "JPEG", "WEBP") for percent in (5, 50, 99)},
    **{name: data for name, data in {**STRANGERS, **BOMBS}.items() if 0 < len(data) <= 16_384},
    "no rows": png(8, 8, rows=b"no deflate stream"), "no pixels": png(0, 5), "no gif here": save(corners(), "GIF"),
    "scans": pictures.many_scans(1200)[:16_384], "floats": save(Image.new("F", (5, 5)), "TIFF"), "a byte": b"\0",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_picture_is_refused_alike(served: Served, name: str) -> None:
    observed = alike(served, HOSTILE[name], b"/classify")
    assert observed.short
    assert observed.answer.status in {413, 415, 422}
    assert observed.answer.headers["x-model-version"] == "1"


SHORT, LONG = True, False
TARGETS = [
    (b"/classify?top_k=1", 200, SHORT), (b"/classify?top_k=2&model=tiny-classifier&version=1", 200, SHORT),
    (b"/classify?explain=true", 200, SHORT), (b"/classify?top_k=%32", 200, SHORT), (b"/classify?", 200, SHORT),
    (b"/segment?mask=rle", 200, SHORT), (b"/classify?&&top_k=2&", 200, SHORT),
    (b"/classify?top_k=" + b"0" * 300 + b"2", 200, SHORT), (b"/segment?render=overlay", 200, SHORT),
    (b"/detect?threshold=0.1&max_count=3", 200, SHORT),
    (b"/classify?top_k=0", 422, LONG), (b"/classify?topk=1", 422, LONG), (b"/classify?top_k=1&top_k=1", 422, LONG),
    (b"/classify?%00", 422, LONG), (b"/classify?model=nobody", 404, LONG), (b"/classify?version=2", 404, LONG),
    (b"/classify?model=tiny-segmenter", 400, LONG), (b"/classify?model=" + b"x" * 7000, 404, LONG),
    (b"/classify?version=" + b"9" * 200, 404, LONG), (b"/classify?model=loud-classifier", 404, LONG),
    (b"/classify?top_k=1#top_k=0", 200, LONG), (b"/classify#", 200, LONG), (b"/classify?#", 200, LONG),
    (b"http://imago/classify", 200, LONG), (b"http://other:99/classify?top_k=1", 200, LONG),
    (b"/%63lassify", 200, LONG), (b"/classify%0A", 404, LONG), (b"/classify%3Ftop_k=1", 404, LONG),
    (b"//classify", 404, LONG), (b"/classify/", 404, LONG), (b"/Classify", 404, LONG), (b"/./classify", 404, LONG),
    (b"/classify;a=b", 404, LONG), (b"/livez", 405, LONG), (b"*", 404, LONG),
]  # fmt: skip


@pytest.mark.parametrize(("target", "status", "short"), TARGETS)
def test_a_target_is_read_alike(served: Served, target: bytes, status: int, short: bool) -> None:
    observed = alike(served, PICTURE, target)
    assert (observed.answer.status, observed.short) == (status, short)


TRACE = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
HEADERS = [
    ([(b"accept", b"application/json")], 200, SHORT), ([(b"accept", b"*/*")], 200, SHORT),
    ([(b"accept", b"")], 200, SHORT), ([(b"accept", b"image/png;q=0.1, */*;q=0.2")], 200, SHORT),
    ([(b"accept", b"image/png")], 200, SHORT), ([(b"accept", b"image/*")], 200, SHORT),
    ([(b"accept", b"text/html")], 406, LONG), ([(b"accept", b"*/*"), (b"accept", b"image/png")], 200, SHORT),
    ([(b"accept", b"image/png"), (b"accept", b"*/*")], 200, SHORT), ([(b"ACCEPT", b"text/html")], 406, LONG),
    ([(b"x-request-timeout-ms", b"20000")], 200, SHORT), ([(b"x-request-timeout-ms", b"0")], 422, LONG),
    ([(b"x-request-timeout-ms", b"+5")], 422, LONG), ([(b"x-request-timeout-ms", b"\xb2")], 422, LONG),
    ([(b"x-request-timeout-ms", b"9" * 99)], 422, LONG), ([(b"x-request-timeout-ms", b"999999999")], 200, SHORT),
    ([(b"content-encoding", b"gzip")], 415, LONG), ([(b"content-encoding", b"identity")], 200, LONG),
    ([(b"content-encoding", b"")], 415, LONG), ([(b"content-type", b"image/png")], 200, SHORT),
    ([(b"content-type", b"")], 200, SHORT), ([(b"content-type", b"nonsense; a=b")], 200, SHORT),
    ([(b"content-type", b"multipart/form-data; boundary=x")], 400, SHORT),
    ([(b"content-type", b"Multipart/Form-Data")], 400, SHORT), ([(b"content-type", b"application/json")], 400, SHORT),
    ([(b"content-type", b"APPLICATION/JSON ; charset=x")], 400, SHORT),
    ([(b"content-type", b"\tapplication/json\t")], 400, SHORT), ([(b"content-type", b"application/jsonp")], 200, SHORT),
    ([(b"content-type", b"image/png"), (b"content-type", b"application/json")], 200, SHORT),
    ([(b"content-type", b"application/json"), (b"content-type", b"image/png")], 400, SHORT),
    ([(b"x-request-id", b"mine-1")], 200, SHORT), ([(b"x-request-id", b"a b")], 200, SHORT),
    ([(b"x-request-id", b"")], 200, SHORT), ([(b"x-request-id", b"\xff")], 200, SHORT),
    ([(b"x-request-id", b"x" * 200)], 200, SHORT), ([(b"x-request-id", b"one"), (b"x-request-id", b"two")], 200, SHORT),
    ([(b"traceparent", TRACE)], 200, SHORT), ([(b"traceparent", b"nonsense")], 200, SHORT),
    ([(b"traceparent", TRACE.replace(b"00-", b"ff-"))], 200, SHORT), ([(b"traceparent", TRACE + b"-x")], 200, SHORT),
    ([(b"range", b"bytes=0-1"), (b"if-none-match", b"*"), (b"cookie", b"a=b;" * 900)], 200, SHORT),
    ([(b"x-http-method-override", b"GET"), (b"x-forwarded-for", b"1.2.3.4")], 200, SHORT),
    ([(b"x-n%d" % number, b"1") for number in range(90)], 200, SHORT),
    ([(b"content-length", b"0%d" % len(PICTURE))], 200, SHORT),
    ([(b"content-length", b"%016d" % len(PICTURE))], 200, LONG),
]  # fmt: skip


@pytest.mark.parametrize(("headers", "status", "short"), HEADERS)
def test_headers_are_read_alike(served: Served, headers: list[tuple[bytes, bytes]], status: int, short: bool) -> None:
    observed = alike(served, PICTURE, b"/classify", headers)
    assert (observed.answer.status, observed.short) == (status, short)


def form(*parts: tuple[str, bytes]) -> bytes:
    """Parts of `multipart/form-data` with the boundary `x`: pictures as files, everything else as fields."""
    shown = [
        b'--x\r\ncontent-disposition: form-data; name="%b"%b\r\n\r\n%b\r\n'
        % (name.encode(), b'; filename="f"' if name == "file" else b"", content)
        for name, content in parts
    ]
    return b"".join(shown) + b"--x--\r\n"


def images(*pictures: bytes, **options: Any) -> bytes:
    return json.dumps({"images": [base64.b64encode(data).decode() for data in pictures], **options}).encode()


FORM, JSON = [(b"content-type", b"multipart/form-data; boundary=x")], [(b"content-type", b"application/json")]
PNG = (b"accept", b"image/png")
BODIES = [
    (b"/classify", FORM, form(("file", PICTURE)), 200), (b"/classify", JSON, images(PICTURE), 200),
    (b"/classify?top_k=1", FORM, form(("top_k", b"2"), ("file", PICTURE)), 200),
    (b"/classify?top_k=1", JSON, images(PICTURE, top_k=2, model="tiny-threaded"), 200),
    (b"/classify", FORM, form(("file", PICTURE), ("file", b"no picture"), ("file", LARGE)), 200),
    (b"/classify", JSON, images(PICTURE, b"", b"no picture", LARGE), 200),
    (b"/classify?model=tiny-threaded", JSON, images(PICTURE, PICTURE, PICTURE), 200),
    (b"/classify", FORM, form(("file", b"no picture")), 415), (b"/classify", JSON, images(b"no picture"), 415),
    (b"/classify", JSON, images(LARGE), 200), (b"/classify", JSON, images(), 400), (b"/classify", FORM, form(), 400),
    (b"/classify", FORM, form(("file", PICTURE), ("topk", b"1")), 422),
    (b"/classify", FORM, form(("file", PICTURE), ("model", b"nobody")), 404),
    (b"/classify", FORM, form(("file", PICTURE))[:-9], 400), (b"/classify", JSON, b'{"images": ["!"]}', 400),
    (b"/classify", JSON, images(*[b"x"] * 33), 400), (b"/classify", JSON, b"[" * 5000, 400),
    (b"/classify", JSON, b'{"images": [], "images": 5}', 400), (b"/classify", JSON, b"\xff\xfe", 400),
    (b"/classify", [*JSON, PNG], images(PICTURE), 200), (b"/segment", [*FORM, PNG], form(("file", LARGE)), 200),
    (b"/segment", [*JSON, PNG], images(PICTURE, PICTURE), 406), (b"/segment?render=overlay", [PNG], PICTURE, 200),
    (b"/classify?model=unexplained-classifier", [PNG], PICTURE, 406),
    (b"/classify?model=unexplained-classifier&explain=true", [], PICTURE, 422),
    (b"/enhance?strength=5", [*FORM, (b"accept", b"image/*")], form(("encoding", b"webp"), ("file", PICTURE)), 200),
    (b"/generate?seed=1", [], b"", 200), (b"/generate", [], b'{"seed": 7, "count": 3}', 200),
    (b"/generate?count=40", [], b'{"seed": 7}', 200), (b"/generate", [], b'{"seed": 7, "class": "red"}', 200),
    (b"/generate?seed=1", [PNG], b"", 200), (b"/generate?seed=1&count=4", [PNG], b"", 200),
    (b"/generate", [], b'{"seed": -1}', 422), (b"/generate", [], b"null", 400), (b"/generate", [], PICTURE, 400),
    (b"/generate", [], b'{"model": "nobody"}', 404), (b"/generate", [], b'{"model": "tiny-classifier"}', 400),
]  # fmt: skip


@pytest.mark.parametrize(("target", "headers", "body", "status"), BODIES)
def test_a_body_is_read_alike(
    served: Served, target: bytes, headers: list[tuple[bytes, bytes]], body: bytes, status: int
) -> None:
    observed = alike(served, body, target, headers)
    assert (observed.answer.status, observed.short) == (status, SHORT)


def test_an_id_and_a_trace_go_on_and_nothing_else_of_the_caller_gets_into_headers(served: Served) -> None:
    given = [(b"x-request-id", b"mine-1"), (b"traceparent", TRACE)]
    kept = served.observe(request(PICTURE, headers=given))
    assert kept.answer.headers["x-request-id"] == "mine-1"
    assert kept.answer.headers["traceparent"].startswith(TRACE[:36].decode())
    assert kept.answer.headers["traceparent"] != TRACE.decode()
    assert "[mine-1] POST /classify 200" in kept.lines[0]
    refused = served.observe(request(b"no picture", headers=given))
    assert refused.answer.json()["instance"] == "urn:imago:request:mine-1"
    for evil in (b"a\tSet-Cookie: x=1", b"<script>", b"\xc2\xa0", b"a;b", b"x" * 129):
        answer = served.ask(request(PICTURE, headers=[(b"x-request-id", evil), (b"traceparent", evil)]))
        assert re.fullmatch("[0-9a-f]{16}", answer.headers["x-request-id"])
        assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-00", answer.headers["traceparent"])


def test_an_empty_body_is_refused(served: Served) -> None:
    observed = alike(served, b"", b"/classify")
    assert (observed.answer.status, observed.answer.json()["code"], observed.short) == (400, "empty-body", False)


@pytest.mark.parametrize("size", [16_383, 16_384, 16_385, 70_000])
def test_a_body_as_long_as_the_limit_and_longer_is_answered_alike(served: Served, size: int) -> None:
    data = (PICTURE + bytes(size))[:size]  # what follows a picture's end is not looked at
    assert alike(served, data, b"/classify").short == (size <= 16_384)


def test_a_limit_below_that_of_the_short_way_holds_there_too(served: Served) -> None:
    root = served.app.state.registry.root
    with serving(root, max_body_bytes=1024, max_pixels=5000) as strict:
        assert alike(strict, (PICTURE + bytes(1024))[:1024], b"/classify").answer.status == 200
        assert alike(strict, (PICTURE + bytes(1025))[:1025], b"/classify").answer.status == 413
        assert alike(strict, png(100, 100), b"/classify").answer.status == 413


@pytest.mark.parametrize(
    "length", [b"+5", b"-5", b"0x5", b"5 5", b"5, 5", b"", b"\xb2", b"5.0", b"9" * 30, "\u0665".encode(), b"5\0"]
)
def test_a_length_that_is_no_number_is_refused_by_the_parser(served: Served, length: bytes) -> None:
    answer = served.ask(request(b"12345", headers=[(b"content-length", length)]))
    assert (answer.status, answer.headers["connection"]) == (400, "close")
    assert served.fast.took == []


@pytest.mark.parametrize(
    "headers",
    [
        [(b"content-length", b"5"), (b"content-length", b"5")],
        [(b"content-length", b"5"), (b"content-length", b"6")],
        [(b"content-length", b"5"), (b"transfer-encoding", b"chunked")],
        [(b"transfer-encoding", b"chunked"), (b"content-length", b"5")],
        [(b"transfer-encoding", b"identity"), (b"content-length", b"5")],
        [(b"content-length", b"5"), (b"transfer-encoding", b"gzip")],
        [(b"content-length ", b"5")],
        [(b" content-length", b"5")],
    ],
)
def test_a_request_whose_end_two_parsers_would_see_elsewhere_is_refused(
    served: Served, headers: list[tuple[bytes, bytes]]
) -> None:
    lines = b"".join(b"%b: %b\r\n" % pair for pair in headers)
    answer = served.ask(b"POST /classify HTTP/1.1\r\n" + lines + b"\r\n12345")
    assert (answer.status, answer.headers["connection"]) == (400, "close")
    assert served.fast.took == []


def test_overload_is_refused_before_anything_is_decoded(served: Served) -> None:
    lane = served.jobs("waiting-classifier").lane
    target = b"/classify?model=waiting-classifier"

    async def tell(first: Caller, second: Caller, third: Caller) -> list[Any]:
        first.send(request(PICTURE, target))
        await until(lambda: lane.waiting == 1)
        lane.pace.learn(1, 1000.0)
        refused = await second.ask(request(b"no picture at all", target))
        anew = await second.ask(request(b"no picture at all", target, [LONG_WAY]))
        for _ in range(200):
            lane.pace.learn(1, 1e-4)
        return [refused, anew, await third.ask(request(PICTURE, target)), await first.answer()]

    before = served.counts()
    refused, anew, *answered = served.story(tell, 3)
    assert served.fast.took == [True, True, True]
    assert [answer.status for answer in answered] == [200, 200]
    for answer in (refused, anew):
        assert (answer.status, answer.json()["code"], answer.headers["x-model-version"]) == (429, "overloaded", "1")
        assert int(answer.headers["retry-after"]) >= 1
    rejected = 'imago_rejected_total{model="waiting-classifier",reason="overloaded",task="classify"}'
    assert served.counts()[rejected] - before[rejected] == 2


@pytest.mark.parametrize("way", [[], [LONG_WAY]])
def test_the_deadline_counts_from_the_headers(served: Served, way: Headers) -> None:
    whole = request(PICTURE, headers=[(b"x-request-timeout-ms", b"1"), *way])

    async def tell(caller: Caller) -> Any:
        caller.send(whole[:-1])
        late = asyncio.Event()
        await until(lambda: bool(served.connections and served.connections[0].cycle))
        asyncio.get_running_loop().call_later(0.05, late.set)
        await late.wait()
        return await caller.ask(whole[-1:])

    answer = served.story(tell)
    assert (answer.status, answer.json()["code"]) == (504, "deadline-exceeded")


@pytest.mark.parametrize("way", [[], [LONG_WAY]])
def test_a_deadline_that_passes_in_the_queue_is_told(served: Served, way: Headers) -> None:
    lane = served.jobs("waiting-classifier").lane
    target = b"/classify?model=waiting-classifier"

    async def tell(first: Caller, second: Caller) -> list[Any]:
        first.send(request(PICTURE, target, [(b"x-request-timeout-ms", b"60"), *way]))
        await until(lambda: lane.waiting == 1)
        late = asyncio.Event()
        asyncio.get_running_loop().call_later(0.1, late.set)
        await late.wait()
        return [await second.ask(request(PICTURE, target)), await first.answer()]

    answered, expired = served.story(tell, 2)
    assert answered.status == 200
    assert (expired.status, expired.json()["code"]) == (504, "deadline-exceeded")


class Wrong:
    """A backend that fails as it is told, once it is warm."""

    def __init__(self) -> None:
        self.answers: Tensors | Exception | None = None

    def open(self, graph: bytes, device: str, threads: int, files: Any) -> FunctionSession:
        image = TensorSpec("image", np.dtype("u1"), (None, 8, 8, 3))
        return FunctionSession(self._run, (image,), (TensorSpec("probabilities", np.dtype("f4"), (None, 3)),))

    def _run(self, tensors: Tensors) -> Tensors:
        if isinstance(self.answers, Exception):
            raise self.answers
        rows = len(tensors["image"])
        return {"probabilities": np.full((rows, 3), 0.25, np.float32)} if self.answers is None else self.answers

    def model(self, folder: Path, *serving: str) -> Path:
        """A folder of models with one that this backend runs."""
        root = folder / "models"
        make_classifier(root, "wrong")
        (root / "wrong" / "serving.toml").write_text("".join(['backend = "wrong"\n', *serving]), encoding="utf-8")
        return root


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch) -> Wrong:
    backend = Wrong()
    monkeypatch.setitem(BACKENDS, "wrong", backend.open)  # type: ignore[arg-type]
    return backend


SECRET = "/srv/secret/model.onnx"
FAULTS: dict[str, tuple[Any, str]] = {
    "no rows to interpret": ({}, "internal-error"),
    "a name that is missing": ({"else": np.zeros((1, 3), np.float32)}, "internal-error"),
    "so many numbers that a thread reads them": ({"else": np.zeros((1, 20_000), np.float32)}, "internal-error"),
    "text among the numbers": ({"probabilities": np.array([["x", "y", SECRET]])}, "internal-error"),
    "numbers that JSON lacks": ({"probabilities": np.array([[Decimal(1)] * 3])}, "internal-error"),
    "another number of rows": ({"probabilities": np.zeros((2, 3), np.float32)}, "inference-failed"),
    "an exception": (RuntimeError(SECRET), "inference-failed"),
}


@pytest.mark.parametrize("concurrency", ["", "concurrency = 1\n"])
def test_a_fault_of_ours_is_told_in_a_fixed_sentence_and_the_connection_goes_on(
    wrong: Wrong, tmp_path: Path, concurrency: str
) -> None:
    with serving(wrong.model(tmp_path, concurrency)) as running:
        for answers, code in FAULTS.values():
            wrong.answers = answers
            observed = alike(running, PICTURE, b"/classify")
            assert observed.short
            assert (observed.answer.status, observed.answer.json()["code"]) == (500, code)
            assert b"secret" not in observed.answer.body
            assert len(observed.lines) == 2
            assert "Traceback" in observed.lines[0]
        wrong.answers = None
        assert running.ask(request(PICTURE)).status == 200


class Broken(Decoder):
    """A decoder with a fault that no picture explains."""

    def open(self, data: bytes) -> Picture:
        raise ZeroDivisionError(SECRET)


def test_a_fault_before_a_batch_is_told_in_a_fixed_sentence(
    served: Served, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings, metrics = Settings(models=tmp_path, device="cpu", threads=1, cache=None), Metrics()
    make_classifier(tmp_path)

    async def tell() -> bytes:
        registry = create_registry(settings, replace(create_resources(settings, metrics), decoder=Broken()))
        await registry.load_all()
        endpoints = task_endpoints(registry, Limits(max_pictures=1, timeout_seconds=10))
        edge = Edge(served.app, endpoints.get, 10_000, metrics)
        exchange = FastPath(endpoints, edge).offer(b"/classify", [(b"content-length", b"%d" % len(PICTURE))])
        assert exchange is not None
        answers: list[bytes] = []
        exchange.begin(PICTURE, lambda first, rest: answers.append(first + rest))
        exchange.leave()  # it has its answer, and is counted once
        await registry.close()
        return b"".join(answers)

    answer = asyncio.run(tell())
    assert answer.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert b'"code":"internal-error"' in answer
    assert b"secret" not in answer
    assert SECRET in caplog.text
    labels = {"task": "classify", "model": "tiny-classifier", "status": "500"}
    assert metrics.registry.get_sample_value("imago_requests_total", labels) == 1
    assert metrics.registry.get_sample_value("imago_requests_total", labels | {"status": "499"}) is None


class Held(np.ndarray[Any, np.dtype[np.float32]]):
    """Numbers that wait before they are read."""

    reading, may_be_read = threading.Event(), threading.Event()

    def tolist(self) -> list[float]:
        self.reading.set()
        assert self.may_be_read.wait(10)
        return super().tolist()  # type: ignore[no-any-return]


def test_an_answer_that_a_thread_makes_for_a_caller_that_left_is_counted_once(wrong: Wrong, tmp_path: Path) -> None:
    many = np.zeros((1, 20_000), np.float32)

    async def tell(caller: Caller) -> None:
        caller.send(request(PICTURE))
        assert await asyncio.to_thread(Held.reading.wait, 10)
        await caller.close()
        await until(lambda: not running.connections)
        Held.may_be_read.set()

    with serving(wrong.model(tmp_path)) as running:
        wrong.answers = {"probabilities": np.full((1, 3), 0.25, np.float32).view(Held), "many": many}
        running.story(tell)
        lines = running.log.lines.copy()
        wrong.answers = {"probabilities": np.full((1, 3), 0.25, np.float32), "many": many}
        assert running.ask(request(PICTURE)).status == 200
        answered = {series: count for series, count in running.counts().items() if "requests_total" in series}
    assert [" POST /classify 499 " in line for line in lines] == [True]
    assert answered == {
        f'imago_requests_total{{model="wrong",status="{status}",task="classify"}}': 1 for status in (499, 200)
    }


def test_a_request_leaves_nothing_for_the_collector(served: Served) -> None:
    """A cycle for every request would keep its body until the collector comes by, which is seldom."""

    async def tell(caller: Caller) -> int:
        for body in (PICTURE, b"no picture"):
            await caller.ask(request(body))
        gc.collect()
        gc.disable()
        try:
            for _ in range(50):
                assert (await caller.ask(request(PICTURE))).status == 200
                assert (await caller.ask(request(b"no picture"))).status == 415
            return gc.collect()
        finally:
            gc.enable()

    assert served.story(tell) < 50


def test_a_thousand_requests_take_no_memory(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    """Nor do the lines that they would log, which both the helpers here and pytest keep."""

    async def tell(caller: Caller) -> int:
        async def ask(count: int) -> int:
            for _ in range(count):
                await caller.ask(request(PICTURE))
            gc.collect()
            return tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        try:
            before = await ask(200)
            return await ask(1000) - before
        finally:
            tracemalloc.stop()

    with caplog.at_level(logging.WARNING, "imago"):
        assert served.story(tell) < 32_768


def test_a_caller_that_leaves_within_its_body_is_counted_alike(served: Served) -> None:
    def counted(way: Headers) -> tuple[dict[str, float], list[str]]:
        async def tell(caller: Caller) -> None:
            caller.send(request(PICTURE, headers=way)[:-5])
            await until(lambda: bool(served.connections and served.connections[0].cycle))
            await caller.close()
            await until(lambda: bool(served.log.lines))

        before = served.counts()
        served.story(tell)
        lines = [re.sub(r"^\S+|\[\w+\]|\d+\.\d ms", "T", line) for line in served.log.lines]
        return {name: count - before.get(name, 0) for name, count in served.counts().items()}, lines

    short, long = counted([]), counted([LONG_WAY])
    assert short == long
    assert short[1] == ["T INFO imago.api T POST /classify 499 T"]
