"""Background jobs over HTTP: `POST /jobs` takes pictures in, the others tell how far they are, and give results.

Every process answers about every job; which one runs it is left to `app.jobs`. A caller with a key sees the jobs of
that key, an administrator all of them.
"""

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.types import Receive, Scope, Send

from app.api.access import check_sees
from app.api.calls import call_of, query_values
from app.api.job_uploads import receive_pictures
from app.api.middleware import Record, record_of
from app.api.refusals import refusals
from app.api.schemas import job_operation
from app.api.task_routes import elsewhere
from app.api.uploads import MULTIPART, media_type
from app.errors import (
    EmptyBody,
    InvalidOption,
    InvalidRequest,
    JobNotFound,
    JobsOff,
    JobTooLarge,
    JobUnfinished,
    ModelNotFound,
    NotReady,
    ServiceError,
    TooManyJobs,
    WrongTask,
)
from app.jobs.job import ENDED, BackgroundJob
from app.jobs.store import PICTURES, RESULTS, JobStore
from app.manifest import nearest
from app.repository.registry import Registry
from app.security.keys import ADMIN
from app.tasks import TASKS
from app.tasks.base import PictureTask
from app.telemetry.metrics import JobMetrics

logger = logging.getLogger("imago.jobs")

PATH: Final = "/jobs"
JSONL: Final = "application/jsonl"
_TASKS: Final = {kind: task for kind, task in TASKS.items() if issubclass(task, PictureTask)}
_REFUSALS: Final = (
    JobsOff, InvalidRequest, EmptyBody, InvalidOption, ModelNotFound, WrongTask, NotReady, TooManyJobs, JobTooLarge,
)  # fmt: skip
_OF_ONE: Final = (JobNotFound, InvalidOption)


class JobError(BaseModel):
    """Why a job ended before its end."""

    code: str
    detail: str


class JobStatus(BaseModel):
    """One job, and how far it is."""

    id: str
    state: Literal["waiting", "running", "done", "failed"]
    task: str
    model: str
    version: int | str | None = Field(
        description="The version asked for, by its number or a name; without one each picture has what answers then."
    )
    options: dict[str, Any]
    pictures: int
    answered: int = Field(description="Pictures that have a result.")
    failed: int = Field(description="Pictures that have an error.")
    created: datetime
    started: datetime | None
    ended: datetime | None
    expires: datetime | None = Field(description="When it is removed, once it has ended.")
    results: str | None = Field(description="Path of the results, once it has ended.")
    error: JobError | None = Field(description="Why it failed; what was answered by then is in the results.")


class JobList(BaseModel):
    """Jobs, the newest first."""

    jobs: list[JobStatus]


@dataclass(frozen=True)
class JobDesk:
    """What the routes need where jobs are taken in."""

    store: JobStore
    metrics: JobMetrics
    wake: Callable[[], None]
    """Tells that there is a job more, or one less."""


def job_routes(desk: JobDesk | None) -> APIRouter:
    """The routes of jobs; without a desk they say that jobs are switched off."""
    router = APIRouter(tags=["jobs"], prefix=PATH, responses=refusals((JobsOff,)))

    def store() -> JobStore:
        if desk is None:
            raise JobsOff
        return desk.store

    async def find(identity: str, record: Record) -> BackgroundJob:
        job = await asyncio.to_thread(store().find, identity)
        if not _is_seen(job, record):
            raise JobNotFound
        return job

    router.add_api_route(
        "", elsewhere, methods=["POST"], status_code=202, response_model=JobStatus, responses=refusals(_REFUSALS),
        summary="Leave many pictures here to be answered in time", openapi_extra=job_operation(_TASKS),
    )  # fmt: skip

    @router.get("", summary="Your jobs, the newest first")
    async def jobs(request: Request) -> JobList:
        record = record_of(request.scope)
        found = await asyncio.to_thread(store().all)
        return JobList(jobs=[status_of_job(job, store()) for job in found if _is_seen(job, record)])

    @router.get("/{job}", summary="One job, and how far it is", responses=refusals(_OF_ONE))
    async def one(job: str, request: Request) -> JobStatus:
        return status_of_job(await find(job, record_of(request.scope)), store())

    @router.get(
        "/{job}/results", summary="A line of JSON for each picture, in the order of their names",
        response_class=FileResponse,
        responses={**refusals((*_OF_ONE, JobUnfinished)), 200: {"content": {JSONL: {"schema": {"type": "string"}}}}},
    )  # fmt: skip
    async def results(job: str, request: Request) -> Response:
        found = await find(job, record_of(request.scope))
        if found.state not in ENDED:
            raise JobUnfinished(found.answered + found.failed, found.pictures)
        return FileResponse(store().path(found, RESULTS), media_type=JSONL)

    @router.delete(
        "/{job}", status_code=204, summary="Stop a job, and remove it with its results",
        responses=refusals(_OF_ONE),
    )  # fmt: skip
    async def remove(job: str, request: Request) -> None:
        await asyncio.to_thread(store().remove, await find(job, record_of(request.scope)))

    return router


