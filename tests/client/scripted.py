"""A server that gives the answers that it was told to, in order, and keeps what it was asked."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Said:
    """One answer; without a status the connection is closed instead, with `stall` nothing comes until the end."""

    status: int = 0
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    stall: bool = False


def said(status: int, document: Any, **headers: str) -> Said:
    return Said(status, json.dumps(document).encode(), {name.replace("_", "-"): text for name, text in headers.items()})


def result(**parts: Any) -> Said:
    return said(200, {"model": "tiny", "version": 1, "results": [parts]}, x_request_id="abc")


def problem(status: int, code: str, **headers: str) -> Said:
    document = {"code": code, "detail": f"It is {code}.", "status": status, "instance": "urn:imago:request:abc"}
    return said(status, document, x_request_id="abc", **headers)


class Scripted(ThreadingHTTPServer):
    """Answers from a list; the last answer is given again and again."""

    daemon_threads = True

    def __init__(self, answers: list[Said]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers = answers
        self.asked: list[tuple[str, Mapping[str, str], bytes]] = []
        self.over = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that left."""

    def next(self, path: str, headers: Mapping[str, str], body: bytes) -> Said:
        self.asked.append((path, headers, body))
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Scripted

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        answer = self.server.next(self.path, {name.lower(): text for name, text in self.headers.items()}, body)
        if answer.stall:
            self.server.over.wait(30)
        if not answer.status or answer.stall:
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, text in {**answer.headers, "content-length": str(len(answer.body))}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def scripted(*answers: Said) -> Iterator[Scripted]:
    """A server with these answers."""
    server = Scripted(list(answers))
    serving = threading.Thread(target=server.serve_forever, args=(0.01,))
    serving.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        serving.join()
        server.server_close()
