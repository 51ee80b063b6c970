"""One POST for each task, built from `TASKS`. Routes take care of HTTP and hand the rest to a servable."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from app.api.calls import Call, accepted_form, call_from_query, call_with_body, timeout_seconds
from app.api.errors import problem
from app.api.middleware import Record, record_of
from app.api.schemas import answer_model, error_responses, task_operation
from app.api.uploads import Upload, read_options, read_upload
from app.errors import CallerLeft, NotAcceptable, NotReady, ServiceError
from app.repository.registry import Registry
from app.servable import Prediction, Servable
from app.tasks import TASKS, Task
from app.tasks.base import PictureTask

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """What one request may ask for."""

    max_pictures: int
    timeout_seconds: float


def task_routes(registry: Registry, limits: Limits) -> APIRouter:
    """The routes of all tasks."""
    router = APIRouter(tags=["tasks"])
    for kind, task in TASKS.items():
        router.add_api_route(
            f"/{kind}",
            _endpoint(task, registry, limits),
            methods=["POST"],
            name=kind,
            summary=task.summary,
            response_model=answer_model(task),
            responses=error_responses(),
            openapi_extra=task_operation(task),
        )
    return router


def _endpoint(task: type[Task[Any]], registry: Registry, limits: Limits) -> Callable[[Request], Awaitable[Response]]:
    kind, takes_picture = task.kind, issubclass(task, PictureTask)

    async def endpoint(request: Request) -> Response:
        record = record_of(request.scope)
        record.task = kind
        query = request.scope["query_string"]
        call = call_from_query(kind, query)
        servable = _find(registry, kind, call, record)
        form = accepted_form(request.headers.get("accept", ""))
        timeout = timeout_seconds(request.headers.get("x-request-timeout-ms"), limits.timeout_seconds)
        deadline = time.monotonic() + timeout
        if takes_picture:
            upload = await read_upload(request, limits.max_pictures)
        else:
            upload = Upload([], await read_options(request))
        if upload.options:
            call = call_with_body(kind, query, upload.options)
            servable = _find(registry, kind, call, record)
        answer = _answer(servable, call, upload.pictures, deadline, form == "png", record)
        return await _unless_caller_leaves(request, answer)

    return endpoint


def _find(registry: Registry, kind: str, call: Call, record: Record) -> Servable:
    try:
        servable = registry.get(kind, call.model, call.version)
    except NotReady:
        record.model = call.model or ""  # a known name: the metrics and alerts say which model cannot answer
        raise
    record.model, record.version = servable.manifest.name, servable.manifest.version
    return servable


async def _answer(
    servable: Servable,
    call: Call,
    pictures: Sequence[bytes | ServiceError],
    deadline: float,
    as_picture: bool,
    record: Record,
) -> Response:
    """Predict for one picture, for several side by side, or for none where the task takes none."""
    if as_picture and len(pictures) > 1:
        raise NotAcceptable("An image/png answer holds one picture: send one, or accept application/json.")

    async def predict(source: bytes | ServiceError | None) -> Prediction:
        if isinstance(source, ServiceError):
            raise source
        return await servable.predict(source, call.options, deadline, as_picture)

    if len(pictures) <= 1:
        prediction = await predict(pictures[0] if pictures else None)
        record.stages = asdict(prediction.timings)
        if isinstance(prediction.answer, bytes):
            return Response(prediction.answer, media_type="image/png")
        return _json(servable, prediction.answer)
    outcomes = await asyncio.gather(*map(predict, pictures), return_exceptions=True)
    return _json(servable, [item for outcome in outcomes for item in _items(outcome, record)])


def _items(outcome: Prediction | BaseException, record: Record) -> list[dict[str, Any]]:
    """The results of one picture among several, or its error in their place."""
    if isinstance(outcome, Prediction) and isinstance(outcome.answer, list):
        for stage, seconds in asdict(outcome.timings).items():
            record.stages[stage] = max(seconds, record.stages.get(stage, 0.0))
        return outcome.answer
    if isinstance(outcome, ServiceError):
        return [{"error": problem(outcome, record.id)}]
    raise outcome if isinstance(outcome, BaseException) else TypeError(outcome)


def _json(servable: Servable, results: list[dict[str, Any]]) -> Response:
    manifest = servable.manifest
    body = orjson.dumps({"model": manifest.name, "version": manifest.version, "results": results})
    return Response(body, media_type="application/json")


async def _unless_caller_leaves(request: Request, work: Awaitable[T]) -> T:
    """Await some work, and cancel it when the connection closes: nobody would read the answer.

    Raises:
        CallerLeft: the connection closed first.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise CallerLeft
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
