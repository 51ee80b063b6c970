"""Connections: who is answered in which order, what is closed when, what a caller that behaves badly can do; and the
sockets that listen."""

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.errors import InvalidSettings
from app.server import addresses, listen
from tests.api.connection import Caller, Served, make_models, request, serving, until
from tests.api.service import Answer
from tests.imaging.pictures import noise, save

PICTURE = save(noise(12, 9))
LARGE = save(np.full((700, 700, 3), (10, 20, 200), np.uint8))
"""Many pixels in few bytes: a thread decodes it."""
WAITING = b"/classify?model=waiting-classifier"
"""Runs when it has two jobs."""
LIVEZ = request(target=b"/livez", method=b"GET")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_models(tmp_path_factory.mktemp("served") / "models")


@pytest.fixture(scope="module")
def served(root: Path) -> Iterator[Served]:
    with serving(root) as running:
        yield running


@pytest.fixture
def impatient(root: Path) -> Iterator[Served]:
    """Closes idle connections after a fifth of a second."""
    with serving(root, keep_alive_seconds=0.2) as running:
        yield running


def numbered(count: int, target: bytes = b"/classify", body: bytes = PICTURE) -> list[bytes]:
    return [request(body, target, [(b"x-request-id", b"n%d" % number)]) for number in range(count)]


def ids(answers: list[Answer]) -> list[str]:
    return [answer.headers["x-request-id"] for answer in answers]


def waiting(served: Served) -> int:
    return served.jobs("waiting-classifier").lane.waiting


def defects(served: Served) -> list[str]:
    """Log lines that say that something is wrong here."""
    return [line for line in served.log.lines if " INFO " not in line]


def test_a_connection_answers_one_request_after_the_other(served: Served) -> None:
    asked = [request(PICTURE), LIVEZ, request(b"no picture"), request(LARGE), request(PICTURE), request(b""), LIVEZ,
             request(PICTURE, b"/segment")]  # fmt: skip

    async def tell(caller: Caller) -> list[Answer]:
        return [await caller.ask(data) for data in asked]

    answers = served.story(tell)
    assert [answer.status for answer in answers] == [200, 200, 415, 200, 200, 400, 200, 200]
    assert not any("connection" in answer.headers for answer in answers)


LONG = request(PICTURE, headers=[(b"expect", b"100-continue")])
MIXTURES = {
    "short, short": [request(PICTURE), request(PICTURE)],
    "short, long": [request(PICTURE), LIVEZ],
    "long, short": [LIVEZ, request(PICTURE)],
    "refused, short, refused": [request(b"no"), request(PICTURE), request(b"no")],
    "large, short": [request(LARGE), request(PICTURE)],
    "short, large, short, long": [request(PICTURE), request(LARGE), request(PICTURE), LIVEZ],
    "through threads": [request(PICTURE, b"/classify?model=tiny-threaded"), request(PICTURE), LIVEZ],
    "everything": [LIVEZ, request(PICTURE), LONG, request(b"no"), LIVEZ, request(LARGE), LONG, request(PICTURE)] * 3,
}


@pytest.mark.parametrize("name", MIXTURES)
def test_requests_in_one_packet_are_answered_in_their_order(served: Served, name: str) -> None:
    asked = [data.replace(b"host: imago", b"host: imago\r\nx-request-id: n%d" % number)
             for number, data in enumerate(MIXTURES[name])]  # fmt: skip

    async def tell(caller: Caller) -> list[Answer]:
        caller.send(b"".join(asked))
        return [await caller.answer() for _ in asked]

    answers = served.story(tell)
    assert ids(answers) == [f"n{number}" for number in range(len(asked))]
    assert {answer.status for answer in answers} <= {200, 415}
    assert defects(served) == []


def test_a_request_that_follows_one_that_waits_is_answered_after_it(served: Served) -> None:
    async def tell(first: Caller, second: Caller) -> list[Answer]:
        first.send(b"".join([*numbered(1, WAITING), LIVEZ, request(PICTURE)]))
        await until(lambda: waiting(served) == 1)
        await second.ask(request(PICTURE, WAITING))
        return [await first.answer() for _ in range(3)]

    assert [answer.status for answer in served.story(tell, 2)] == [200, 200, 200]


