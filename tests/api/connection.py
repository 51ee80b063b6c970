"""The HTTP server in this process, spoken to in bytes over loopback: its parser and its connections are in the way."""

import asyncio
import gc
import logging
import re
import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from app.api.fast_path import Exchange, FastPath
from app.errors import ServiceError
from app.main import create_app
from app.manifest import GRAPH, read_manifest
from app.runtime import Choices, Plan, PlanCache, plan_key, usable_cores
from app.scheduling.batcher import Batcher
from app.server import Server, listen, loop_factory
from app.serving import SERVING, read_serving
from app.settings import Settings
from app.telemetry.logs import TextLines
from tests.api.service import Answer
from tests.make_models import make_classifier, make_denoiser, make_detector, make_generator, make_segmenter

T = TypeVar("T")
Headers = Iterable[tuple[bytes, bytes]]
SECONDS = 20
"""No single call of a test takes longer, or it has failed."""
SERVED = {
    "tiny-threaded": "concurrency = 1\nmax_batch_size = 1\n",  # who shares a batch is chance, and moves the last digit
    "tiny-classifier": "",
    "waiting-classifier": "max_batch_size = 2\nmax_queue_delay_ms = 10000\n",
}


def request(body: bytes = b"", target: bytes = b"/classify", headers: Headers = (), method: bytes = b"POST") -> bytes:
    """A request in bytes; without a `content-length` among its headers it gets the right one."""
    lines = [b"%b %b HTTP/1.1" % (method, target), b"host: imago", *(b"%b: %b" % pair for pair in headers)]
    if method == b"POST" and not any(name.lower() == b"content-length" for name, _ in headers):
        lines.append(b"content-length: %d" % len(body))
    return b"\r\n".join([*lines, b"", body])


def read_head(head: bytes) -> tuple[int, dict[str, str]]:
    """Status and headers of an answer; a header that is there twice is a failure."""
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    assert re.fullmatch(r"HTTP/1\.1 [1-5]\d\d [A-Z][A-Za-z -]*", first), first
    pairs = [line.split(": ", 1) for line in lines]
    headers = {name.lower(): value for name, value in pairs}
    assert len(headers) == len(pairs), head
    return int(first.split(" ")[1]), headers


class Caller:
    """One connection, from the client's end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        """Put bytes on their way, at once while the socket takes them."""
        self.writer.write(data)

    async def ask(self, data: bytes) -> Answer:
        self.send(data)
        return await self.answer()

    async def answer(self) -> Answer:
        """The next answer; interim ones (RFC 9110, section 15.2) are passed over."""
        status = 100
        while status < 200:
            status, headers = read_head(await self.reader.readuntil(b"\r\n\r\n"))
        return Answer(status, headers, await self.reader.readexactly(int(headers["content-length"])))

    async def ended(self) -> bytes:
        """What else the server sent before it closed the connection."""
        return await self.reader.read()

    async def close(self) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()

    async def reset(self) -> None:
        """Leave without the courtesies of TCP, as a client does that is killed."""
        self.writer.transport.abort()
        await self.close()


class Watched(FastPath):
    """The fast path, and which of the requests offered to it took it."""

    def __init__(self, inner: FastPath) -> None:
        self._inner = inner
        self.took: list[bool] = []

    def refusal(self, error: ServiceError) -> tuple[bytes, bytes]:
        return self._inner.refusal(error)

    def offer(self, url: bytes, headers: Headers) -> Exchange | None:
        exchange = self._inner.offer(url, headers)
        self.took.append(exchange is not None)
        return exchange


class Lines(logging.Handler):
    """Log lines as an operator would see them, formatted where they are written."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(TextLines())
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@dataclass
class Observed:
    """What one request came to, from outside."""

    answer: Answer
    counted: dict[str, float]
    lines: list[str]
    short: bool = field(compare=False)


