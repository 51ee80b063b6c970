"""The short way of the commonest requests: one small picture in the body, or options alone.

What it leaves out is a task, a scope and the messages between server and application; `benchmarks.profile` shows what
is left. What it answers is what `TaskEndpoint` would answer.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from app.api.calls import Call, accepted_form, call_from_query, call_with_body, timeout_seconds
from app.api.errors import problem_answer, status_of
from app.api.middleware import Edge, Record, headers_for, headers_read
from app.api.task_routes import TaskEndpoint, answer_body, json_body, media_type_of
from app.api.uploads import Upload, options_in, upload_of
from app.errors import CallerLeft, InternalError, ServiceError
from app.servable import INLINE_SIZE, Prediction, Servable
from app.telemetry.logs import request_id

logger = logging.getLogger("imago.api")

_JSON: Final = {"content-type": "application/json"}
_STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}

Headers = Iterable[tuple[bytes, bytes]]
Respond = Callable[[bytes, bytes], None]
"""Writes an answer: its first line, then headers and body; the server puts its own headers between."""
_Outcome = Prediction | bytes | Exception
"""What a request comes to: a prediction, the body of an answer, or the error that is to be told."""


class FastPath:
    """Offers the short way to requests that may take it."""

    def __init__(self, endpoints: Mapping[str, TaskEndpoint], edge: Edge) -> None:
        self._endpoints = {path.encode(): endpoint for path, endpoint in endpoints.items()}
        self._edge = edge
        self._access = edge.access
        self._longest = min(INLINE_SIZE, edge.max_body_bytes)

    def offer(self, url: bytes, headers: Headers) -> "Exchange | None":
        """An exchange for a POST with these headers, or None where it has to go the long way: another route, a body
        that is long or of unknown length, anything to be refused."""
        path, _, query = url.partition(b"?")
        if (endpoint := self._endpoints.get(path)) is None:
            return None
        found = headers_read(headers)
        if not _is_short(found, self._longest, endpoint.takes_picture):
            return None
        record = Record.of(found)
        record.task = endpoint.task.kind
        access = self._access
        if access is not None and not access.knows(record):
            return None
        try:
            call = call_from_query(endpoint.task.kind, query)
            servable = endpoint.find(call, record)
            form = accepted_form(found.get(b"accept", b""), call.options.forms)
            timeout = timeout_seconds(found.get(b"x-request-timeout-ms"), endpoint.limits.timeout_seconds)
            if access is not None:
                access.charge(record)
        except ServiceError:
            return None
        deadline = time.monotonic() + timeout
        return Exchange(self._edge, endpoint, query, servable, call, deadline, form, record)

    def refusal(self, error: ServiceError) -> tuple[bytes, bytes]:
        """The answer to what could not be read as a request, counted and logged as if it were one: its first line, and
        the rest."""
        record = Record.of({})
        status, headers, body = problem_answer(error, record.id)
        record.status = status
        _finish(self._edge, record, 0.0, "-", "-")
        return _written(record, 0.0, status, headers, body)


def _is_short(headers: Mapping[bytes, bytes], longest: int, takes_picture: bool) -> bool:
    length = headers.get(b"content-length", b"")
    if not length.isdigit() or len(length) > 9 or int(length) > longest or b"content-encoding" in headers:
        return False
    return length != b"0" or not takes_picture


def _finish(edge: Edge, record: Record, seconds: float, method: str, path: str) -> None:
    """Count and log."""
    token = request_id.set(record.id)
    edge.finish(record, seconds, method, path)
    request_id.reset(token)


def _written(
    record: Record, seconds: float, status: int, headers: Mapping[str, str], body: bytes
) -> tuple[bytes, bytes]:
    """An answer on the wire: its first line, then headers and body."""
    own = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode("latin-1")
    rest = b"".join([b"%b: %b\r\n" % header for header in headers_for(record, seconds)])
    return _STATUS_LINES[status], b"content-length: %d\r\n%b%b\r\n%b" % (len(body), own, rest, body)


class Exchange:
    """One request and its answer."""

    def __init__(
        self, edge: Edge, endpoint: TaskEndpoint, query: bytes, servable: Servable, call: Call, deadline: float,
        form: str, record: Record,
    ) -> None:  # fmt: skip
        self._edge = edge
        self._endpoint = endpoint
        self._query = query
        self._servable = servable
        self._call = call
        self._deadline = deadline
        self._form = form
        self._record = record
        self._begun = edge.clock()
        self._drop: Callable[[], object] | None = None
        """Gives the answer up while it is made."""

    def begin(self, body: bytes, respond: Respond) -> None:
        """Begin to answer what the body asks."""

        def deliver(outcome: _Outcome) -> None:
            self._drop = None  # it knows the job, which knows this function: a circle for the garbage collector
            if not self._record.status:  # else the caller left while a thread made the answer
                respond(*self._answer(outcome))

        token = request_id.set(self._record.id)
        try:
            upload = self._read(body)
            if upload.options:
                self._call = call_with_body(self._endpoint.task.kind, self._query, upload.options)
                self._form = accepted_form(self._record.headers.get(b"accept", b""), self._call.options.forms)
            if upload.options or self._servable.retired:  # another version took over while the body came
                self._servable = self._endpoint.find(self._call, self._record)
            self._drop = self._begin(upload.pictures, deliver)
        except Exception as error:
            deliver(error)
        finally:
            request_id.reset(token)

    def _begin(
        self, pictures: Sequence[bytes | ServiceError], deliver: Callable[[_Outcome], None]
    ) -> Callable[[], object]:
        """Begin at once; or with a task, where the picture is too large for the loop's thread, several came, or the
        images asked for are more than a batch."""
        picture = pictures[0] if pictures else None
        if len(pictures) <= 1 and not isinstance(picture, ServiceError):
            options, as_picture = self._call.options, self._form != "json"
            if as_picture:
                options = options.drawn_as(self._form)
            drop = self._servable.begin(picture, options, self._deadline, deliver, as_picture)
            if drop is not None:
                return drop
        servable = self._servable
        answering = answer_body(servable, self._call, pictures, self._deadline, self._form, self._record)
        task = asyncio.get_running_loop().create_task(_delivered(answering, deliver))
        servable.hold()  # until the task has begun, which holds it, too
        task.add_done_callback(lambda _: servable.free())
        return task.cancel

    def _read(self, body: bytes) -> Upload:
        if not self._endpoint.takes_picture:
            return Upload([], options_in(body))
        content_type = self._record.headers.get(b"content-type", b"")
        return upload_of(body, content_type, self._endpoint.limits.max_pictures)

    def leave(self) -> None:
        """The caller is gone: nobody reads the answer."""
        if self._record.status:
            return
        if self._drop is not None:
            self._drop()
            self._drop = None
        self._record.status = status_of(CallerLeft())
        self._finish()

    def refuse(self, error: ServiceError, respond: Respond) -> None:
        """Answer before the body is whole."""
        respond(*self._answer(error))

    def _finish(self) -> float:
        """Count and log; returns the seconds since the request's headers."""
        seconds = self._edge.clock() - self._begun
        _finish(self._edge, self._record, seconds, "POST", f"/{self._record.task}")
        return seconds

    def _answer(self, outcome: _Outcome) -> tuple[bytes, bytes]:
        record = self._record
        try:
            status, headers, body = self._parts(outcome)
        except Exception as error:
            status, headers, body = self._parts(error)
        record.status = status
        return _written(record, self._finish(), status, headers, body)

    def _parts(self, outcome: _Outcome) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body."""
        if isinstance(outcome, Exception):
            return problem_answer(self._known(outcome), self._record.id)
        if isinstance(outcome, bytes):
            body = outcome
        else:
            self._record.note(outcome)
            answer = outcome.answer
            body = answer if isinstance(answer, bytes) else json_body(self._servable, answer)
        return 200, _JSON if self._form == "json" else {"content-type": media_type_of(self._form)}, body

    def _known(self, error: Exception) -> ServiceError:
        if isinstance(error, ServiceError):
            return error
        token = request_id.set(self._record.id)
        logger.error("unexpected failure on /%s", self._record.task, exc_info=error)
        request_id.reset(token)
        return InternalError()


async def _delivered(answering: Coroutine[Any, Any, bytes], deliver: Callable[[_Outcome], None]) -> None:
    try:
        body = await answering
    except Exception as error:
        deliver(error)
    else:
        deliver(body)
