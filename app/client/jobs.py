"""Background jobs, from the client's end: leave many pictures, ask how far they are, fetch what became of them."""

import os
import zipfile
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import httpx
from pydantic import BaseModel

from app.client.wire import Choices, Sends, path_of, query_of, read


class JobError(BaseModel):
    """Why a job ended before its end."""

    code: str
    detail: str


class Job(BaseModel):
    """One job, and how far it is."""

    id: str
    state: str
    """`waiting`, `running`, `done` or `failed`."""
    task: str
    model: str
    version: int | str | None
    pictures: int
    answered: int
    failed: int
    created: datetime
    expires: datetime | None
    error: JobError | None

    @property
    def has_ended(self) -> bool:
        """Whether its results are there."""
        return self.state in ("done", "failed")


class _List(BaseModel):
    jobs: list[Job]


class AsyncJobs:
    """The jobs of one service: `AsyncClient.jobs`. All methods raise `ServiceProblem` as `AsyncClient.ask`."""

    def __init__(self, http: httpx.AsyncClient, send: Sends) -> None:
        self._http = http
        self._send = send

    async def submit(self, task: str, *files: os.PathLike[str], **chosen: Unpack[Choices]) -> Job:
        """Leave files to be answered: pictures, each under the path given, or one zip of them.

        Raises:
            OSError: a file cannot be read.
        """
        asked = {"model": chosen.get("model"), "version": chosen.get("version"), **chosen.get("options", {})}
        build = partial(self._request, "POST", "", params=query_of({"task": task, **asked}), **_body(files))
        return read(Job, await self._send(build, chosen.get("timeout"), repeatable=False))

    async def list(self) -> list[Job]:
        """The caller's jobs, the newest first."""
        return read(_List, await self._send(partial(self._request, "GET", ""))).jobs

    async def status(self, job: str) -> Job:
        """One job, by its id."""
        return read(Job, await self._send(partial(self._request, "GET", path_of(job))))

    async def results(self, job: str) -> bytes:
        """The results of a job that has ended: a line of JSON for each picture, as of `imago batch`."""
        return (await self._send(partial(self._request, "GET", path_of(job, "results")))).content

    async def cancel(self, job: str) -> None:
        """Stop a job, and remove it with its results."""
        await self._send(partial(self._request, "DELETE", path_of(job)))

    def _request(self, method: str, tail: str, _: int, **rest: Any) -> httpx.Request:
        return self._http.build_request(method, f"/jobs{tail}", timeout=None, **rest)


def _body(files: Sequence[os.PathLike[str]]) -> dict[str, Any]:
    if len(files) == 1 and zipfile.is_zipfile(files[0]):
        return {"content": Path(files[0]).read_bytes(), "headers": {"Content-Type": "application/zip"}}
    parts = [(_name(Path(file)), Path(file).read_bytes()) for file in files]
    return {"files": [("file", (name, data, "application/octet-stream")) for name, data in parts]}


def _name(path: Path) -> str:
    """What a file is called in the results: its path as it was given, which may not lead out of a folder there."""
    return "/".join(part for part in path.parts if part not in ("..", path.anchor))
