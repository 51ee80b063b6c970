"""Between the routes of galleries and what they need: threads for calls that block, and embeddings of pictures."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import numpy as np
from starlette.requests import Request

from app.api.calls import Call, Target, timeout_seconds
from app.api.middleware import Record, record_of
from app.api.task_routes import TaskEndpoint, unless_caller_leaves
from app.errors import GalleriesOff, InferenceFailed, ModelNotFound, Overloaded, ServiceError
from app.galleries import catalogue
from app.galleries.galleries import Galleries
from app.galleries.records import Gallery, Source, Vectors, Who
from app.manifest import GRAPH
from app.security.keys import ADMIN
from app.servable import Prediction, Servable
from app.tasks.embed import Embed

T = TypeVar("T")

_THREADS: Final = 4
_MOST: Final = 64
"""Calls under way or waiting for a thread; more are refused."""


class GalleryCalls:
    """Calls of the galleries of one process, if it has any."""

    def __init__(self, galleries: Galleries | None, embedder: TaskEndpoint) -> None:
        self._galleries = galleries
        self._embedder = embedder
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="imago-galleries")
        self._under_way = 0

    async def run(self, call: Callable[[Galleries], T]) -> T:
        """Make a call in a thread.

        Raises:
            GalleriesOff: there are none.
            Overloaded: too many calls wait already.
            ServiceError: whatever the call raises.
        """
        if self._galleries is None:
            raise GalleriesOff
        if self._under_way >= _MOST:
            raise Overloaded(retry_after=1.0)
        self._under_way += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, call, self._galleries)
        finally:
            self._under_way -= 1

    async def resume(self) -> None:
        """Finish what a process that was killed has begun to delete."""
        await self.run(lambda galleries: galleries.resume())

    async def total(self) -> int:
        """Vectors of all galleries; 0 where there are none."""
        return 0 if self._galleries is None else await self.run(lambda galleries: galleries.total())

    async def close(self) -> None:
        """End all calls and let go of the files."""
        if self._galleries is not None:
            await asyncio.to_thread(self._pool.shutdown)
            await asyncio.to_thread(self._galleries.close)

    def embedder(self, record: Record, gallery: Gallery | None, target: Target) -> Servable:
        """Who makes the embeddings of a gallery: the version that made those in it, or of a new one whom the caller
        names, or the task's default.

        Raises:
            GalleryConflict: that is not who is asked, or it is not loaded.
            ServiceError: as `TaskEndpoint.find`.
        """
        options = Embed.Options()
        if gallery is None:
            return self._embedder.find(Call(target.model, target.version, options), record)
        self.check_asked(record, gallery, target)
        kept = gallery.source
        try:
            return self._embedder.find(Call(kept.model, kept.version, options), record)
        except ModelNotFound:
            raise catalogue.conflict(gallery, "which is not loaded") from None

    def check_asked(self, record: Record, gallery: Gallery, target: Target) -> None:
        """Raises GalleryConflict where a caller names another model or version than that of a gallery, and
        ModelNotFound where it is a version's name that nobody gave."""
        kept, version = gallery.source, target.version
        model = target.model or kept.model
        if isinstance(version, str):
            version = self._embedder.find(Call(model, version, Embed.Options()), record).manifest.version
        catalogue.check_source(gallery, Source(model, version or kept.version, kept.digest))

    async def embed(
        self, request: Request, servable: Servable, pictures: Sequence[bytes | ServiceError]
    ) -> list[Vectors | ServiceError]:
        """A vector float [D] for each picture, or why there is none.

        Raises:
            ServiceError: none of them can be answered.
        """
        record = record_of(request.scope)
        record.task = Embed.kind
        longest = self._embedder.limits.timeout_seconds
        deadline = time.monotonic() + timeout_seconds(record.headers.get(b"x-request-timeout-ms"), longest)

        async def predict(picture: bytes | ServiceError) -> Prediction:
            if isinstance(picture, ServiceError):
                raise picture
            return await servable.predict(picture, Embed.Options(), deadline)

        async def predict_all() -> list[Prediction | BaseException]:
            return await asyncio.gather(*map(predict, pictures), return_exceptions=True)

        servable.hold()
        try:
            outcomes = await unless_caller_leaves(request.receive, predict_all())
        finally:
            servable.free()
        return [_vector(outcome, record) for outcome in outcomes]


def who_asks(request: Request) -> Who:
    """On whose behalf a request comes."""
    caller = record_of(request.scope).caller
    return Who("") if caller is None else Who(caller.key, ADMIN in caller.opens)


def source_of(servable: Servable) -> Source:
    """Whose embeddings a servable makes."""
    manifest = servable.manifest
    return Source(manifest.name, manifest.version, manifest.files[GRAPH].sha256)


def _vector(outcome: Prediction | BaseException, record: Record) -> Vectors | ServiceError:
    if isinstance(outcome, ServiceError):
        return outcome
    if isinstance(outcome, BaseException):
        raise outcome
    record.note(outcome)
    if not isinstance(outcome.answer, list):
        raise InferenceFailed
    vector = np.array(outcome.answer[0]["embedding"], np.float32)
    unit: Vectors = vector / np.linalg.norm(vector)
    return unit