@pytest.mark.parametrize("size", [1, 7])
def test_a_request_may_come_in_pieces(served: Served, size: int) -> None:
    data = request(PICTURE, b"/classify?top_k=1", [(b"x-request-id", b"pieces"), (b"accept", b"*/*")])

    async def tell(caller: Caller) -> Answer:
        caller.writer.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(data), size):
            caller.send(data[start : start + size])
            await asyncio.sleep(0)
        return await caller.answer()

    answer = served.story(tell)
    assert (answer.status, answer.headers["x-request-id"], served.fast.took) == (200, "pieces", [True])


@pytest.mark.parametrize("line", [b"Connection: close", b"connection: Close, x", b"Connection: keep-alive, close"])
def test_a_caller_that_asks_for_it_gets_its_connection_closed(served: Served, line: bytes) -> None:
    asked = request(PICTURE).replace(b"host: imago", line)

    async def tell(caller: Caller) -> tuple[Answer, bytes]:
        return await caller.ask(asked + LIVEZ), await caller.ended()

    answer, rest = served.story(tell)
    assert (answer.status, answer.headers["connection"], rest) == (200, "close", b"")


def test_a_caller_of_http_1_0_is_answered_and_its_connection_closed(served: Served) -> None:
    async def tell(caller: Caller) -> tuple[Answer, bytes]:
        return await caller.ask(request(PICTURE).replace(b"HTTP/1.1", b"HTTP/1.0")), await caller.ended()

    answer, rest = served.story(tell)
    assert (answer.status, rest, served.fast.took) == (200, b"", [])


@pytest.mark.parametrize("way", ["close", "reset"])
@pytest.mark.parametrize("behind", [b"", b"POST /cl"])
def test_the_job_of_a_caller_that_leaves_is_dropped_and_nobody_disturbed(
    served: Served, way: str, behind: bytes
) -> None:
    async def tell(leaver: Caller, first: Caller, second: Caller) -> list[Answer]:
        leaver.send(request(PICTURE, WAITING) + behind)
        await until(lambda: waiting(served) == 1)
        await getattr(leaver, way)()
        await until(lambda: waiting(served) == 0)
        first.send(request(PICTURE, WAITING))
        await until(lambda: waiting(served) == 1)
        return [await second.ask(request(PICTURE, WAITING)), await first.answer()]

    before = served.counts()
    answers = served.story(tell, 3)
    assert [answer.status for answer in answers] == [200, 200]
    assert defects(served) == []
    assert sum("POST /classify 499" in line for line in served.log.lines) == 1
    cancelled = 'imago_cancelled_total{model="waiting-classifier",task="classify"}'
    assert served.counts()[cancelled] - before.get(cancelled, 0) == 1


@pytest.mark.parametrize("way", [[], [(b"expect", b"100-continue")]])
@pytest.mark.parametrize("behind", [LIVEZ, request(PICTURE), request(PICTURE)[:-3]])
def test_a_caller_that_leaves_more_than_one_request_behind_is_no_defect(
    served: Served, behind: bytes, way: list[tuple[bytes, bytes]]
) -> None:
    """Nothing is read while one request waits behind another, so that nobody is heard leaving: its first job runs."""

    async def tell(leaver: Caller, other: Caller) -> Answer:
        leaver.send(request(PICTURE, WAITING, way) + behind)
        await until(lambda: waiting(served) == 1)
        await leaver.reset()
        return await other.ask(request(PICTURE, WAITING))

    assert served.story(tell, 2).status == 200
    assert defects(served) == []


@pytest.mark.parametrize("way", ["close", "reset"])
@pytest.mark.parametrize("sent", [b"P", b"POST /classify HTTP/1.1\r\nhost: x\r\nconte", request(PICTURE)[:-5]])
def test_a_caller_that_leaves_within_its_request_is_no_defect(served: Served, way: str, sent: bytes) -> None:
    async def tell(leaver: Caller, other: Caller) -> Answer:
        leaver.send(sent)
        await getattr(leaver, way)()
        await until(lambda: len(served.connections) == 1)
        return await other.ask(request(PICTURE))

    assert served.story(tell, 2).status == 200
    assert defects(served) == []


