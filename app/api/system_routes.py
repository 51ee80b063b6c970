"""Health, metrics, the start page and the documentation, whose assets are served from here."""

from collections.abc import Awaitable, Callable, Mapping
from importlib import resources
from typing import Final

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from app.api.calls import LONGEST_ACCEPT
from app.api.middleware import Record, record_of
from app.api.protocol_schemas import ProtocolLiveness, ProtocolReadiness
from app.api.schemas import Liveness, Readiness
from app.errors import RouteNotFound
from app.repository.registry import Registry
from app.telemetry.metrics import Metrics

_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_NOT_READY: Final = "Models are being loaded or are broken, or the service is stopping: GET /readyz says more."
_CONTENT: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self';"
    " form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)
_POLICY: Final = {
    "Content-Security-Policy": _CONTENT,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}
_DOCS_POLICY: Final = _POLICY | {
    # Swagger UI writes styles into its elements.
    "Content-Security-Policy": _CONTENT.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")
}


def system_routes(
    registry: Registry,
    metrics: Metrics,
    strict: bool,
    draining: Callable[[], bool],
    count: Callable[[], Awaitable[None]] | None = None,
) -> APIRouter:
    """The routes that containers, monitors and browsers ask; `count` sets metrics that are found out when asked for."""
    router = APIRouter(tags=["system"])

    @router.get(
        "/livez",
        summary="Whether every process turns; where not, only a restart helps",
        response_model=Liveness,
        responses={503: {"model": Liveness}},
    )
    async def livez() -> Response:
        faults = metrics.pulse.faults()
        return _health(Liveness(status="stuck" if faults else "alive", faults=faults), not faults)

    @router.get(
        "/readyz",
        summary="Whether models answer, and which are broken",
        response_model=Readiness,
        responses={503: {"model": Readiness}},
    )
    async def readyz(request: Request) -> Response:
        state = _readiness(registry, strict, draining(), record_of(request.scope))
        return _health(state, state.ready)

    @router.get(
        "/v2/health/live",
        tags=["protocol v2"],
        summary="As /livez",
        response_model=ProtocolLiveness,
        responses={503: {"model": ProtocolLiveness}},
    )
    async def live() -> Response:
        faults = metrics.pulse.faults()
        return _health(ProtocolLiveness(live=not faults, error=" ".join(faults) or None), not faults)

    @router.get(
        "/v2/health/ready",
        tags=["protocol v2"],
        summary="As /readyz",
        response_model=ProtocolReadiness,
        responses={503: {"model": ProtocolReadiness}},
    )
    async def ready() -> Response:
        well = is_ready(registry, strict, draining())
        return _health(ProtocolReadiness(live=True, ready=well, error=None if well else _NOT_READY), well)

    @router.get("/metrics", summary="Prometheus metrics", response_class=PlainTextResponse)
    async def prometheus(request: Request) -> Response:
        if count is not None:
            await count()
        accept = record_of(request.scope).headers.get(b"accept", b"")
        body, media_type = metrics.render(accept.decode("latin-1") if len(accept) <= LONGEST_ACCEPT else "")
        return Response(body, headers={"Content-Type": media_type})

    files = _static_files()
    for path, name, policy in (("/", "index.html", _POLICY), ("/docs", "docs.html", _DOCS_POLICY)):
        router.add_api_route(path, _page(files[name], policy), methods=["GET"], include_in_schema=False)

    @router.get("/static/{name:path}", include_in_schema=False)
    async def static(name: str) -> Response:
        if name not in files:
            raise RouteNotFound
        headers = {"Cache-Control": "max-age=3600", **_POLICY}
        return Response(files[name], headers=headers | {"Content-Type": _TYPES[name.rpartition(".")[2]]})

    return router


def _health(state: BaseModel, well: bool) -> Response:
    headers = {"Cache-Control": "no-store"} | ({} if well else {"Retry-After": "1"})
    return Response(
        state.model_dump_json(exclude_none=True), 200 if well else 503, headers, media_type="application/json"
    )


def is_ready(registry: Registry, strict: bool, draining: bool) -> bool:
    """Ready means: every model was tried, one answers (`strict`: all do, by one of their versions), and the service is
    not stopping."""
    answering = {entry.name for entry in registry.entries() if entry.state == "ready"}
    broken = {entry.name for entry in registry.entries() if entry.state == "failed"} - answering
    return registry.settled.is_set() and bool(answering) and not (strict and broken) and not draining


def _readiness(registry: Registry, strict: bool, draining: bool, record: Record) -> Readiness:
    """Whether the service is ready, and why not. Only the models that the caller sees are named."""
    told = {str(entry): entry for entry in registry.entries() if record.sees(entry.name)}
    return Readiness(
        ready=is_ready(registry, strict, draining),
        draining=draining,
        settled=registry.settled.is_set(),
        loading=[key for key, entry in told.items() if entry.state == "loading"],
        failed={key: entry.reason for key, entry in told.items() if entry.state == "failed"},
    )


def _static_files() -> dict[str, bytes]:
    """All pages and their assets by name, in memory: no path from a request ever reaches the disk."""
    with resources.as_file(resources.files("app.api") / "static") as folder:
        files = [file for file in folder.rglob("*") if file.suffix[1:] in _TYPES]
        return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def _page(content: bytes, policy: Mapping[str, str]) -> Callable[[], Awaitable[Response]]:
    async def page() -> Response:
        return Response(content, headers={"Content-Type": _TYPES["html"], "Cache-Control": "no-cache", **policy})

    return page
