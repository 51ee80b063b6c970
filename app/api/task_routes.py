"""One POST for each task, built from `TASKS`. Routes take care of HTTP and hand the rest to a servable."""

import asyncio
import time
from collections.abc import Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson
from fastapi import APIRouter
from starlette.types import Receive, Scope, Send

from app.api.access import check_sees
from app.api.calls import Call, accepted_form, call_from_query, call_with_body, timeout_seconds
from app.api.errors import problem
from app.api.middleware import Record, record_of
from app.api.refusals import ASKING, refusals
from app.api.schemas import answer_model, task_operation
from app.api.uploads import JSON, MULTIPART, Upload, media_type, read_options, read_upload
from app.errors import CallerLeft, NotAcceptable, NotReady, RouteNotFound, ServiceError
from app.repository.registry import Registry
from app.servable import INLINE_SIZE, Prediction, Servable
from app.tasks import TASKS, Task
from app.tasks.base import PictureTask

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """What one request may ask for."""

    max_pictures: int
    timeout_seconds: float


def task_endpoints(registry: Registry, limits: Limits) -> dict[str, "TaskEndpoint"]:
    """The applications of all tasks, by path."""
    return {f"/{kind}": TaskEndpoint(task, registry, limits) for kind, task in TASKS.items()}


def task_routes(endpoints: Mapping[str, "TaskEndpoint"]) -> APIRouter:
    """Routes that document the endpoints and refuse other methods; `Edge` serves the endpoints themselves."""
    router = APIRouter(tags=["tasks"])
    for path, endpoint in endpoints.items():
        task = endpoint.task
        router.add_api_route(
            path,
            elsewhere,
            methods=["POST"],
            name=task.kind,
            summary=task.summary,
            response_model=answer_model(task),
            responses=refusals(ASKING),
            openapi_extra=task_operation(task),
        )
    return router


class TaskEndpoint:
    """The ASGI application of one task: body in, answer out, and nothing of the framework between."""

    encodings: Collection[bytes] = ()
    max_body_bytes: int | None = None

    def __init__(self, task: type[Task[Any]], registry: Registry, limits: Limits) -> None:
        self.task = task
        self._kind = task.kind
        self.takes_picture = issubclass(task, PictureTask)
        self.limits = limits
        self._registry = registry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one POST.

        Raises:
            ServiceError: the request, its picture, the queue or the model refuse.
        """
        record = record_of(scope)
        record.task = self._kind
        query = scope["query_string"]
        call = call_from_query(self._kind, query)
        headers = record.headers
        accept = headers.get(b"accept", b"")
        form = accepted_form(accept, call.options.forms)
        timeout = timeout_seconds(headers.get(b"x-request-timeout-ms"), self.limits.timeout_seconds)
        deadline = time.monotonic() + timeout
        servable = self._early(call, record, deadline)
        if self.takes_picture:
            upload = await read_upload(receive, headers.get(b"content-type", b""), self.limits.max_pictures)
        else:
            upload = Upload([], await read_options(receive))
        if upload.options:
            call = call_with_body(self._kind, query, upload.options)
            form = accepted_form(accept, call.options.forms)
        elif isinstance(servable, ServiceError):
            raise servable
        # Or another version took over while the body came.
        if isinstance(servable, ServiceError) or upload.options or servable.retired:
            servable = self.find(call, record)
        answering = answer_body(servable, call, upload.pictures, deadline, form, record)
        # While a small model runs nothing else does: nobody could be heard leaving.
        deaf = servable.inline and all(map(_is_small, upload.pictures))
        body = await (answering if deaf else unless_caller_leaves(receive, answering))
        content_type = media_type_of(form).encode()
        length = b"%d" % len(body)
        answer_headers = [(b"content-type", content_type), (b"content-length", length)]
        await send({"type": "http.response.start", "status": 200, "headers": answer_headers})
        await send({"type": "http.response.body", "body": body})

    def _early(self, call: Call, record: Record, deadline: float) -> Servable | ServiceError:
        """Who answers a call whose body has not come yet; or why nobody does, where the body may name another model.

        Raises:
            ServiceError: as `find` and `Servable.admit`, where it names none.
        """
        kind = media_type(record.headers.get(b"content-type", b""))
        undecided = call.model is None and (not self.takes_picture or kind in (MULTIPART, JSON))
        try:
            servable = self.find(call, record)
        except ServiceError as error:
            if undecided:
                return error
            raise
        if not undecided:
            servable.admit(deadline)
        return servable

    def find(self, call: Call, record: Record) -> Servable:
        """Who answers a call, noted in the record; raises as `Registry.get`."""
        name = call.model
        if name is None and call.options.variant:
            name = self._registry.able(self._kind, call.options.variant)
        check_sees(record, self._registry, self._kind, name, call.version)
        try:
            servable = self._registry.get(self._kind, name, call.version, record)
        except NotReady:
            if self._registry.settled.is_set():  # a known name: the metrics and alerts say which model cannot answer
                record.model = name or ""
            raise
        record.model, record.version = servable.manifest.name, servable.manifest.version
        return servable


def _is_small(picture: bytes | ServiceError) -> bool:
    """Whether it is decoded on the event loop's thread, if at all."""
    return isinstance(picture, ServiceError) or len(picture) <= INLINE_SIZE