def test_a_caller_that_leaves_while_its_picture_is_decoded_is_no_defect(served: Served) -> None:
    async def tell(leaver: Caller, other: Caller) -> Answer:
        leaver.send(request(LARGE))
        await until(lambda: bool(served.fast.took))
        await leaver.reset()
        await until(lambda: len(served.connections) == 1)
        return await other.ask(request(LARGE))

    assert served.story(tell, 2).status == 200
    assert defects(served) == []


def test_a_caller_that_never_reads_is_not_read_from_for_ever(root: Path) -> None:
    """Answers that nobody takes wait in the buffer of the connection, and the requests behind them with the caller."""
    count = 3000

    async def tell(caller: Caller, leaver: Caller) -> tuple[int, int, list[Answer]]:
        await blocked(leaver)
        await leaver.reset()
        await until(lambda: len(running.connections) == 1)
        kept = await blocked(caller)
        caller.writer.transport.resume_reading()  # type: ignore[attr-defined]
        return *kept, [await caller.answer() for _ in range(count)]

    async def blocked(caller: Caller) -> tuple[int, int]:
        caller.writer.transport.pause_reading()  # type: ignore[attr-defined]
        caller.writer.write(b"".join(numbered(count)))
        await until(lambda: any(busy(connection) for connection in running.connections))
        (connection,) = filter(busy, running.connections)
        return connection.transport.get_write_buffer_size(), len(connection.pipeline)

    def busy(connection: Any) -> bool:
        return bool(connection.flow.read_paused and connection.flow.write_paused)

    with serving(root, buffer=4096) as running:
        buffered, pipelined, answers = running.story(tell, 2)
        assert defects(running) == []
    assert buffered < 200_000
    assert pipelined < 1000
    assert ids(answers) == [f"n{number}" for number in range(count)]


def test_a_connection_keeps_neither_a_body_that_does_not_come_nor_one_that_was_answered(served: Served) -> None:
    whole = request(PICTURE + bytes(16_000))

    async def tell(announcing: Caller, answered: Caller) -> list[int]:
        announcing.send(whole[: -len(PICTURE) - 16_000])
        assert (await answered.ask(whole)).status == 200
        await until(lambda: len(served.fast.took) == 2)
        return [connection.cycle.body.__alloc__() for connection in served.connections]

    assert max(served.story(tell, 2)) < 100


CHUNKED = b"POST /classify HTTP/1.1\r\nhost: imago\r\ntransfer-encoding: chunked\r\n\r\n"
ENDLESS = {
    "a target": (b"GET /livez?", b"x"),
    "the name of a header": (b"GET /livez HTTP/1.1\r\n", b"x"),
    "a header": (b"GET /livez HTTP/1.1\r\nx: ", b"x"),
    "headers": (b"GET /livez HTTP/1.1\r\n", b"a: b\r\n"),
    "what stands behind the length of a chunk": (CHUNKED + b"1;", b"x"),
    "a trailer": (CHUNKED + b"1\r\na\r\n0\r\nx: ", b"x"),
    "trailers": (CHUNKED + b"1\r\na\r\n0\r\n", b"a: b\r\n"),
}


@pytest.mark.parametrize("what", ENDLESS)
@pytest.mark.parametrize("after", [b"", request(PICTURE), LIVEZ])
def test_what_has_no_end_and_is_no_body_is_refused(served: Served, what: str, after: bytes) -> None:
    """The parser keeps what it has of a header, and copies it with every packet."""
    begin, more = ENDLESS[what]

    async def tell(caller: Caller) -> Answer:
        if after:
            await caller.ask(after)
        caller.send(begin + more * 10)
        sending = asyncio.create_task(_send_for_ever(caller, more * 1000))
        answer = await caller.answer()
        sending.cancel()
        return answer

    answer = served.story(tell)
    assert (answer.status, answer.headers["connection"]) == (414 if what == "a target" else 431, "close")


async def _send_for_ever(caller: Caller, data: bytes) -> None:
    while True:
        caller.send(data)
        await caller.writer.drain()
        await asyncio.sleep(0)


