"""What every answer carries: ids, traces, timings, versions; and limits that hold before any route is asked."""

import re

import pytest

from tests.api.conftest import MAX_BODY
from tests.api.service import Service
from tests.imaging.pictures import noise, save

PICTURE = save(noise(12, 9))
OWN_ID = re.compile(r"[0-9a-f]{16}")
TRACE = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
REQUESTS = [
    ("POST", "/classify", PICTURE, 200), ("POST", "/generate", b"", 200), ("POST", "/classify", b"nothing", 415),
    ("POST", "/classify?top=1", PICTURE, 422), ("GET", "/nowhere", b"", 404), ("GET", "/classify", b"", 405),
    ("GET", "/livez", b"", 200), ("GET", "/readyz", b"", 200), ("GET", "/metrics", b"", 200), ("GET", "/", b"", 200),
    ("GET", "/models", b"", 200), ("GET", "/models/nobody", b"", 404), ("POST", "/segment", bytes(MAX_BODY + 1), 413),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body", "status"), REQUESTS)
def test_every_answer_carries_its_id_its_trace_and_its_time(
    service: Service, method: str, path: str, body: bytes, status: int
) -> None:
    answer = service.ask(method, path, content=body)
    assert answer.status_code == status
    assert OWN_ID.fullmatch(answer.headers["x-request-id"])
    assert TRACE.fullmatch(answer.headers["traceparent"])
    assert re.search(r"(^|, )total;dur=\d+\.\d\d$", answer.headers["server-timing"])
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("given", ["abc", "A.b_c:d-9", "x" * 128, "1"])
def test_a_harmless_id_is_kept(service: Service, given: str) -> None:
    for path in ("/livez", "/nowhere", "/classify"):
        assert service.ask("POST", path, headers={"x-request-id": given}).headers["x-request-id"] == given


@pytest.mark.parametrize(
    "given",
    [b"", b"x" * 129, b"a b", b"<script>alert(1)</script>", b"a\r\nSet-Cookie: x=1", b"a\nb", b"\xff\xfe", b"a;b",
     b'a"b', b"../../etc", b"\xc3\xa9", b"a\0b", b"${jndi:ldap://x}"],
)  # fmt: skip
def test_an_id_that_could_do_harm_is_replaced(service: Service, given: bytes) -> None:
    answer = service.exchange("GET", "/nowhere", headers=[(b"x-request-id", given)])
    assert OWN_ID.fullmatch(answer.headers["x-request-id"])
    assert answer.json()["instance"] == f"urn:imago:request:{answer.headers['x-request-id']}"


def test_ids_that_are_made_here_differ(service: Service) -> None:
    assert len({service.get("/livez").headers["x-request-id"] for _ in range(20)}) == 20


def test_a_trace_goes_on_with_a_span_of_our_own(service: Service) -> None:
    given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    found = service.get("/livez", headers={"traceparent": given}).headers["traceparent"]
    assert TRACE.fullmatch(found)
    assert found.split("-")[1] == given.split("-")[1]
    assert found.split("-")[2] != given.split("-")[2]
    assert found.endswith("-01")


@pytest.mark.parametrize(
    "given",
    ["", "00", "nonsense", "00-" + "0" * 32 + "-00f067aa0ba902b7-01", "0" * 5000,
     "00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01",
     "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
     "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
     "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more"],
)  # fmt: skip
def test_a_broken_trace_is_begun_anew(service: Service, given: str) -> None:
    found = service.get("/livez", headers={"traceparent": given}).headers["traceparent"]
    assert TRACE.fullmatch(found)
    assert "4bf92f3577b34da6" not in found.lower()


def test_a_prediction_tells_the_time_of_every_stage(service: Service) -> None:
    timing = service.post("/classify", PICTURE).headers["server-timing"]
    stages = dict(entry.split(";dur=") for entry in timing.split(", "))
    assert list(stages) == ["decode", "queue", "inference", "encode", "total"]
    parts = [float(stages[name]) for name in ("decode", "queue", "inference", "encode")]
    assert all(part >= 0 for part in parts)
    assert sum(parts) <= float(stages["total"]) + 0.1


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/classify", PICTURE, 200),
        ("/segment", b"nothing", 415),
        ("/classify", b"", 400),
        ("/classify", bytes(MAX_BODY), 415),
    ],
)
def test_the_version_that_was_asked_stands_on_every_answer_of_a_model(
    service: Service, path: str, body: bytes, status: int
) -> None:
    answer = service.post(path, body)
    assert (answer.status_code, answer.headers["x-model-version"]) == (status, "1")


def test_an_answer_of_no_model_has_no_version(service: Service) -> None:
    assert "x-model-version" not in service.get("/livez").headers
    assert "x-model-version" not in service.post("/classify?model=nobody", PICTURE).headers


@pytest.mark.parametrize(
    "headers",
    [
        [(b"host", b"a/?x=")],
        [(b"host", b"")],
        [(b"x-forwarded-for", b"1.2.3.4"), (b"x-forwarded-host", b"evil"), (b"forwarded", b"for=1")],
        [(b"range", b"bytes=" + b"0-1," * 20_000)],
        [(b"if-none-match", b'"x",' * 20_000)],
        [(b"accept", b"a/b," * 5_000 + b"*/*")],
        [(b"cookie", b"a=b;" * 5_000)],
        [(b"x-n%d" % number, b"1") for number in range(1000)],
        [(b"upgrade", b"h2c"), (b"connection", b"Upgrade")],
        [(b"x-http-method-override", b"DELETE")],
        [(b"content-type", b"\xff" * 100)],
        [(b"expect", b"100-continue")],
    ],
    ids=lambda headers: headers[0][0].decode(),
)
def test_strange_headers_change_nothing(service: Service, headers: list[tuple[bytes, bytes]]) -> None:
    answer = service.exchange("POST", "/classify", headers=headers, body=PICTURE)
    assert (answer.status, answer.json()["model"]) == (200, "tiny-classifier")
