"""Joins settings, models, routes and processes into one service; the one place where layers meet."""

import asyncio
import logging
import math
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from app import __version__
from app.api.access import AccessControl, describe_keys
from app.api.admin import audit, guard
from app.api.fast_path import FastPath
from app.api.gallery_calls import GalleryCalls
from app.api.gallery_routes import gallery_routes
from app.api.job_routes import PATH as JOBS
from app.api.job_routes import JobDesk, JobsEndpoint, job_routes
from app.api.management_routes import Management, Manages, management_routes
from app.api.middleware import Direct, Edge, answer_refusal
from app.api.openapi import completed
from app.api.protocol_infer import InferEndpoint
from app.api.protocol_models import Models
from app.api.protocol_routes import protocol_routes
from app.api.repository_routes import repository_routes
from app.api.system_routes import is_ready, system_routes
from app.api.task_routes import Limits, task_endpoints, task_routes
from app.drain import Drain
from app.errors import InvalidSettings, ServiceError
from app.galleries.galleries import Galleries
from app.imaging.budget import Budget
from app.imaging.codec import Decoder
from app.jobs.job import Bounds
from app.jobs.store import JobStore
from app.manifest import nearest
from app.processes.commands import RemoteManager
from app.processes.engine import Engine, open_in_engine
from app.processes.follower import Follower
from app.processes.shared import Shared
from app.repository.keeper import Keeper
from app.repository.manager import Manager, Nobody
from app.repository.poller import load_and_poll
from app.repository.registry import Opener, Registry
from app.runtime import available_device
from app.runtime.cores import usable_cores
from app.runtime.plan_cache import PlanCache
from app.runtime.trial import Trial
from app.security.charges import KeyCharges
from app.security.key_file import KeyFile, KeyRing
from app.security.limits import Accounts, Guesses, Quotas
from app.servable import Resources, open_servable
from app.settings import Settings
from app.signature import require_verifier
from app.tasks import TASKS
from app.tasks.embed import Embed
from app.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from app.jobs.runner import JobRunner
    from app.rpc.server import RpcServer

logger = logging.getLogger("imago")

OnLoaded = Callable[[Registry], None]

_MOST_WORKERS = 16
"""Workers that `auto` starts at most: each answers thousands of small requests a second (`benchmarks/RESULTS.md`), and
takes memory of its own."""


def check_settings(settings: Settings) -> None:
    """Look at what would otherwise be found wrong by each process.

    Raises:
        InvalidSettings: a default is set for a task that does not exist, or signatures cannot be checked.
    """
    if settings.signed_by is not None:
        require_verifier(settings.signed_by)
    for kind in settings.default_models:
        if kind not in TASKS:
            raise InvalidSettings(f"default_models: task {kind!r} is unknown{nearest(kind, TASKS)}")


def create_resources(settings: Settings, metrics: Metrics) -> Resources:
    """What the servables of one process share under these settings.

    Raises:
        BackendMissing: the inference library for the device is not installed.
        InvalidSettings: as `check_settings`.
    """
    check_settings(settings)
    cores = usable_cores()
    return Resources(
        decoder=Decoder(
            settings.formats, settings.max_pixels, Budget(settings.max_decode_bytes / worker_count(settings))
        ),
        pool=ThreadPoolExecutor(cores, thread_name_prefix="imago-decode"),
        metrics=metrics,
        device=available_device() if settings.device == "auto" else settings.device,
        cores=cores,
        threads=settings.threads,
        concurrency=settings.concurrency,
        max_queue_seconds=settings.max_queue_seconds,
        signed_by=settings.signed_by,
        trial=Trial(settings.trial_seconds, settings.trial_memory_bytes) if settings.trial_seconds else None,
        plans=PlanCache(_folder(settings.cache)),
    )


def patient_resources(settings: Settings, inline: bool) -> Resources:
    """The same for a process that answers no requests: its queue may last, and small models run in threads, as larger
    ones do, unless `inline`.

    Raises:
        BackendMissing, InvalidSettings: as `create_resources`.
    """
    return replace(create_resources(settings, Metrics()), inline=inline, max_queue_seconds=math.inf)


def _folder(cache: Path | None) -> Path | None:
    """The folder meant by a path that may begin with `~`; none for a user without a home."""
    try:
        return cache and cache.expanduser()
    except RuntimeError:
        return None


def create_registry(settings: Settings, resources: Resources, opener: Opener | None = None) -> Registry:
    """A registry of the models folder, still empty; without an `opener` versions are opened in this process."""
    count = resources.metrics.models_loaded.set
    return Registry(
        settings.models, opener or partial(open_servable, resources=resources), settings.default_models, count,
        plain=settings.plain_models,
    )  # fmt: skip