@pytest.mark.parametrize("cut", [1_000_000, 70_000, 9_999])
@pytest.mark.parametrize("length", [60_000, 100_000])
def test_many_headers_and_long_bodies_are_taken(served: Served, length: int, cut: int) -> None:
    """However they are cut: packets of a body are no headers, and what follows them has none of their length."""
    body = PICTURE + bytes(length)
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:1], body[1:-1], body[-1:]))
    long = [request(body), CHUNKED + chunks + b"0\r\n\r\n", request(PICTURE, headers=[(b"x", b"y" * 50_000)])]
    asked = b"".join(long) * 3

    async def tell(caller: Caller) -> list[int]:
        async def answers() -> list[int]:
            return [(await caller.answer()).status for _ in range(9)]

        answering = asyncio.create_task(answers())
        for start in range(0, len(asked), cut):
            caller.send(asked[start : start + cut])
            await asyncio.sleep(0)
        return await answering

    assert served.story(tell) == [200] * 9


@pytest.mark.parametrize(
    "data", [b"\0\1\2", b"GET /livez HTTP/9.9\r\n\r\n", b"POST /classify\r\n\r\n", b"NO /x HTTP/1.1\r\n\r\n", PICTURE]
)
def test_what_is_no_http_is_refused_after_what_was(served: Served, data: bytes) -> None:
    async def tell(caller: Caller) -> tuple[Answer, Answer, bytes]:
        return await caller.ask(request(PICTURE)), await caller.ask(data), await caller.ended()

    first, second, rest = served.story(tell)
    assert (first.status, second.status, second.headers["connection"], rest) == (200, 400, "close", b"")


def test_what_is_no_http_behind_a_request_that_waits_gets_one_answer(served: Served) -> None:
    async def tell(caller: Caller, other: Caller, third: Caller) -> tuple[Answer, bytes]:
        caller.send(request(PICTURE, WAITING) + b"\0\1\2")
        answer, rest = await caller.answer(), await caller.ended()
        other.send(request(PICTURE, WAITING))
        await third.ask(request(PICTURE, WAITING))
        await other.answer()
        return answer, rest

    answer, rest = served.story(tell, 3)
    assert (answer.status, rest) == (400, b"")
    assert defects(served) == []


UPGRADES = {
    "websocket": [(b"upgrade", b"websocket"), (b"connection", b"Upgrade"), (b"sec-websocket-key", b"eHh4")],
    "h2c": [
        (b"connection", b"Upgrade, HTTP2-Settings"),
        (b"upgrade", b"h2c"),
        (b"http2-settings", b"AAEAAEAAAAIAAAAB"),
    ],
    "nonsense": [(b"connection", b"upgrade"), (b"upgrade", b"non"), (b"upgrade", b"sense")],
}


@pytest.mark.parametrize("protocol", UPGRADES)
def test_a_request_that_asks_for_another_protocol_is_answered_as_if_it_did_not(served: Served, protocol: str) -> None:
    asked = [request(PICTURE, headers=UPGRADES[protocol]), request(LARGE, headers=UPGRADES[protocol]),
             request(target=b"/livez", method=b"GET", headers=UPGRADES[protocol])]  # fmt: skip

    async def tell(caller: Caller) -> list[Answer]:
        answers = [await caller.ask(data) for data in asked]
        caller.send(b"".join([*asked, request(PICTURE), *asked]))
        return answers + [await caller.answer() for _ in range(7)]

    assert [answer.status for answer in served.story(tell)] == [200] * 10
    assert served.fast.took[:2] == [True, True]
    assert defects(served) == []


@pytest.mark.parametrize("size", [1, 60, 400])
def test_the_body_of_a_request_that_asks_for_another_protocol_is_no_request_of_its_own(
    served: Served, size: int
) -> None:
    hidden = request(target=b"/readyz", method=b"GET")
    data = request(hidden, b"/generate", UPGRADES["h2c"])

    async def tell(caller: Caller) -> list[Answer]:
        for start in range(0, len(data), size):
            caller.send(data[start : start + size])
            await asyncio.sleep(0)
        return [await caller.answer(), await caller.ask(LIVEZ)]

    first, second = served.story(tell)
    assert (first.status, first.json()["code"], second.json()["status"]) == (400, "invalid-request", "alive")


