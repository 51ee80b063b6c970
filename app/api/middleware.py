"""What every HTTP answer gets, whatever its route: an id, a clock, a limit on the body, a log line, its metrics.

Plain ASGI, because Starlette's own base class puts a queue and two tasks between a request and its answer.
"""

import logging
import random
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import problem_response, refusal, status_of
from app.errors import BodyTooLarge, CallerLeft, InternalError, ServiceError, UnsupportedEncoding
from app.security.keys import Caller
from app.servable import Prediction, Timings
from app.serving import Sticky
from app.telemetry.logs import ACCESS, ACCESS_BY_KEY, request_id
from app.telemetry.metrics import Metrics

logger = logging.getLogger("imago.api")

_SAFE_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_TRACEPARENT = re.compile(rb"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})")
_READ = frozenset(
    (b"content-length", b"content-type", b"content-encoding", b"accept", b"x-request-id", b"x-request-timeout-ms",
     b"traceparent", b"authorization", b"x-api-key", b"accept-encoding", b"inference-header-content-length")
)  # fmt: skip
"""The request headers that imago reads: looked for once, in one pass."""
_LISTS = frozenset((b"accept", b"accept-encoding"))
"""Those of them that may come in several lines, which mean as much as one (RFC 9110, section 5.3)."""

Headers = Mapping[bytes, bytes]


@dataclass(slots=True)
class Record:
    """What is known of one request by its end; routes fill in task, model and stages."""

    id: str
    headers: Headers
    task: str = ""
    model: str = ""
    version: int | None = None
    status: int = 0
    timings: Timings | None = None
    route: str = ""
    """Path of the route that it leads to, as the router knows it; noted where it was looked for before routing."""
    caller: Caller | None = None
    """Whose key came with it."""
    models: frozenset[str] | None = None
    """The only models that it may see; None for all."""
    charged: bool = False
    """Whether it counts among the requests under way of its key."""
    pixels: int = 0
    """Pixels decoded for it."""

    @classmethod
    def of(cls, headers: Headers) -> "Record":
        """The record of a new request: with the caller's id where that is harmless in logs and headers."""
        given = headers.get(b"x-request-id", b"")
        return cls(given.decode("ascii") if _SAFE_ID.fullmatch(given) else f"{random.getrandbits(64):016x}", headers)

    def identity(self, by: Sticky) -> str | None:
        """As `app.repository.routes.Asker`: the request's id, or that of its key."""
        return self.id if by == "request" else self.caller.key if self.caller is not None else None

    def sees(self, model: str) -> bool:
        """Whether this model exists for whoever asks."""
        return self.models is None or model in self.models

    def note(self, prediction: Prediction) -> None:
        """Note what a prediction took; of several side by side the longest times count, and the pixels of all."""
        self.timings = prediction.timings.longest(self.timings)
        if self.charged and prediction.picture is not None:
            self.pixels += prediction.picture.pixels

    def server_timing(self, total: float) -> bytes:
        """`Server-Timing` (W3C): milliseconds of each stage."""
        if self.timings is None:
            return b"total;dur=%.2f" % (total * 1e3)
        decode, queue, inference, encode = self.timings
        return b"decode;dur=%.2f, queue;dur=%.2f, inference;dur=%.2f, encode;dur=%.2f, total;dur=%.2f" % (
            decode * 1e3, queue * 1e3, inference * 1e3, encode * 1e3, total * 1e3
        )  # fmt: skip