def read_keys(settings: Settings) -> KeyRing | None:
    """The keys of whoever may call; None where everybody may.

    Raises:
        InvalidKeys: the file of keys cannot be used.
    """
    return None if settings.keys is None else KeyRing(KeyFile(settings.keys.expanduser()))


def open_galleries(settings: Settings) -> Galleries | None:
    """The galleries that this process serves beside others; None where there are none.

    Raises:
        InvalidSettings: their folder cannot be used.
    """
    return None if settings.galleries is None else Galleries(settings.galleries.expanduser(), settings.max_vectors)


def create_app(settings: Settings, on_loaded: OnLoaded = lambda registry: None) -> FastAPI:
    """The application of one process alone. Models are loaded once it runs; `/livez` and `/readyz` answer before.

    Raises:
        BackendMissing, InvalidSettings: as `create_resources`.
        InvalidKeys: as `read_keys`.
    """
    metrics = Metrics()
    registry = create_registry(settings, create_resources(settings, metrics))

    manager = Manager(registry, Nobody())
    load = partial(load_and_poll, registry, manager, settings.poll_seconds, on_loaded)
    return _application(settings, metrics, registry, manager, Accounts(), 0, load)


def create_worker(
    settings: Settings, shared: Shared, number: int, control: socket.socket, stop: Callable[[], None]
) -> FastAPI:
    """The application of one HTTP worker among several, which follows the engine; calls `stop` when it is to end."""
    metrics = Metrics(shared.board, number)
    resources = create_resources(settings, metrics)
    follower = Follower(number, shared, resources)
    registry = create_registry(settings, resources, follower.open)
    following = partial(follower.follow, registry, control, stop)
    manager = RemoteManager(follower.messenger)
    return _application(settings, metrics, registry, manager, shared.accounts, number, following)


async def run_engine(settings: Settings, shared: Shared, control: socket.socket, on_loaded: OnLoaded) -> None:
    """Load the models and serve the workers until the supervisor closes its end.

    Raises:
        BackendMissing, InvalidSettings: as `create_resources`.
    """
    metrics = Metrics(shared.board, shared.engine_slot)
    resources = create_resources(settings, metrics)
    registry = create_registry(settings, resources, partial(open_in_engine, resources=resources))
    engine = Engine(registry, shared, settings.poll_seconds, on_loaded)
    keeping = asyncio.create_task(Keeper(registry, metrics.pulse.beat).keep())
    await engine.run(control)
    keeping.cancel()


def _log_failure(what: str, work: "asyncio.Task[None]") -> None:
    if not work.cancelled() and (error := work.exception()) is not None:
        logger.error("%s", what, exc_info=error)


async def _remind() -> None:
    """Say again and again that nobody is asked for a key, lest it be forgotten."""
    while True:
        logger.warning("insecure_no_auth: whoever reaches this service may call it")
        await asyncio.sleep(60)


def worker_count(settings: Settings) -> int:
    """How many HTTP processes these settings ask for."""
    if not hasattr(os, "fork"):
        return 1
    return settings.workers or min(usable_cores(), _MOST_WORKERS)


class _Application(FastAPI):
    """FastAPI with an edge around all of it: what the framework puts around its routes costs a request more than the
    edge does."""

    def __init__(self, edge: Callable[[ASGIApp, Sequence[BaseRoute]], Edge], **rest: Any) -> None:
        super().__init__(**rest)
        self.edge = edge(super().__call__, self.router.routes)

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document, made when it is asked for first."""
        if self.openapi_schema is None:
            document = completed(super().openapi())
            if self.edge.access is not None:
                describe_keys(document)
        return super().openapi()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer through the edge."""
        await self.edge(scope, receive, send)


def _job_runner(
    settings: Settings, registry: Registry, metrics: Metrics, charges: KeyCharges | None
) -> tuple[JobDesk, "JobRunner"] | tuple[None, None]:
    if settings.jobs_dir is None:
        return None, None
    # Not before it is asked for: results are written as those of `imago batch`, whose client need not be in memory.
    from app.jobs.runner import JobRunner

    bounds = Bounds(
        pictures=settings.jobs_max_pictures, bytes=settings.jobs_max_bytes, kept=settings.jobs_max_count,
        disk_bytes=settings.jobs_max_disk_bytes, keep_seconds=settings.jobs_keep_seconds,
    )  # fmt: skip
    store = JobStore(settings.jobs_dir.expanduser(), bounds, time.time)
    runner = JobRunner(store, registry, settings.max_body_bytes, metrics.of_jobs(), charges)
    return JobDesk(store, metrics.of_jobs(), runner.wake), runner


