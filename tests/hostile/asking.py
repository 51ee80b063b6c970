"""Speaks to a server in bytes, and looks at its processes: what hostile requests are told, and what is left of them."""

import json
import re
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.server import Server
from tests.api.connection import read_head, request
from tests.hostile.odd import red
from tests.imaging.pictures import save
from tests.service.processes import alive

GOOD = save(red())
CLOSED = "closed"
"""Said of a connection on which nothing came back: the caller ended it before its request was whole."""
LEAKS = re.compile(
    rb"Traceback|site-packages|\.py\b|/tmp/|/home/|/root/|/dev/shm|onnxruntime|PIL\.|0x[0-9a-f]{8}|SECRET"
)
"""What no answer may show: the places, the libraries and the memory of whoever answers."""
MEBIBYTE = 2**20


class Reply(NamedTuple):
    """The first answer on a connection, and what came after it."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    rest: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def told(self) -> str:
        """The status; of an error with its code, of a classified picture with its best label."""
        if self.body and self.status >= 400:
            return f"{self.status} {self.json()['code']}"
        labelled = b'"labels"' in self.body
        return f"{self.status} {self.json()['results'][0]['labels'][0]['label']}" if labelled else str(self.status)


def ask(url: str, data: bytes, hang_up: bool = False) -> Reply | None:
    """Send bytes on a connection of their own, and read what comes back; None for nothing. With `hang_up` nothing more
    is sent, as the server sees at once."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as caller:
        with suppress(ConnectionError):  # refused before its end: the answer is there
            caller.sendall(data)
            if hang_up:
                caller.shutdown(socket.SHUT_WR)
        return _reply(caller, head_only=data.startswith(b"HEAD "))


def _reply(caller: socket.socket, head_only: bool) -> Reply | None:
    received = b""
    while b"\r\n\r\n" not in received:
        if not (more := caller.recv(65_536)):
            assert not received, received
            return None
        received += more
    head, _, rest = received.partition(b"\r\n\r\n")
    status, headers = read_head(head + b"\r\n\r\n")
    length = 0 if head_only else int(headers["content-length"])
    while len(rest) < length or headers.get("connection") == "close":
        if not (more := caller.recv(65_536)):
            break
        rest += more
    return Reply(status, headers, rest[:length], rest[length:])


def check_form(reply: Reply) -> None:
    """Whatever it says, it says it as every answer does, and tells nothing about whoever answers."""
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", reply.headers["x-request-id"])
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert not reply.rest, "a second answer came"
    assert not LEAKS.search(reply.body), reply.body
    if reply.status < 400 or not reply.body:
        return
    found = reply.json()
    assert reply.headers["content-type"] == ("application/json" if "error" in found else "application/problem+json")
    assert found["status"] == reply.status
    assert found["instance"].endswith(reply.headers["x-request-id"])
    assert len(reply.body) < 1500
    if reply.status in {429, 503}:
        assert int(reply.headers["retry-after"]) > 0


class Watched:
    """A server whose processes are looked at, and which answers a good request as it did at first."""

    def __init__(self, server: Server, *good: bytes) -> None:
        self.url = server.url
        self._process = server.process.pid
        self.pids = self._all()
        self._good = good
        self._reference = [self._answer(one) for one in good]

    def _all(self) -> list[int]:
        """The process and its children, which are workers and engine."""
        path = Path(f"/proc/{self._process}/task/{self._process}/children")
        return [self._process, *sorted(int(pid) for pid in path.read_text().split())]

    def _answer(self, data: bytes) -> bytes:
        reply = ask(self.url, data)
        assert reply is not None
        assert reply.status == 200, reply
        return reply.body

    def check_unharmed(self) -> None:
        """The same processes run, and a good request has the answer that it had at first."""
        assert self._all() == self.pids
        assert all(map(alive, self.pids))
        assert [self._answer(one) for one in self._good] == self._reference

    def memory(self) -> int:
        """Bytes resident in all processes."""
        return sum(self._read("VmRSS"))

    def watch_memory(self) -> None:
        """Begin to count the most that is resident, from what is resident now (proc(5), `clear_refs`)."""
        for pid in self.pids:
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def peak(self) -> int:
        """Most bytes that were resident since `watch_memory`, each process by itself."""
        return sum(self._read("VmHWM"))

    def _read(self, name: str) -> list[int]:
        texts = [Path(f"/proc/{pid}/status").read_text() for pid in self.pids]
        return [1024 * int(match[1]) for text in texts if (match := re.search(rf"{name}:\s+(\d+) kB", text))]


def check(watched: Watched, data: bytes, expected: str) -> Reply | None:
    """Send a request, and look at its answer: one of the `expected`, which are separated by bars."""
    reply = ask(watched.url, data, hang_up=expected == CLOSED)
    told = CLOSED if reply is None else reply.told
    assert told in expected.split(" | "), reply
    if reply is not None:
        check_form(reply)
    return reply


def good_request(target: bytes = b"/classify") -> bytes:
    """A request whose answer is known."""
    return request(GOOD, target)