# The end of an idle connection is the clock of these tests: whatever another one waited for took longer.


def test_an_idle_connection_is_closed(impatient: Served) -> None:
    async def tell(*callers: Caller) -> list[bytes]:
        for caller, asked in zip(callers, (request(PICTURE), LIVEZ, request(b"no"), request(LARGE)), strict=True):
            await caller.ask(asked)
        return [await caller.ended() for caller in callers]

    assert impatient.story(tell, 4) == [b""] * 4


def test_a_connection_that_answers_again_and_again_is_not_idle(impatient: Served) -> None:
    async def tell(busy: Caller, idle: Caller) -> int:
        await busy.ask(request(PICTURE))
        await idle.ask(request(PICTURE))
        closed = asyncio.create_task(idle.ended())
        while not closed.done():
            await busy.ask(request(PICTURE))
        return (await busy.ask(request(PICTURE))).status

    assert impatient.story(tell, 2) == 200


@pytest.mark.parametrize("first", [request(PICTURE), LIVEZ])
def test_a_connection_whose_request_runs_is_not_idle(impatient: Served, first: bytes) -> None:
    async def tell(busy: Caller, idle: Caller, other: Caller) -> int:
        await busy.ask(first)
        busy.send(request(PICTURE, WAITING))
        await until(lambda: waiting(impatient) == 1)
        await idle.ask(request(PICTURE))
        await idle.ended()
        assert (await other.ask(request(PICTURE, WAITING))).status == 200
        return (await busy.answer()).status

    assert impatient.story(tell, 3) == 200


@pytest.mark.parametrize("way", [[], [(b"expect", b"100-continue")]])
@pytest.mark.parametrize("cut", [1, 20, -5])
@pytest.mark.parametrize("following", [request(PICTURE), LONG, request(PICTURE, WAITING)])
def test_a_connection_on_which_a_request_has_begun_to_arrive_is_not_idle(
    impatient: Served, following: bytes, cut: int, way: list[tuple[bytes, bytes]]
) -> None:
    """It begins while the one before is answered: the end of that answer is not the beginning of a rest."""

    async def tell(slow: Caller, idle: Caller, other: Caller) -> list[Answer]:
        slow.send(request(PICTURE, WAITING, way) + following[:cut])
        await until(lambda: waiting(impatient) == 1)
        first = [await other.ask(request(PICTURE, WAITING)), await slow.answer()]
        await idle.ask(request(PICTURE))
        await idle.ended()
        slow.send(following[cut:])
        if b"waiting" in following:
            await until(lambda: waiting(impatient) == 1)
            third = await impatient.connect()
            await third.ask(request(PICTURE, WAITING))
            await third.close()
        return [*first, await slow.answer()]

    assert [answer.status for answer in impatient.story(tell, 3)] == [200, 200, 200]


def test_a_server_that_stops_answers_what_has_begun_and_closes(root: Path) -> None:
    async def tell(
        first: Caller, second: Caller, large: Caller, hasty: Caller, idle: Caller
    ) -> tuple[list[Answer], list[bytes]]:
        await idle.ask(request(PICTURE))
        first.send(request(PICTURE, WAITING))
        await until(lambda: waiting(running) == 1)
        last, least, bad = request(PICTURE, WAITING), request(LARGE), request(b"no picture")
        second.send(last[:-1])
        large.send(least[:-1])
        await hasty.ask(LIVEZ)
        hasty.send(bad[:-1])
        await until(lambda: len(running.fast.took) == 5)
        stopping = asyncio.create_task(running.shut_down())
        assert await idle.ended() == b""
        large.send(least[-1:])
        hasty.send(bad[-1:] + bad)
        second.send(last[-1:])
        callers = (first, second, large, hasty)
        answers = [await caller.answer() for caller in callers]
        rests = [await caller.ended() for caller in callers]
        await stopping
        return answers, rests

    with serving(root) as running:
        answers, rests = running.story(tell, 5)
        assert [answer.status for answer in answers] == [200, 200, 200, 415]
        assert [answer.headers.get("connection") for answer in answers] == ["close"] * 4
        assert rests == [b""] * 4
        assert defects(running) == []


