"""Open-loop load: when requests are due, and from when their latency counts."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from benchmarks.arrivals import Sent, schedule, send
from benchmarks.forms import Request
from benchmarks.open_loop import outcome, with_timeout

REQUEST = Request("/", {"Content-Type": "text/plain"}, b"hello")


class Answering(asyncio.Protocol):
    """Answers each request with the next of some status codes, in two pieces; 0 closes the connection instead."""

    def __init__(self, codes: Iterator[int]) -> None:
        self._codes = codes

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        code = next(self._codes)
        if code == 0:
            self._transport.close()
            return
        again = "Retry-After: 1\r\n" if code == 429 else ""
        self._transport.write(f"HTTP/1.1 {code} X\r\n{again}Content-Length: 4\r\n\r\nda".encode())
        asyncio.get_running_loop().call_soon(self._transport.write, b"ta")


@contextmanager
def server(*codes: int) -> Iterator[int]:
    """The port of a server that gives these answers."""
    left, found, ready, stop = iter(codes), [], threading.Event(), threading.Event()

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        listening = await loop.create_server(lambda: Answering(left), "127.0.0.1", 0)
        found.append(listening.sockets[0].getsockname()[1])
        ready.set()
        await loop.run_in_executor(None, stop.wait)
        listening.close()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    ready.wait()
    yield found[0]
    stop.set()
    thread.join()


def test_constant_arrivals_are_evenly_spaced() -> None:
    assert schedule(4, 1.5, "constant").tolist() == [0, 0.25, 0.5, 0.75, 1, 1.25]


def test_poisson_arrivals_have_the_rate_asked_for_and_gaps_as_spread_as_their_mean() -> None:
    due = schedule(1000, 50, "poisson", seed=1)
    gaps = np.diff(due)
    assert due[0] == 0
    assert (gaps >= 0).all()
    assert gaps.mean() == pytest.approx(1e-3, rel=0.001)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.03)  # the exponential distribution's mark


def test_a_seed_repeats_its_arrivals() -> None:
    assert schedule(100, 1, "poisson", 7).tolist() == schedule(100, 1, "poisson", 7).tolist()
    assert schedule(100, 1, "poisson", 7).tolist() != schedule(100, 1, "poisson", 8).tolist()


def test_every_answer_is_read_to_its_end_and_keeps_its_status() -> None:
    with server(200, 429, 200) as port:
        sent = send(port, REQUEST, np.array([0.0, 0.01, 0.02]), connections=1)
    assert sent.status.tolist() == [200, 429, 200]
    assert sent.retry_after.tolist() == [False, True, False]
    assert np.isfinite(sent.latency).all()


def test_latency_counts_from_when_a_request_was_due_though_no_connection_was_free() -> None:
    with server(*[200] * 20) as port:
        sent = send(port, REQUEST, np.zeros(20), connections=1)
    ends = sent.due + sent.latency
    assert (np.diff(ends) > 0).all()  # one after the other on the only connection
    assert (np.diff(sent.latency) > 0).all()  # and each as late as it was for its caller
    assert (sent.late <= sent.latency).all()


def test_a_connection_that_is_cut_leaves_its_request_without_an_answer() -> None:
    with server(0) as port:
        sent = send(port, REQUEST, np.array([0.0]), connections=1)
    assert sent.status.tolist() == [0]
    assert np.isinf(sent.latency).all()


def test_percentiles_are_those_of_the_requests_that_were_answered() -> None:
    latency = np.array([0.010, 0.020, 0.030, 9.0, np.inf])
    found = outcome(Sent(np.zeros(5), np.zeros(5), latency, np.array([200, 200, 200, 429, 0]), np.zeros(5, bool), 0.1))
    assert (found.answered, found.refused, found.failed) == (3, 1, 1)
    assert found.p50_ms == pytest.approx(20)
    assert found.p99_ms == pytest.approx(29.8)


def test_where_nothing_was_answered_there_are_no_percentiles() -> None:
    found = outcome(Sent(np.zeros(1), np.zeros(1), np.array([1.0]), np.array([503]), np.zeros(1, bool), 0.1))
    assert (found.p50_ms, found.p99_ms, found.refused_share) == (None, None, 1.0)


def test_a_caller_says_how_long_it_waits() -> None:
    assert with_timeout(REQUEST, 250).headers["X-Request-Timeout-Ms"] == "250"