class JobsEndpoint:
    """The ASGI application of `POST /jobs`: the body goes to the disk as it comes."""

    encodings: Collection[bytes] = ()

    def __init__(self, desk: JobDesk | None, registry: Registry) -> None:
        self._desk = desk
        self._registry = registry
        self.max_body_bytes = None if desk is None else desk.store.bounds.bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one POST.

        Raises:
            ServiceError: jobs are switched off, there is no room, or the pictures or what is asked about them refuse.
        """
        if self._desk is None:
            raise JobsOff
        record = record_of(scope)
        form = media_type(record.headers.get(b"content-type", b"")) == MULTIPART
        job = self._asked(scope["query_string"], {}, record, undecided=form)
        length = record.headers.get(b"content-length", b"")
        announced = int(length) if length.isdigit() else self._desk.store.bounds.bytes
        job = replace(job, bytes=announced)
        await asyncio.to_thread(self._desk.store.admit, job)
        try:
            status = await self._receive(self._desk, job, scope, receive, record)
        except BaseException as error:
            await asyncio.shield(asyncio.to_thread(self._desk.store.remove, job))
            if isinstance(error, OSError):
                logger.error("a job could not be kept: %s", error)
                raise TooManyJobs from error
            raise
        self._desk.metrics.accepted.inc()
        self._desk.wake()
        headers = {"location": f"{PATH}/{job.id}"}
        await Response(status.model_dump_json(), 202, headers, "application/json")(scope, receive, send)

    async def _receive(
        self, desk: JobDesk, job: BackgroundJob, scope: Scope, receive: Receive, record: Record
    ) -> JobStatus:
        path = desk.store.path(job, PICTURES)
        content_type = record.headers.get(b"content-type", b"")
        pictures, every, fields = await receive_pictures(scope, receive, content_type, path, desk.store.bounds)
        if fields or not job.model:
            job = replace(self._asked(scope["query_string"], fields, record), id=job.id, created=job.created)
        await asyncio.to_thread(desk.store.arrived, job, pictures, every)
        return status_of_job(await asyncio.to_thread(desk.store.find, job.id), desk.store)

    def _asked(self, query: bytes, fields: Mapping[str, str], record: Record, undecided: bool = False) -> BackgroundJob:
        """The job that a request asks for; its model is named from here on, so that a default may change. While it is
        `undecided` a form may still name one: then it may have none."""
        values = query_values(query)
        kind = values.pop("task", "")
        if not kind:
            raise InvalidOption("task: name one in the query, such as /jobs?task=classify.")
        if kind not in _TASKS:
            raise InvalidOption(f"task: {kind[:64]!r} is none of pictures{nearest(kind[:64], _TASKS)}")
        call = call_of(kind, {**values, **fields})
        name = call.model
        if name is None and call.options.variant:
            name = self._registry.able(kind, call.options.variant)
        try:
            check_sees(record, self._registry, kind, name, call.version)
            model = self._registry.get(kind, name, call.version).manifest.name
        except ServiceError:
            if not undecided or call.model is not None:
                raise
            model = ""
        options = call.options.model_dump_json(by_alias=True, exclude_unset=True)
        owner = None if record.caller is None else record.caller.key
        return BackgroundJob(secrets.token_hex(16), owner, kind, model, call.version, options, created=time.time())


def status_of_job(job: BackgroundJob, store: JobStore) -> JobStatus:
    """What is told of a job."""
    has_ended = job.ended is not None
    return JobStatus(
        id=job.id, state=job.state, task=job.task, model=job.model, version=job.version,
        options=json.loads(job.options), pictures=job.pictures, answered=job.answered, failed=job.failed,
        created=_date(job.created), started=_date(job.started), ended=_date(job.ended),
        expires=_date(job.ended + store.bounds.keep_seconds) if job.ended is not None else None,
        results=f"{PATH}/{job.id}/results" if has_ended else None,
        error=JobError(code=job.error, detail=job.detail or "") if job.error is not None else None,
    )  # fmt: skip


def _date(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _is_seen(job: BackgroundJob, record: Record) -> bool:
    """Whether a job exists for whoever asks."""
    caller = record.caller
    return caller is None or ADMIN in caller.opens or job.owner == caller.key
