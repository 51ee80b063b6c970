"""What a caller may not do to a connection: come late, come without end, never read, come in crowds."""

import asyncio
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from app.wire.connection import LONGEST_HEAD, LONGEST_TARGET, MOST_HEADERS, Connection
from tests.api.connection import Caller, Served, make_models, request, serving, until
from tests.api.service import Answer
from tests.imaging.pictures import noise, save

PICTURE = save(noise(12, 9))
WHOLE = request(PICTURE)
LIVEZ = request(target=b"/livez", method=b"GET")
WAITING = b"/classify?model=waiting-classifier"
"""Runs when it has two jobs."""
LARGE = save(noise(300, 300))
"""More bytes than the fast path takes."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_models(tmp_path_factory.mktemp("limits") / "models")


@pytest.fixture(scope="module")
def served(root: Path) -> Iterator[Served]:
    with serving(root, max_body_bytes=400_000) as running:
        yield running


@pytest.fixture(scope="module")
def hasty(root: Path) -> Iterator[Served]:
    """Waits a fifth of a second for whatever a caller owes it, and long for the next request."""
    with serving(root, head_timeout_seconds=0.2, body_timeout_seconds=0.2, write_timeout_seconds=0.2) as running:
        yield running


def told(answer: Answer) -> tuple[int, str, str]:
    """Status, code and fate of the connection; an error has the form that all have."""
    assert answer.headers["content-type"] == "application/problem+json"
    assert re.fullmatch(r"[0-9a-f]{16}", answer.headers["x-request-id"])
    assert answer.json()["instance"].endswith(answer.headers["x-request-id"])
    assert answer.json()["status"] == answer.status
    return answer.status, answer.json()["code"], answer.headers.get("connection", "")


LATE = {
    "head": WHOLE[:30],
    "head, after one byte": b"P",
    "a header": WHOLE[: -len(PICTURE) - 3],
    "body": WHOLE[:-1],
    "body without a byte": WHOLE[: -len(PICTURE)],
    "long body": request(LARGE)[:-1],
    "body of unknown length": b"POST /classify HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
    "body of options": request(b"{}", b"/generate")[:-1],
}


@pytest.mark.parametrize("what", LATE)
@pytest.mark.parametrize("before", [b"", WHOLE, LIVEZ])
def test_a_request_that_does_not_come_to_its_end_is_answered_and_closed(
    hasty: Served, what: str, before: bytes
) -> None:
    async def tell(caller: Caller) -> tuple[Answer, bytes]:
        if before:
            assert (await caller.ask(before)).status == 200
        return await caller.ask(LATE[what]), await caller.ended()

    answer, rest = hasty.story(tell)
    assert (told(answer), rest) == ((408, "request-timeout", "close"), b"")


def test_a_byte_now_and_then_does_not_put_the_end_off(hasty: Served) -> None:
    async def tell(caller: Caller) -> Answer:
        async def drip() -> None:
            for byte in WHOLE:
                caller.send(bytes([byte]))
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        answer = await caller.answer()
        dripping.cancel()
        return answer

    assert told(hasty.story(tell)) == (408, "request-timeout", "close")


def test_a_late_body_is_counted_with_its_task(hasty: Served) -> None:
    series = 'imago_requests_total{model="tiny-classifier",status="408",task="classify"}'
    assert hasty.observe(LATE["body"]).counted[series] == 1
    assert hasty.observe(LATE["long body"]).counted[series] == 1


@pytest.mark.parametrize(("rest", "told"), [(2**20, (400, "invalid-request")), (10, (408, "request-timeout"))])
def test_each_mib_of_a_job_has_the_time_of_a_body(root: Path, tmp_path: Path, rest: int, told: tuple[int, str]) -> None:
    """The second of three parts comes when the first has had its time; the body is no zip, which is seen at its end."""
    part = bytes(2**20)
    body = 2 * part + bytes(rest)

    async def tell(caller: Caller) -> Answer:
        head = request(body, b"/jobs?task=classify")[: -len(body)]
        for data in (head + part, part):
            caller.send(data)
            await asyncio.sleep(0.35)
        caller.send(bytes(rest) if rest > 10 else b"")
        return await caller.answer()

    with serving(root, body_timeout_seconds=0.5, jobs_dir=tmp_path / "jobs") as running:
        answer = running.story(tell)
    assert (answer.status, answer.json()["code"]) == told


def test_a_caller_that_says_nothing_is_closed_without_a_word(hasty: Served) -> None:
    assert hasty.story(lambda caller: caller.ended()) == b""


@pytest.mark.parametrize("behind", [WHOLE[:30], WHOLE[:-1], request(LARGE)[:-1]])
def test_a_request_behind_one_that_runs_has_the_time_that_this_takes(hasty: Served, behind: bytes) -> None:
    """Until then its rest is not read, or its answer could not be given: what is late is late after that."""

    async def tell(slow: Caller, late: Caller, other: Caller) -> list[Answer]:
        await other.ask(LIVEZ)
        slow.send(request(PICTURE, WAITING) + behind)
        await until(lambda: hasty.jobs("waiting-classifier").lane.waiting == 1)
        await late.ask(LATE["body"])
        await other.ask(request(PICTURE, WAITING))
        return [await slow.answer(), await slow.answer()]

    first, second = hasty.story(tell, 3)
    assert (first.status, told(second)) == (200, (408, "request-timeout", "close"))


def test_a_request_that_runs_has_no_time_of_the_connection(hasty: Served) -> None:
    async def tell(slow: Caller, late: Caller, other: Caller) -> Answer:
        await other.ask(LIVEZ)
        slow.send(request(PICTURE, WAITING))
        await until(lambda: hasty.jobs("waiting-classifier").lane.waiting == 1)
        await late.ask(LATE["body"])
        await other.ask(request(PICTURE, WAITING))
        return await slow.answer()

    assert hasty.story(tell, 3).status == 200


def test_an_answer_that_nobody_reads_is_given_up(root: Path) -> None:
    async def tell(caller: Caller) -> None:
        caller.writer.transport.pause_reading()  # type: ignore[attr-defined]
        caller.writer.write(WHOLE * 3000)
        await until(lambda: any(connection.flow.write_paused for connection in running.connections))
        await until(lambda: not running.connections)
        await caller.reset()

    with serving(root, buffer=4096, write_timeout_seconds=0.2) as running:
        running.story(tell)


def test_a_short_answer_that_nobody_reads_is_given_up(root: Path) -> None:
    """It is less than the loop would call a caller slow for: the connection is idle, then closed, then broken off."""

    async def tell(caller: Caller) -> None:
        caller.writer.transport.pause_reading()  # type: ignore[attr-defined]
        while not any(connection.transport.get_write_buffer_size() for connection in running.connections):
            caller.writer.write(WHOLE)
            await asyncio.sleep(0)
        await until(lambda: not running.connections)
        await caller.reset()

    with serving(root, buffer=4096, keep_alive_seconds=0.2, write_timeout_seconds=0.2) as running:
        running.story(tell)


ENDS = {
    "target": (b"GET /livez?" + b"x" * LONGEST_TARGET + b" HTTP/1.1\r\nhost: x\r\n\r\n", 414, "target-too-long"),
    "header": (request(PICTURE, headers=[(b"x", b"y" * LONGEST_HEAD)]), 431, "headers-too-long"),
    "headers": (request(PICTURE, headers=[(b"x", b"y")] * MOST_HEADERS), 431, "headers-too-long"),
    "no method": (b"NO /livez HTTP/1.1\r\n\r\n", 400, "malformed-message"),
    "no target": (b"CONNECT a:1 HTTP/1.1\r\nhost: x\r\n\r\n", 400, "malformed-message"),
    "two lengths": (request(PICTURE, headers=[(b"content-length", b"3"), (b"content-length", b"4")]), 400,
                    "malformed-message"),
    "length and chunks": (request(PICTURE, headers=[(b"transfer-encoding", b"chunked"), (b"content-length", b"3")]),
                          400, "malformed-message"),
}  # fmt: skip


@pytest.mark.parametrize("what", ENDS)
def test_a_head_that_cannot_be_read_is_a_problem_and_the_end(served: Served, what: str) -> None:
    data, status, code = ENDS[what]

    async def tell(caller: Caller) -> tuple[Answer, bytes]:
        return await caller.ask(data + LIVEZ), await caller.ended()

    answer, rest = served.story(tell)
    assert (told(answer), rest) == ((status, code, "close"), b"")


def test_a_head_within_its_limits_is_read(served: Served) -> None:
    most = [(b"x%d" % number, b"y") for number in range(MOST_HEADERS - 2)]
    assert served.ask(request(PICTURE, headers=most)).status == 200
    assert served.ask(request(PICTURE, headers=[(b"x", b"y" * (LONGEST_HEAD - 100))])).status == 200
    target = b"/livez?" + b"x" * (LONGEST_TARGET - 7)
    assert served.ask(request(target=target, method=b"GET")).status == 200


ROUTES = [b"/classify", b"/segment", b"/generate", b"/nowhere", b"/livez", b"/models"]


@pytest.mark.parametrize("target", ROUTES)
@pytest.mark.parametrize("form", [b"image/png", b"application/json", b"multipart/form-data; boundary=b"])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_too_long_is_refused_on_every_route_and_the_refusal_can_be_read(
    served: Served, target: bytes, form: bytes, chunked: bool
) -> None:
    """The caller sends all of it before it reads: a connection reset by then would lose the answer."""
    size = 8_000_000
    framing = (b"transfer-encoding", b"chunked") if chunked else (b"content-length", b"%d" % size)
    head = b"\r\n".join(
        [b"POST %b HTTP/1.1" % target, b"host: x", b"content-type: " + form, b"%b: %b" % framing, b"", b""]
    )

    async def tell(caller: Caller) -> tuple[Answer, bytes]:
        caller.send(head + (b"%x\r\n" % size if chunked else b"") + bytes(size))
        await caller.writer.drain()
        return await caller.answer(), await caller.ended()

    answer, rest = served.story(tell)
    assert (answer.headers["connection"], rest) == ("close", b"")
    if target in ROUTES[:3] or not chunked:
        assert told(answer)[:2] == (413, "body-too-large")
    else:  # nobody reads it
        assert told(answer)[0] in {404, 405}


def test_a_body_too_long_is_refused_before_it_is_asked_for(served: Served) -> None:
    asked = request(b"", headers=[(b"content-length", b"400001"), (b"expect", b"100-continue")])

    async def tell(caller: Caller) -> bytes:
        caller.send(asked)
        return await caller.ended()

    assert served.story(tell).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "target", [b"/livez", b"/readyz", b"/models", b"/metrics", b"/", b"/docs", b"/openapi.json", b"/nowhere"]
)
def test_head_is_answered_as_get_without_a_body(served: Served, target: bytes) -> None:
    async def tell(caller: Caller) -> tuple[bytes, bytes, Answer]:
        caller.send(request(target=target, method=b"HEAD"))
        head = await caller.reader.readuntil(b"\r\n\r\n")
        caller.send(request(target=target, method=b"GET"))
        whole = await caller.reader.readuntil(b"\r\n\r\n")
        length = int(re.search(rb"content-length: (\d+)", whole)[1])  # type: ignore[index]
        await caller.reader.readexactly(length)
        return head, whole, await caller.ask(WHOLE)

    head, whole, after = served.story(tell)
    assert head.split(b"\r\n")[0] == whole.split(b"\r\n")[0]
    assert b"content-length: " in head
    assert after.status == 200


def test_a_method_refused_names_head_where_get_is(served: Served) -> None:
    assert served.ask(request(target=b"/livez")).headers["allow"] == "GET, HEAD"
    assert served.ask(request(target=b"/classify", method=b"GET")).headers["allow"] == "POST"


# The cap on connections: ten.


@pytest.fixture
def full(root: Path) -> Iterator[Served]:
    with serving(root, max_connections=10) as running:
        yield running


async def occupy(full: Served, callers: tuple[Caller, ...]) -> None:
    """Have a request under way on each of these connections."""
    for caller in callers:
        caller.send(LATE["body"])
    await until(lambda: len(full.fast.took) == len(callers))


def test_a_new_caller_takes_the_place_of_who_is_idle_longest(full: Served) -> None:
    async def tell(*callers: Caller) -> tuple[bytes, list[int]]:
        *busy, oldest, idle = callers
        await occupy(full, tuple(busy))
        await oldest.ask(LIVEZ)
        answered = asyncio.get_running_loop().time()
        await until(lambda: asyncio.get_running_loop().time() > answered)
        await idle.ask(LIVEZ)
        newest = await full.connect()
        statuses = [(await caller.ask(LIVEZ)).status for caller in (newest, idle)]
        await newest.close()
        return await oldest.ended(), statuses

    assert full.story(tell, 10) == (b"", [200, 200])


def test_nobody_whose_request_has_come_makes_room(full: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where it was not read yet, since the loop is busy: here it comes just before the new one is served."""
    made = full.server.config.http_protocol_class

    async def tell(*callers: Caller) -> tuple[list[int], bytes]:
        *busy, oldest, idle = callers
        await occupy(full, tuple(busy))
        for caller in (oldest, idle):
            await caller.ask(LIVEZ)

        class Newest(Connection):
            def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
                oldest.send(LIVEZ)
                super().connection_made(transport)

        monkeypatch.setattr(full.server.config, "http_protocol_class", partial(Newest, *cast(partial[Any], made).args))
        newest = await full.connect()
        statuses = [(await newest.ask(LIVEZ)).status, (await oldest.answer()).status]
        await newest.close()
        return statuses, await idle.ended()

    assert full.story(tell, 10) == ([200, 200], b"")


