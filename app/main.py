"""Joins settings, models and routes into one application; the one place where layers meet."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from app import __version__
from app.api.errors import translate
from app.api.middleware import Edge
from app.api.repository_routes import repository_routes
from app.api.system_routes import system_routes
from app.api.task_routes import Limits, task_endpoints, task_routes
from app.errors import InvalidSettings
from app.imaging.codec import Decoder
from app.manifest import nearest
from app.repository.registry import Registry
from app.runtime import available_device
from app.servable import Resources
from app.settings import Settings
from app.tasks import TASKS
from app.telemetry.metrics import Metrics

OnLoaded = Callable[[Registry], None]


def create_registry(settings: Settings, metrics: Metrics) -> Registry:
    """The registry that these settings ask for, still empty.

    Raises:
        BackendMissing: the inference library for the device is not installed.
        InvalidSettings: a default is set for a task that does not exist.
    """
    for kind in settings.default_models:
        if kind not in TASKS:
            raise InvalidSettings(f"default_models: task {kind!r} is unknown{nearest(kind, TASKS)}")
    cores = os.cpu_count() or 1
    resources = Resources(
        decoder=Decoder(settings.formats, settings.max_pixels),
        pool=ThreadPoolExecutor(cores, thread_name_prefix="imago-decode"),
        metrics=metrics,
        device=available_device() if settings.device == "auto" else settings.device,
        threads=settings.threads,
        replicas=settings.replicas,
        max_queue_seconds=settings.max_queue_seconds,
    )
    return Registry(settings.models, resources, settings.default_models)


def create_app(settings: Settings, on_loaded: OnLoaded = lambda registry: None) -> FastAPI:
    """The application. Models are loaded once it runs, while `/livez` and `/readyz` already answer.

    Raises:
        BackendMissing: the inference library for the device is not installed.
    """
    metrics = Metrics()
    registry = create_registry(settings, metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(_load(registry, on_loaded))
        yield
        loading.cancel()
        await registry.close()

    app = FastAPI(
        title="imago", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None,
        description="Images in, compact answers out: classify, segment and generate with ONNX models.",
    )  # fmt: skip
    endpoints = task_endpoints(registry, Limits(settings.max_pictures, settings.request_timeout_seconds))
    app.include_router(task_routes(endpoints))
    app.include_router(repository_routes(registry))
    app.include_router(system_routes(registry, metrics, settings.strict_readiness))
    app.add_middleware(Edge, direct=endpoints, max_body_bytes=settings.max_body_bytes, metrics=metrics)
    for refusal in (HTTPException, RequestValidationError):
        app.add_exception_handler(refusal, translate)
    app.state.registry = registry
    return app


async def _load(registry: Registry, on_loaded: OnLoaded) -> None:
    await registry.load_all()
    on_loaded(registry)
