"""The short way of the commonest request: one small picture in the body, its answer in JSON.

What it leaves out is a task, a scope and the messages between server and application, which cost as much as decoding
and inference of a 28x28 picture together. What it answers is what `TaskEndpoint` would answer.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Final

from app.api.calls import Call, accepted_form, call_from_query, timeout_seconds
from app.api.errors import problem_answer, status_of
from app.api.middleware import Edge, Record, headers_for, headers_read
from app.api.task_routes import TaskEndpoint, json_body
from app.errors import CallerLeft, InternalError, ServiceError
from app.scheduling.batcher import Drop
from app.servable import INLINE_SIZE, Prediction, Servable
from app.telemetry.logs import request_id

logger = logging.getLogger("imago.api")

_OTHER_WAYS: Final = (b"multipart/form-data", b"application/json")
_STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}

Headers = Iterable[tuple[bytes, bytes]]
Respond = Callable[[bytes, bytes], None]
"""Writes an answer: its first line, then headers and body; the server puts its own headers between."""


class FastPath:
    """Offers the short way to requests that may take it."""

    def __init__(self, endpoints: Mapping[str, TaskEndpoint], edge: Edge) -> None:
        self._endpoints = {path.encode(): endpoint for path, endpoint in endpoints.items() if endpoint.takes_picture}
        self._edge = edge

    def offer(self, url: bytes, headers: Headers) -> "Exchange | None":
        """An exchange for a POST with these headers, or None where it has to go the long way: another route, a body
        that is long, of unknown length or no picture, an answer that is one, anything to be refused."""
        path, _, query = url.partition(b"?")
        if (endpoint := self._endpoints.get(path)) is None:
            return None
        found = headers_read(headers)
        length = found.get(b"content-length", b"")
        kind = found.get(b"content-type", b"")
        if (
            not length.isdigit()
            or len(length) > 9
            or not 0 < int(length) <= INLINE_SIZE
            or b"content-encoding" in found
        ):
            return None
        if kind.lower().startswith(_OTHER_WAYS):
            return None
        try:
            call = call_from_query(endpoint.task.kind, query)
            servable = endpoint.servable(call)
            if accepted_form(found.get(b"accept", b"")) == "png":
                return None
            timeout = timeout_seconds(found.get(b"x-request-timeout-ms"), endpoint.limits.timeout_seconds)
        except ServiceError:
            return None
        return Exchange(self._edge, servable, call, timeout, Record.of(found), path.decode("ascii"))


class Exchange:
    """One request and its answer."""

    def __init__(self, edge: Edge, servable: Servable, call: Call, timeout: float, record: Record, path: str) -> None:
        self._edge = edge
        self._servable = servable
        self._call = call
        self._deadline = time.monotonic() + timeout
        self._begun = edge.clock()
        self._record = record
        self._path = path
        self._drop: Drop | None = None
        record.task = servable.task.kind
        record.model, record.version = servable.manifest.name, servable.manifest.version

    def begin(self, body: bytes, respond: Respond) -> bool:
        """Begin to answer; False where the picture is too large to be decoded here: nothing was begun."""

        def deliver(outcome: Prediction | Exception) -> None:
            respond(*self._answer(outcome))

        try:
            self._drop = self._servable.begin(body, self._call.options, self._deadline, deliver)
        except Exception as error:
            deliver(error)
            return True
        return self._drop is not None

    def leave(self) -> None:
        """The caller is gone: nobody reads the answer."""
        if self._drop is None or self._record.status:
            return
        self._drop()
        self._record.status = status_of(CallerLeft())
        self._finish()

    def _finish(self) -> float:
        """Count and log; returns the seconds since the request's headers."""
        seconds = self._edge.clock() - self._begun
        token = request_id.set(self._record.id)
        self._edge.finish(self._record, seconds, "POST", self._path)
        request_id.reset(token)
        return seconds

    def _answer(self, outcome: Prediction | Exception) -> tuple[bytes, bytes]:
        record = self._record
        if isinstance(outcome, Exception):
            status, headers, body = problem_answer(self._known(outcome), record.id)
        else:
            status, headers = 200, {"content-type": "application/json"}
            assert isinstance(outcome.answer, list)
            body = json_body(self._servable, outcome.answer)
            record.timings = outcome.timings
        record.status = status
        seconds = self._finish()
        own = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode("latin-1")
        rest = b"".join([b"%b: %b\r\n" % header for header in headers_for(record, seconds)])
        return _STATUS_LINES[status], b"content-length: %d\r\n%b%b\r\n%b" % (len(body), own, rest, body)

    def _known(self, error: Exception) -> ServiceError:
        if isinstance(error, ServiceError):
            return error
        token = request_id.set(self._record.id)
        logger.error("unexpected failure on %s", self._path, exc_info=error)
        request_id.reset(token)
        return InternalError()