async def elsewhere() -> None:
    """What the framework runs for a path that it takes for a direct one and is not, such as `/classify%0A`."""
    raise RouteNotFound


async def answer_body(
    servable: Servable,
    call: Call,
    pictures: Sequence[bytes | ServiceError],
    deadline: float,
    form: str,
    record: Record,
) -> bytes:
    """Predict for one picture, for several side by side, or for none where the task takes none: the answer's body."""
    servable.hold()
    try:
        return await _answer_body(servable, call, pictures, deadline, form, record)
    finally:
        servable.free()


async def _answer_body(
    servable: Servable,
    call: Call,
    pictures: Sequence[bytes | ServiceError],
    deadline: float,
    form: str,
    record: Record,
) -> bytes:
    as_picture = form != "json"
    if as_picture and len(pictures) > 1:
        raise NotAcceptable(f"An {media_type_of(form)} answer holds one picture: send one, or accept application/json.")
    options = call.options.drawn_as(form) if as_picture else call.options

    async def predict(source: bytes | ServiceError | None) -> Prediction:
        if isinstance(source, ServiceError):
            raise source
        return await servable.predict(source, options, deadline, as_picture)

    if len(pictures) <= 1:
        prediction = await predict(pictures[0] if pictures else None)
        record.note(prediction)
        return prediction.answer if isinstance(prediction.answer, bytes) else json_body(servable, prediction.answer)
    outcomes = await asyncio.gather(*map(predict, pictures), return_exceptions=True)
    return json_body(servable, [item for outcome in outcomes for item in _items(outcome, record)])


def _items(outcome: Prediction | BaseException, record: Record) -> list[dict[str, Any]]:
    """The results of one picture among several, or its error in their place."""
    if isinstance(outcome, Prediction) and isinstance(outcome.answer, list):
        record.note(outcome)
        return outcome.answer
    if isinstance(outcome, ServiceError):
        return [{"error": problem(outcome, record.id)}]
    raise outcome if isinstance(outcome, BaseException) else TypeError(outcome)


def media_type_of(form: str) -> str:
    """The media type of an answer."""
    return "application/json" if form == "json" else f"image/{form}"


def json_body(servable: Servable, results: list[dict[str, Any]]) -> bytes:
    """The answer of a task: which model answered, and its results."""
    manifest = servable.manifest
    return orjson.dumps({"model": manifest.name, "version": manifest.version, "results": results})


async def unless_caller_leaves(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Await some work, and cancel it when the connection closes: nobody would read the answer.

    Raises:
        CallerLeft: the connection closed first.
    """
    task = asyncio.current_task()
    left = False

    async def watch() -> None:
        nonlocal left
        while (await receive())["type"] != "http.disconnect":
            pass
        left = True
        if task is not None:
            task.cancel()

    watching = asyncio.ensure_future(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if left:
            raise CallerLeft from None
        raise
    finally:
        watching.cancel()
