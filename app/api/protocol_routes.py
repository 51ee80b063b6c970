"""The paths of the Open Inference Protocol v2: metadata, readiness, configuration and statistics of models, the index.

Inference itself is served by `app.api.protocol_infer`, past the framework; here it is documented. `/v2/health` stands
beside `/livez` and `/readyz`. What is answered is made by `app.api.protocol_models`.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from app.api.middleware import record_of
from app.api.protocol_infer import version_number
from app.api.protocol_messages import object_in
from app.api.protocol_models import Json, Models, repository_index, server_metadata
from app.api.protocol_schemas import (
    IndexEntry,
    IndexRequest,
    InferenceAnswer,
    ModelMetadata,
    ModelReadiness,
    ModelStatistics,
    ServerMetadata,
    infer_operation,
    parameters_of,
)
from app.api.refusals import RUNNING, refusals
from app.api.task_routes import elsewhere
from app.errors import InvalidRequest, ModelNotFound, NotReady
from app.repository.registry import Registry

Tell = Callable[[str, int | str | None], Json]
"""Makes an answer for a model and, where the path has one, a version."""


def protocol_routes(registry: Registry, models: Models) -> APIRouter:
    """Everything below `/v2` but health."""
    router = APIRouter(tags=["protocol v2"])

    async def server() -> Response:
        return _json(server_metadata())

    async def all_stats(request: Request) -> Response:
        return _json(models.all_stats(record_of(request.scope).sees))

    async def index(request: Request) -> Response:
        body = await request.body()
        return _json(repository_index(registry, ready=_only_ready(body)))

    for path in ("/v2", "/v2/"):  # the specification writes both
        router.add_api_route(path, server, summary="The server and its extensions", response_model=ServerMetadata)
    router.add_api_route(
        "/v2/models/stats", all_stats, summary="Statistics of all models", response_model=ModelStatistics
    )
    _add(router, "", models.metadata, "A model and its tensors", ModelMetadata)
    _add(router, "/ready", models.ready, "Whether a model answers", ModelReadiness)
    _add(router, "/config", models.config, "How a model is configured, in Triton's words", None)
    _add(router, "/stats", models.stats, "Statistics of a model", ModelStatistics)
    for path in _paths("/infer"):
        router.add_api_route(
            path, elsewhere, methods=["POST"], summary="Run a model on tensors, or on encoded pictures",
            response_model=InferenceAnswer, responses=refusals(RUNNING, protocol=True),
            openapi_extra=infer_operation(path),
        )  # fmt: skip
    router.add_api_route(
        "/v2/repository/index", index, methods=["POST"], summary="Every version and its state",
        response_model=list[IndexEntry], responses=refusals((InvalidRequest,), protocol=True), openapi_extra=_INDEX,
    )  # fmt: skip
    return router


_INDEX = {
    "requestBody": {"required": False, "content": {"application/json": {"schema": IndexRequest.model_json_schema()}}}
}


def _paths(tail: str) -> tuple[str, str]:
    return f"/v2/models/{{name}}{tail}", f"/v2/models/{{name}}/versions/{{version}}{tail}"


def _add(router: APIRouter, tail: str, tell: Tell, summary: str, model: type[BaseModel] | None) -> None:
    """A GET of every model, and of every version of it."""
    for path in _paths(tail):
        router.add_api_route(
            path, _told(tell), summary=summary, response_model=model, openapi_extra={"parameters": parameters_of(path)},
            responses=refusals((ModelNotFound, NotReady), protocol=True),
        )  # fmt: skip


def _told(tell: Tell) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        name = request.path_params["name"]
        return _json(tell(name, version_number(name, request.path_params.get("version"))))

    return answer


def _only_ready(body: bytes) -> bool:
    ready = object_in(body).get("ready", False) if body else False
    if not isinstance(ready, bool):
        raise InvalidRequest("'ready' is true or false.")
    return ready


def _json(content: Any) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")