def test_a_server_that_drains_serves_on_and_closes_each_connection_after_its_next_answer(root: Path) -> None:
    async def tell(kept: Caller, other: Caller) -> list[Answer]:
        answers = [await kept.ask(request(PICTURE)), await kept.ask(request(target=b"/readyz", method=b"GET"))]
        running.app.state.drain.begin(60)
        answers += [await kept.ask(request(PICTURE)), await other.ask(LIVEZ)]
        assert await kept.ended() == await other.ended() == b""
        later = await running.connect()  # it still accepts
        answers.append(await later.ask(request(target=b"/readyz", method=b"GET")))
        assert await later.ended() == b""
        await later.close()
        return answers

    with serving(root) as running:
        answers = running.story(tell, 2)
        assert [answer.status for answer in answers] == [200, 200, 200, 200, 503]
        assert [answer.headers.get("connection") for answer in answers] == [None, None, "close", "close", "close"]
        assert answers[-1].json()["draining"] is True


def test_what_is_on_its_way_when_a_server_stops_is_answered(root: Path) -> None:
    """On a connection that nobody has accepted yet, and on one that was idle."""

    async def tell(idle: Caller) -> list[Answer]:
        await idle.ask(request(PICTURE))
        with socket.create_connection(running.address) as knocking:
            knocking.setblocking(False)  # the loop has not turned since: nobody has accepted it
            stopping = asyncio.create_task(running.shut_down())
            knocking.send(request(PICTURE))
            waiting = Caller(*await asyncio.open_connection(sock=knocking))
            await until(lambda: running.server.server_state.connections == set() or len(running.connections) == 2)
            answers = [await idle.ask(request(PICTURE)), await waiting.answer()]
            assert await idle.ended() == await waiting.ended() == b""
            await waiting.close()
        await stopping
        return answers

    with serving(root) as running:
        answers = running.story(tell, 1)
        assert [answer.status for answer in answers] == [200, 200]
        assert [answer.headers.get("connection") for answer in answers] == ["close"] * 2
        assert defects(running) == []


# The sockets that listen.


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def taken() -> socket.socket:
    """A socket on a port that nobody else may have now."""
    return socket.create_server(("127.0.0.1", 0))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_a_host_is_listened_on_at_all_its_addresses_and_one_free_port(host: str) -> None:
    if host == "::1" and not _has_ipv6():
        pytest.skip("this machine has no IPv6")
    listeners = listen(host, 0)
    try:
        found = {info[4][0] for info in socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)}
        assert {listener.getsockname()[0] for listener in listeners} == found
        (port,) = {listener.getsockname()[1] for listener in listeners}
        assert port > 0
        for listener in listeners:
            socket.create_connection(listener.getsockname()[:2]).close()
        assert addresses(listeners) == [f"http://{'[::1]' if host == '::1' else '127.0.0.1'}:{port}"] or len(found) > 1
    finally:
        for listener in listeners:
            listener.close()


def test_a_port_that_is_chosen_is_the_one_listened_on() -> None:
    with taken() as other:
        port = other.getsockname()[1]
    (listener,) = listen("127.0.0.1", port)
    with listener:
        assert listener.getsockname() == ("127.0.0.1", port)


def test_a_port_that_is_taken_is_told_in_a_sentence() -> None:
    with taken() as other:
        port = other.getsockname()[1]
        with pytest.raises(InvalidSettings) as refused:
            listen("127.0.0.1", port)
    assert refused.value.detail == f"host '127.0.0.1', port {port}: Address already in use."


@pytest.mark.parametrize(
    "host",
    ["nowhere.invalid", "", "a" * 64, "..", "300.1.1.1", "[::1]", "192.0.2.1", "2001:db8::1", "a\0b", "\u2603.invalid"],
)
def test_a_host_that_is_no_address_of_this_machine_is_told_in_a_sentence(host: str) -> None:
    with pytest.raises(InvalidSettings) as refused:
        listen(host, 0)
    assert refused.value.detail.startswith(f"host {host!r}, port 0: ")
    assert refused.value.detail.endswith(".")
    assert "None" not in refused.value.detail
