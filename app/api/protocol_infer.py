"""Inference over HTTP as the Open Inference Protocol v2 has it. Takes care of headers and bodies, and hands tensors to
a servable."""

import asyncio
import re
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from starlette.types import Receive, Scope, Send

from app.api.calls import timeout_seconds
from app.api.compression import ENCODINGS, accepted_encoding, compress, decompress
from app.api.middleware import Headers, Record, record_of
from app.api.protocol_messages import InferAnswer, read_request, write_answer
from app.api.protocol_requests import InferRequest, Signature
from app.api.task_routes import Limits, unless_caller_leaves
from app.api.uploads import read_body
from app.errors import InvalidRequest, ModelNotFound, NotReady, RouteNotFound
from app.repository.registry import Registry
from app.servable import Servable, Timings
from app.serving import ALIAS
from app.tasks import Prepared
from app.tensors import Tensors

Answer = TypeVar("Answer")

UNKNOWN_TASK: Final = "tensors"
"""The task of requests whose model is not known (yet), for logs and metrics."""
VERSION: Final = re.compile(r"[1-9][0-9]{0,8}")
_PATH: Final = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer")
LONG: Final = 2**16
"""Longer JSON is read in a thread: numbers take some 20 ms a megabyte."""
_WORTH_COMPRESSING: Final = 1024
_COPIED: Final = 16
"""Copying as many numbers takes as long as writing one as text."""


class InferEndpoint:
    """The ASGI application of `POST /v2/models/{name}/infer`, with a version or without."""

    encodings: Collection[bytes] = frozenset(ENCODINGS)
    max_body_bytes: int | None = None

    def __init__(self, registry: Registry, limits: Limits, max_body_bytes: int) -> None:
        self._registry = registry
        self._limits = limits
        self._max_body_bytes = max_body_bytes

    def at(self, path: str) -> "InferEndpoint | None":
        """This, for paths that may be its own."""
        return self if path.startswith("/v2/models/") and path.endswith("/infer") else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one POST.

        Raises:
            ServiceError: the request, the queue or the model refuse.
        """
        record = record_of(scope)
        headers = record.headers
        begun = time.monotonic()
        servable = self._find(scope["path"], record)
        latest = begun + timeout_seconds(headers.get(b"x-request-timeout-ms"), self._limits.timeout_seconds)
        json_bytes = _header_length(headers.get(b"inference-header-content-length"))
        body = await self._body(receive, headers)
        if servable.retired:  # another version took over while the body came
            servable = self._find(scope["path"], record)
        servable.admit(latest)
        signature = Signature.of(servable, self._limits.max_pictures)
        version = servable.manifest.version
        call = Call(
            read=lambda: read_request(body, json_bytes, signature),
            is_long=(len(body) if json_bytes is None else json_bytes) > LONG,
            write=lambda request, outputs: write_answer(request, version, outputs, signature),
            begun=begun,
            latest=latest,
        )
        answering = answered(servable, call, record)
        # While a small model runs nothing else does: nobody could be heard leaving.
        answer = await (answering if servable.inline else unless_caller_leaves(receive, answering))
        await _send(send, servable, answer, accepted_encoding(headers.get(b"accept-encoding", b"")))

    def _find(self, path: str, record: Record) -> Servable:
        """Who answers at a path, noted in the record."""
        record.task = UNKNOWN_TASK
        if (match := _PATH.fullmatch(path)) is None:
            raise RouteNotFound
        name, version = match.groups()
        return find_model(self._registry, name, version, record)

    async def _body(self, receive: Receive, headers: Headers) -> bytes:
        body = await read_body(receive)
        encoding = headers.get(b"content-encoding", b"identity").lower()
        if encoding not in ENCODINGS:
            return body
        return await asyncio.to_thread(decompress, body, encoding, self._max_body_bytes)


def find_model(registry: Registry, name: str, version: str | None, record: Record) -> Servable:
    """Who answers for a model, noted in the record.

    Raises:
        ModelNotFound: nothing of that name or version is here.
        NotReady: it is here and cannot answer.
    """
    try:
        servable = registry.get(None, name, version_number(name, version), record)
    except NotReady:
        if registry.settled.is_set():  # else it may be any name
            record.model = name
        raise
    manifest = servable.manifest
    record.task, record.model, record.version = servable.task.kind, manifest.name, manifest.version
    return servable


def version_number(name: str, version: str | None) -> int | str | None:
    """A version as it stands in a path. Raises `ModelNotFound` where it is neither a positive integer nor a name."""
    if version is None or re.fullmatch(ALIAS, version):
        return version
    if VERSION.fullmatch(version) is None:
        raise ModelNotFound(name)
    return int(version)


@dataclass(frozen=True)
class Call(Generic[Answer]):
    """One request, in whichever form it came."""

    read: Callable[[], InferRequest]
    is_long: bool
    """Whether reading takes so long that a thread should do it."""
    write: Callable[[InferRequest, Tensors], Answer]
    begun: float
    """When it came, and when it has to be answered, on the monotonic clock."""
    latest: float


async def answered(servable: Servable, call: Call[Answer], record: Record) -> Answer:
    """The answer to a call; what it took is noted in the record.

    Raises:
        ServiceError: the request, a picture, a value, the queue or the model refuse.
    """
    servable.hold()
    try:
        return await _answered(servable, call, record)
    finally:
        servable.free()


async def _answered(servable: Servable, call: Call[Answer], record: Record) -> Answer:
    started = time.monotonic()
    request = await asyncio.to_thread(call.read) if call.is_long else call.read()
    deadline = call.latest if request.timeout is None else min(call.latest, call.begun + request.timeout)
    if request.pictures:
        tensors, record.pixels = await servable.rows_of(request.pictures)
    else:
        tensors = request.tensors
    decode = time.monotonic() - started
    outputs, queued, ran = await servable.infer(tensors, deadline)
    inferred = time.monotonic()
    answer = await servable.near(_numbers_to_write(request, outputs), lambda: call.write(request, outputs))
    record.timings = Timings(decode, queued, ran, time.monotonic() - inferred)
    servable.observe(record.timings)
    if servable.mirror is not None:
        servable.mirror(Prepared(tensors), None, outputs)
    return answer


def _numbers_to_write(request: InferRequest, outputs: Tensors) -> int:
    """What writing an answer costs, as so many numbers written as text."""
    return sum(
        outputs[wanted.name].size // (_COPIED if wanted.binary and not wanted.classes else 1)
        for wanted in request.wanted
    )


async def _send(send: Send, servable: Servable, answer: InferAnswer, encoding: bytes | None) -> None:
    headers = [(b"content-type", b"application/json" if answer.header_length is None else b"application/octet-stream")]
    if answer.header_length is not None:
        headers.append((b"inference-header-content-length", b"%d" % answer.header_length))
    body = answer.body
    if encoding is not None and len(body) >= _WORTH_COMPRESSING:
        body = await servable.near(len(body), lambda: compress(answer.body, encoding))
        headers.append((b"content-encoding", encoding))
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _header_length(value: bytes | None) -> int | None:
    if value is None:
        return None
    if not value.isdigit() or len(value) > 10:
        raise InvalidRequest("Inference-Header-Content-Length is a whole number of bytes.")
    return int(value)