def test_a_new_caller_takes_the_place_of_who_sends_a_head_slowly(full: Served) -> None:
    async def tell(*slow: Caller) -> tuple[int, bytes]:
        for caller in slow:
            caller.send(LATE["head"])
        await until(lambda: all(connection.scope for connection in full.connections))
        newest = await full.connect()
        answer = await newest.ask(LIVEZ)
        await newest.close()
        ends = [asyncio.create_task(caller.ended()) for caller in slow]
        (ended,), others = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for waiting in others:
            waiting.cancel()
        return answer.status, ended.result()

    assert full.story(tell, 10) == (200, b"")


def test_where_nobody_is_idle_a_new_caller_is_refused_at_once(full: Served) -> None:
    async def tell(*busy: Caller) -> tuple[Answer, bytes, list[int]]:
        await occupy(full, busy)
        refused = await full.connect()
        refused.send(WHOLE)
        answer, rest = await refused.answer(), await refused.ended()
        await refused.close()
        for caller in busy:
            caller.send(WHOLE[-1:])
        return answer, rest, [(await caller.answer()).status for caller in busy]

    answer, rest, statuses = full.story(tell, 10)
    assert (told(answer), rest) == ((503, "too-many-connections", "close"), b"")
    assert int(answer.headers["retry-after"]) >= 1
    assert statuses == [200] * 10


def test_those_refused_are_not_kept_without_end_either(full: Served) -> None:
    async def tell(*busy: Caller) -> tuple[int, list[Any]]:
        await occupy(full, busy)
        crowd = [await full.connect() for _ in range(100)]
        answers = [await _whatever(caller) for caller in crowd]
        kept = len(full.connections)
        for caller in crowd:
            await caller.close()
        return kept, answers

    async def _whatever(caller: Caller) -> bytes:
        try:
            return await caller.ended()
        except ConnectionError:
            return b""

    kept, answers = full.story(tell, 10)
    assert kept <= 13
    assert sum(answer.startswith(b"HTTP/1.1 503 ") for answer in answers) >= 2