def _rpc_server(
    settings: Settings, registry: Registry, models: Models, management: Management, limits: Limits, edge: Edge,
    is_live: Callable[[], bool], is_ready: Callable[[], bool],
) -> "RpcServer":  # fmt: skip
    # Not before it is asked for: gRPC is an extra.
    from app.rpc.server import RpcServer
    from app.rpc.service import Health, Service

    health, seconds = Health(is_live, is_ready), settings.body_timeout_seconds
    return RpcServer(Service(registry, models, management, health, limits, edge, seconds), settings)


@asynccontextmanager
async def _running(runner: "JobRunner | None") -> AsyncIterator[None]:
    """Run background jobs, where there are any."""
    if runner is None:
        yield
        return
    working = asyncio.create_task(runner.run())
    working.add_done_callback(partial(_log_failure, "background jobs are not run here any more"))
    yield
    working.cancel()
    await asyncio.wait((working,))


def _application(
    settings: Settings, metrics: Metrics, registry: Registry, manages: Manages, accounts: Accounts, process: int,
    load: Callable[[], Coroutine[Any, Any, None]],
) -> FastAPI:  # fmt: skip
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(load())
        loading.add_done_callback(partial(_log_failure, "the models could not be loaded"))
        keeping = asyncio.create_task(Keeper(registry, metrics.pulse.beat).keep())
        resuming = asyncio.create_task(galleries.resume()) if settings.galleries else None
        reminding = asyncio.create_task(_remind()) if settings.insecure_no_auth and process == 0 else None
        async with _running(runner):
            yield
        loading.cancel()
        if reminding is not None:
            reminding.cancel()
        if rpc is not None:
            await rpc.stop(settings.drain_seconds)
        if resuming is not None:
            resuming.cancel()
        await galleries.close()
        await registry.close()
        keeping.cancel()

    drain = Drain()
    limits = Limits(settings.max_pictures, settings.request_timeout_seconds)
    endpoints = task_endpoints(registry, limits)
    galleries = GalleryCalls(open_galleries(settings), endpoints[f"/{Embed.kind}"])
    infer = InferEndpoint(registry, limits, settings.max_body_bytes)

    async def count_vectors() -> None:
        with suppress(ServiceError):  # then it is as it was when somebody asked before
            metrics.gallery_vectors = await galleries.total()

    def direct(path: str) -> Direct | None:
        return endpoints.get(path) or infer.at(path) or (jobs if path == JOBS else None)

    models = Models(registry, metrics.statistics, settings.request_timeout_seconds)
    management = Management(manages, settings.model_control)
    keys = read_keys(settings)
    quotas = Quotas(accounts, process, time.monotonic)
    desk, runner = _job_runner(settings, registry, metrics, None if keys is None else KeyCharges(keys, quotas))
    jobs = JobsEndpoint(desk, registry)

    def edge(app: ASGIApp, routes: Sequence[BaseRoute]) -> Edge:
        access = None
        if keys is not None:
            access = AccessControl(keys, quotas, Guesses(accounts, time.monotonic), routes, metrics.access_refused)
        return Edge(app, direct, settings.max_body_bytes, metrics, access, audit)

    routers = (
        task_routes(endpoints),
        job_routes(desk),
        repository_routes(registry),
        protocol_routes(registry, models),
        management_routes(management),
        gallery_routes(galleries, settings.max_pictures, metrics.gallery_seconds),
        system_routes(registry, metrics, settings.strict_readiness, lambda: drain.begun, count_vectors),
    )
    app = _Application(
        edge, title="imago", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None,
        description=f"Images in, compact answers out: {', '.join(TASKS)} with ONNX models.",
        # All in one list: `include_router` would hide which of them a path leads to from whoever has to decide by that.
        routes=guard([route for router in routers for route in router.routes]),
        redirect_slashes=False,  # to wherever a Host header says
    )  # fmt: skip
    for kind in (ServiceError, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, answer_refusal)
    app.state.registry = registry
    app.state.manages = manages
    app.state.drain = drain
    app.state.jobs = desk
    app.state.rpc = rpc = None if settings.grpc_port is None else _rpc_server(
        settings, registry, models, management, limits, app.edge,
        is_live=lambda: not metrics.pulse.faults(),
        is_ready=lambda: is_ready(registry, settings.strict_readiness, drain.begun),
    )  # fmt: skip
    app.state.fast_path = FastPath(endpoints, app.edge)
    return app