def headers_read(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The headers that imago reads, by lower-case name; of one sent twice the first counts, unless it is a list."""
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _READ:
            if (first := found.get(name)) is None:
                found[name] = value
            elif name in _LISTS:
                found[name] = b"%s, %s" % (first, value)
    return found


def record_of(scope: Scope) -> Record:
    """The record of the request that is being answered."""
    record: Record = scope["imago.record"]
    return record


async def answer_refusal(request: Request, error: Exception) -> Response:
    """Handler of whatever a route of the framework raises."""
    return problem_response(refusal(request, error), record_of(request.scope).id, request.scope["path"])


class Direct(Protocol):
    """An application that answers POSTs past the framework."""

    encodings: Collection[bytes]
    """What a body may be encoded as (`Content-Encoding`), besides not at all."""
    max_body_bytes: int | None
    """Longest body; None for what goes for all."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one POST; raises `ServiceError`."""


class Access(Protocol):
    """Who decides over who gets in: `app.api.access` where there are keys."""

    def enter(self, record: Record, scope: Scope) -> None:
        """Let a request in, or raise the `ServiceError` that says why not."""

    def check(self, record: Record, needed: str | None, name: str | None, address: str) -> None:
        """Let a call in that came another way than by HTTP, or raise the `ServiceError` that says why not."""

    def knows(self, record: Record) -> bool:
        """Whether a request to a task comes with a good key, which is noted; `charge` has to follow."""

    def charge(self, record: Record) -> None:
        """Charge a request to its key, or raise the `ServiceError` that says why not."""

    def leave(self, record: Record) -> None:
        """A request that was charged has ended."""


class Edge:
    """The outermost application: everything above, around the routes.

    A POST to a path that `direct` knows goes straight to its application; everything else takes the way through the
    framework, whose routing costs as much as the rest of this class.
    """

    def __init__(
        self,
        app: ASGIApp,
        direct: Callable[[str], Direct | None],
        max_body_bytes: int,
        metrics: Metrics,
        access: Access | None = None,
        audit: Callable[[Record, Scope], None] = lambda record, scope: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._app = app
        self._direct = direct
        self.max_body_bytes = max_body_bytes
        self._metrics = metrics
        self.access = access
        self._audit = audit
        self.clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection's message, as ASGI 3 defines."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = self.clock()
        record = scope["imago.record"] = Record.of(headers_read(scope["headers"]))
        token = request_id.set(record.id)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                message["headers"] = [*message["headers"], *headers_for(record, self.clock() - begun)]
                if scope["method"] != "POST":
                    _forbid_storing(message["headers"])
            await send(message)

        try:
            await self._answer(scope, receive, send_with_headers, record)
        finally:
            self.finish(record, self.clock() - begun, scope["method"], scope["path"])
            self._audit(record, scope)
            request_id.reset(token)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, record: Record) -> None:
        try:
            if scope["method"] == "HEAD":  # as GET (RFC 9110, section 9.3.2): the server leaves the body out
                scope = {**scope, "method": "GET"}
            if self.access is not None:
                self.access.enter(record, scope)
            direct = self._direct(scope["path"]) if scope["method"] == "POST" else None
            most = (direct.max_body_bytes if direct else None) or self.max_body_bytes
            self._check(record.headers, direct.encodings if direct else (), most)
            await (direct or self._app)(scope, self._limited(receive, most), send)
        except ServiceError as error:
            await self._fail(error, record, scope, receive, send)
        except Exception:  # a fault of ours: its text belongs into the log and never into the answer
            logger.exception("unexpected failure on %s", scope["path"])
            await self._fail(InternalError(), record, scope, receive, send)

    async def _fail(self, error: ServiceError, record: Record, scope: Scope, receive: Receive, send: Send) -> None:
        if isinstance(error, CallerLeft):
            record.status = status_of(error)
        elif not record.status:
            await problem_response(error, record.id, scope["path"])(scope, receive, send)

    def _check(self, headers: Headers, encodings: Collection[bytes], most: int) -> None:
        """Refuse from the headers alone what would be refused after reading the body."""
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length[:20]) > most:
            raise BodyTooLarge(most)
        encoding = headers.get(b"content-encoding", b"identity").lower()
        if encoding != b"identity" and encoding not in encodings:
            raise UnsupportedEncoding(encoding.decode("latin-1"))

    def _limited(self, receive: Receive, most: int) -> Receive:
        """Count the body as it comes: a chunked one announces no length."""
        received = 0

        async def receive_counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > most:
                raise BodyTooLarge(most)
            return message

        return receive_counted

    def finish(self, record: Record, seconds: float, method: str, path: str) -> None:
        """Count and log a request that was answered."""
        if record.charged and self.access is not None:
            self.access.leave(record)
        if record.task:
            self._metrics.requests.labels(record.task, record.model, str(record.status)).inc()
            self._metrics.request_seconds.labels(record.task, record.model).observe(seconds)
            if record.version is not None:
                counts = self._metrics.statistics.requests(record.model, record.version)
                if record.timings is None:
                    counts.failed(seconds)
                else:
                    counts.succeeded(seconds, *record.timings)
        # Probes and scrapes come every few seconds and say nothing; whoever debugs them asks for their lines.
        level = logging.INFO if record.task or record.status >= 500 else logging.DEBUG
        if logger.isEnabledFor(level):
            told = method, path, record.status, seconds * 1000
            if record.caller is None:
                logger.log(level, ACCESS, *told)
            else:
                logger.log(level, ACCESS_BY_KEY, *told, record.caller.key)


def _forbid_storing(headers: list[tuple[bytes, bytes]]) -> None:
    """Keep what one caller may see out of caches, where a route does not say otherwise. What answers a POST is stored
    only where it says so (RFC 9111, section 3)."""
    if not any(name == b"cache-control" for name, _ in headers):
        headers.append((b"cache-control", b"no-store"))


def headers_for(record: Record, seconds: float) -> list[tuple[bytes, bytes]]:
    """What every answer carries besides its route's own headers."""
    headers = [
        (b"x-request-id", record.id.encode()),
        (b"traceparent", _traceparent(record.headers.get(b"traceparent", b""))),
        (b"server-timing", record.server_timing(seconds)),
        (b"x-content-type-options", b"nosniff"),
    ]
    if record.version is not None:
        headers.append((b"x-model-version", b"%d" % record.version))
    return headers


def _traceparent(given: bytes) -> bytes:
    """The caller's trace (W3C Trace Context, section 3.2) with a span of our own, or a new unsampled one."""
    span = b"%016x" % (random.getrandbits(64) or 1)
    if (match := _TRACEPARENT.fullmatch(given)) is None:
        return b"00-%032x-%b-00" % (random.getrandbits(128) or 1, span)
    return b"00-%b-%b-%b" % (match[1], span, match[2])
