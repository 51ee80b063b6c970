"""`Link` carries whole messages in order, however the kernel cuts them."""

import asyncio
import logging
import socket

import orjson
import pytest

from app.processes.link import Link, Message
from tests.processes.scenario import pair, run, until


class Heard(list[Message]):
    """The messages of one end, and whether it was closed."""

    closed = False

    def close(self) -> None:
        assert not self.closed
        self.closed = True


async def opened(end: socket.socket) -> tuple[Link, Heard]:
    heard = Heard()
    link = Link(heard.append, heard.close)
    await link.open(end)
    return link, heard


def framed(message: Message) -> bytes:
    body = orjson.dumps(message)
    return len(body).to_bytes(4, "little") + body


MESSAGES: list[Message] = [{"id": 1}, {}, {"places": [["x", "|u1", [1, 2], 64]], "text": "ü" * 300}, {"id": 2}]


def test_messages_come_in_the_order_in_which_they_were_sent_both_ways() -> None:
    async def scenario() -> None:
        one, other = pair()
        (here, back), (there, forth) = await opened(one), await opened(other)
        for message in MESSAGES:
            here.send(message)
        there.send({"answer": 1})
        await until(lambda: len(forth) == len(MESSAGES) and len(back) == 1)
        assert (forth, back) == (MESSAGES, [{"answer": 1}])
        here.close()
        there.close()
        await until(lambda: back.closed and forth.closed)

    run(scenario)


@pytest.mark.parametrize("size", [1, 3, 5, 10_000])
def test_messages_are_put_together_from_pieces_of_any_size(size: int) -> None:
    async def scenario() -> None:
        one, other = pair()
        link, heard = await opened(other)
        data = b"".join(framed(message) for message in MESSAGES)
        with one:
            for start in range(0, len(data), size):
                one.send(data[start : start + size])
                await asyncio.sleep(0)
            await until(lambda: len(heard) == len(MESSAGES))
        assert heard == MESSAGES
        await until(lambda: heard.closed)
        link.close()

    run(scenario)


def test_a_message_of_megabytes_arrives_whole_between_small_ones() -> None:
    async def scenario() -> None:
        one, other = pair()
        (here, _), (there, heard) = await opened(one), await opened(other)
        large = {"text": "x" * 5_000_000}
        for message in ({"id": 1}, large, {"id": 2}):
            here.send(message)
        await until(lambda: len(heard) == 3)
        assert heard == [{"id": 1}, large, {"id": 2}]
        here.close()
        there.close()

    run(scenario)


def test_what_is_sent_before_the_link_is_open_goes_out_when_it_is() -> None:
    async def scenario() -> None:
        one, other = pair()
        here = Link(lambda message: None, lambda: None)
        here.send({"id": 1})
        await asyncio.sleep(0)
        there, heard = await opened(other)
        await here.open(one)
        here.send({"id": 2})
        await until(lambda: len(heard) == 2)
        assert heard == [{"id": 1}, {"id": 2}]
        here.close()
        there.close()

    run(scenario)


def test_closing_sends_what_waits_and_tells_both_ends_once() -> None:
    async def scenario() -> None:
        one, other = pair()
        (here, back), (_, forth) = await opened(one), await opened(other)
        here.send({"last": True})
        here.close()
        here.send({"after": True})
        await until(lambda: back.closed and forth.closed)
        assert forth == [{"last": True}]

    run(scenario)


def test_a_link_closed_before_it_was_open_closes_its_end() -> None:
    async def scenario() -> None:
        one, other = pair()
        heard = Heard()
        link = Link(heard.append, heard.close)
        link.close()
        await link.open(one)
        await until(lambda: heard.closed)
        with other:
            assert other.recv(1) == b""

    run(scenario)


def test_a_message_that_cannot_be_handled_is_logged_and_the_next_one_is(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        one, other = pair()
        numbers: list[int] = []
        link = Link(lambda message: numbers.append(message["number"]), lambda: None)
        await link.open(other)
        with one:
            one.send(framed({"other": 1}) + b"\x02\0\0\0{]" + framed({"number": 2}))
            await until(lambda: bool(numbers))
        assert numbers == [2]
        link.close()

    with caplog.at_level(logging.ERROR, "imago.processes"):
        run(scenario)
    assert [record.message for record in caplog.records] == [
        "a message of 11 bytes could not be handled",
        "a message of 2 bytes could not be handled",
    ]