class Served:
    """One application behind its server, and the event loop of both, which runs while a call is made."""

    def __init__(self, settings: Settings, buffer: int | None) -> None:
        self._runner = asyncio.Runner(loop_factory=loop_factory())
        self.app = create_app(settings)
        self.fast = self.app.state.fast_path = Watched(self.app.state.fast_path)
        self.server = Server(self.app, settings)
        self.listeners = list(listen("127.0.0.1", 0))
        self._buffer = buffer
        if buffer is not None:
            self.listeners[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        self.address = self.listeners[0].getsockname()[:2]
        self.log = Lines()
        logging.getLogger("imago").addHandler(self.log)
        self._level = logging.getLogger("imago").level
        logging.getLogger("imago").setLevel(logging.INFO)
        self._thresholds = gc.get_threshold()
        self.run(self._start())

    async def _start(self) -> None:
        """What uvicorn's `serve` does, without taking the signals and without a timer for the date."""
        self.server.config.load()
        self.server.lifespan = self.server.config.lifespan_class(self.server.config)
        await self.server.startup(sockets=self.listeners)
        await self.server.on_tick(0)
        await self.app.state.registry.settled.wait()

    async def shut_down(self) -> None:
        await self.server.shutdown(sockets=self.listeners)
        self.server.started = False

    def close(self) -> None:
        if self.server.started:
            self.run(self.shut_down())
        self._runner.close()
        logging.getLogger("imago").removeHandler(self.log)
        logging.getLogger("imago").setLevel(self._level)
        gc.unfreeze()
        gc.set_threshold(*self._thresholds)

    def run(self, work: Awaitable[T]) -> T:
        async def awaited() -> T:
            return await asyncio.wait_for(work, SECONDS)

        return self._runner.run(awaited())

    def story(self, tell: Callable[..., Awaitable[T]], callers: int = 1) -> T:
        """Run a test with so many connections; all are closed when it ends, here and there."""

        async def told() -> T:
            async with AsyncExitStack() as leaving:
                made = [await self.connect() for _ in range(callers)]
                for caller in made:
                    leaving.push_async_callback(caller.close)
                result = await tell(*made)
            await until(lambda: not self.server.server_state.connections)
            return result

        self.fast.took.clear()
        self.log.lines.clear()
        return self.run(told())

    async def connect(self) -> Caller:
        client = socket.socket()
        if self._buffer is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._buffer)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, self.address)
        return Caller(*await asyncio.open_connection(sock=client))

    def ask(self, data: bytes) -> Answer:
        """One request on a connection of its own."""
        return self.story(lambda caller: caller.ask(data))

    def observe(self, data: bytes) -> Observed:
        """One request, with what it changed in the metrics and wrote into the log."""
        before = self.counts()
        answer = self.ask(data)
        lines, took = self.log.lines.copy(), self.fast.took.copy()
        after = self.counts()
        counted = {series: after[series] - before.get(series, 0) for series in after}
        return Observed(answer, {series: count for series, count in counted.items() if count}, lines, any(took))

    def counts(self) -> dict[str, float]:
        """How often everything has happened so far: counters, and counts of histograms, by series."""
        lines = self.ask(request(target=b"/metrics", method=b"GET")).body.decode().splitlines()
        pairs = [line.rsplit(" ", 1) for line in lines if re.match(r"imago_\w+_(total|count)\b", line)]
        return {series: float(value) for series, value in pairs}

    def jobs(self, name: str) -> Batcher:
        """The queue of a model."""
        found = self.app.state.registry.get("classify", name, None).jobs
        assert isinstance(found, Batcher)
        return found

    @property
    def connections(self) -> list[Any]:
        """The server's ends."""
        return list(self.server.server_state.connections)


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until something is so; the call that this is part of has its limit."""
    while not condition():  # noqa: ASYNC110 - what is waited for tells nobody
        await asyncio.sleep(0)


def make_models(root: Path) -> Path:
    """A folder of models: `tiny` ones that answer at once, on the loop's thread and on others, an `unexplained` one
    without heat maps, and a `waiting` one whose batches run when they have two rows. None is timed at its start, so
    that nothing depends on how busy the machine is."""
    make_segmenter(root)
    make_detector(root)
    make_generator(root)
    make_denoiser(root)
    make_classifier(root, "unexplained-classifier", without=("cam",))
    for name, serving in SERVED.items():
        make_classifier(root, name)
        (root / name / SERVING).write_text(serving, encoding="utf-8")
    plans = PlanCache(root.parent / "plans")
    for folder in root.glob("*/1"):
        chosen = read_serving(folder.parent)
        sizes = {size: 1e-4 + 1e-5 * size for size in (1, 2, 4, 8, 16) if size <= (chosen.max_batch_size or 16)}
        choices = Choices(1, chosen.concurrency or 0, chosen.max_batch_size)
        key = plan_key(read_manifest(folder).files[GRAPH].sha256, "cpu", usable_cores(), choices)
        plans.put(key, Plan(1, 1, chosen.concurrency or 1, max(sizes), sizes[1], sizes))
    return root


@contextmanager
def serving(root: Path, buffer: int | None = None, **settings: Any) -> Iterator[Served]:
    """A server of the models in a folder that `make_models` made; with `buffer` the kernel keeps about so many bytes of
    answers on their way."""
    chosen = Settings(models=root, device="cpu", threads=1, cache=root.parent / "plans", **settings)
    served = Served(chosen, buffer)
    try:
        yield served
    finally:
        served.close()
