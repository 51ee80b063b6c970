"""The real application in this process: started, asked and stopped by plain function calls."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
from fastapi import FastAPI

from app.main import create_app
from app.settings import Settings

T = TypeVar("T")
Headers = Collection[tuple[bytes, bytes]]


@dataclass
class Answer:
    """What came back through ASGI, for requests that no HTTP client would send."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Service:
    """One application, its event loop (which runs while a call is made) and a client of it."""

    def __init__(self, settings: Settings, settled: bool = True) -> None:
        self._runner = asyncio.Runner()
        self.app: FastAPI = create_app(settings)
        self.registry = self.app.state.registry
        self._lifespan = self.app.router.lifespan_context(self.app)
        self.run(self._lifespan.__aenter__())
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self._client = httpx.AsyncClient(transport=transport, base_url="http://imago")
        if settled:
            self.settle()

    def settle(self) -> None:
        """Wait until the models are loaded."""
        self.run(self.registry.settled.wait())

    def close(self) -> None:
        self.run(self._lifespan.__aexit__(None, None, None))
        self.run(self._client.aclose())
        self._runner.close()

    def run(self, work: Awaitable[T]) -> T:
        async def awaited() -> T:
            return await asyncio.wait_for(work, 20)

        return self._runner.run(awaited())

    def get(self, path: str, **rest: Any) -> httpx.Response:
        return self.ask("GET", path, **rest)

    def post(self, path: str, content: Any = None, accept: str | None = None, **rest: Any) -> httpx.Response:
        """Post, without the headers that a client adds on its own."""
        headers = dict(rest.pop("headers", {})) | ({"accept": accept} if accept is not None else {})
        return self.ask("POST", path, content=content, headers=headers, **rest)

    def ask(self, method: str, path: str, **rest: Any) -> httpx.Response:
        return self.run(self._client.request(method, path, **rest))

    def exchange(self, method: str, path: str, query: bytes = b"", headers: Headers = (), body: bytes = b"") -> Answer:
        """Ask with exactly this path (after decoding) and these bytes."""
        return self.run(exchange(self.app, method, path, query, headers, [body]))

    def metric(self, name: str) -> dict[str, float]:
        """The series of one metric, by their labels as they are written."""
        lines = self.get("/metrics").text.splitlines()
        pairs = [line.rsplit(" ", 1) for line in lines if line.split("{")[0].split(" ")[0] == name]
        return {series.removeprefix(name): float(value) for series, value in pairs}


async def exchange(
    app: FastAPI, method: str, path: str, query: bytes = b"", headers: Headers = (), chunks: Iterable[bytes] = (b"",),
    leave: bool = False, cut: bool = False,
) -> Answer:  # fmt: skip
    """One request through plain ASGI; with `leave` the caller closes the connection once the body was read, with `cut`
    before its end. The status is 0 where nothing was answered."""
    waiting = list(chunks)
    answered = asyncio.Event()
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(0), "more_body": cut or bool(waiting)}
        if not (leave or cut):
            await answered.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            answered.set()

    own = [] if any(name == b"host" for name, _ in headers) else [(b"host", b"imago")]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": path, "raw_path": path.encode("utf-8", "surrogateescape"), "root_path": "", "query_string": query,
        "headers": [*own, *headers], "client": ("127.0.0.1", 5), "server": ("imago", 80),
    }  # fmt: skip
    await app(scope, receive, send)
    if not sent:
        return Answer(0, {}, b"")
    start = next(message for message in sent if message["type"] == "http.response.start")
    body = b"".join(message.get("body", b"") for message in sent)
    return Answer(start["status"], {name.decode(): value.decode() for name, value in start["headers"]}, body)


async def in_chunks(body: bytes, size: int) -> AsyncIterator[bytes]:
    """A body that announces no length."""
    for start in range(0, len(body), size):
        yield body[start : start + size]
