"""Answers of galleries for which a model is asked: pictures become embeddings, which are kept or looked for."""

import time
from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np
from pydantic import BaseModel
from starlette.requests import Request

from app.api.calls import query_values
from app.api.errors import problem
from app.api.gallery_calls import GalleryCalls, source_of, who_asks
from app.api.gallery_schemas import (
    EntryInfo,
    Found,
    GalleryInfo,
    GallerySettings,
    PutOptions,
    SearchAnswer,
    SearchOptions,
    read_asked,
)
from app.api.middleware import record_of
from app.api.schemas import ItemError, Problem
from app.api.uploads import Upload, read_upload
from app.errors import GalleryNotFound, ServiceError
from app.galleries.galleries import Galleries
from app.galleries.records import MAX_VECTORS_EACH, Gallery, Match, Vectors, Who
from app.telemetry.families import Histogram

OptionsT = TypeVar("OptionsT", bound=BaseModel)


class GalleryAnswers:
    """Takes pictures in, and has them kept or looked for."""

    def __init__(self, calls: GalleryCalls, max_pictures: int, seconds: Histogram) -> None:
        self._calls = calls
        self._max_pictures = max_pictures
        self._seconds = seconds

    async def configure(self, request: Request, name: str, settings: GallerySettings) -> GalleryInfo:
        """Make a gallery, or set its threshold. Raises `ServiceError`, as all of these do."""
        who, owner, threshold = who_asks(request), settings.owner, settings.threshold
        kept = await self._kept(who, name, owner)
        source = None
        if kept is None:
            source = source_of(self._calls.embedder(record_of(request.scope), None, settings))
        else:
            self._calls.check_asked(record_of(request.scope), kept, settings)
        set_up = await self._calls.run(lambda galleries: galleries.configure(who, name, owner, source, threshold))
        return GalleryInfo.of(set_up)

    async def put(self, request: Request, name: str, identity: str) -> EntryInfo:
        """Set the pictures of an id: all of them, or none."""
        upload = await _upload(request, min(self._max_pictures, MAX_VECTORS_EACH))
        options = _options(PutOptions, request, upload)
        who, owner, metadata = who_asks(request), options.owner, options.metadata
        kept = await self._kept(who, name, owner)
        servable = self._calls.embedder(record_of(request.scope), kept, options)
        vectors = np.stack([_sound(one) for one in await self._calls.embed(request, servable, upload.pictures)])
        source = source_of(servable)

        def keep(galleries: Galleries) -> EntryInfo:
            return EntryInfo.of(galleries.put(who, name, owner, source, identity, vectors, metadata))

        return await self._calls.run(keep)

    async def search(self, request: Request, name: str) -> SearchAnswer:
        """Look for the nearest of each picture; of several, one that cannot be answered has its error in its place."""
        upload = await _upload(request, self._max_pictures)
        options = _options(SearchOptions, request, upload)
        who, owner, count = who_asks(request), options.owner, options.count
        kept = await self._calls.run(lambda galleries: galleries.gallery(who, name, owner))
        servable = self._calls.embedder(record_of(request.scope), kept, options)
        embedded = await self._calls.embed(request, servable, upload.pictures)
        if len(embedded) == 1:
            _sound(embedded[0])
        vectors = np.array([one for one in embedded if not isinstance(one, ServiceError)], np.float32)
        source, begun = source_of(servable), time.perf_counter()

        def find(galleries: Galleries) -> tuple[Gallery, list[list[Match]]]:
            return galleries.search(who, name, owner, source, vectors, count)

        gallery, matches = await self._calls.run(find)
        self._seconds.observe(time.perf_counter() - begun)
        threshold = gallery.threshold if options.threshold is None else options.threshold
        results = _results(embedded, matches, threshold, record_of(request.scope).id)
        return SearchAnswer(
            gallery=name, model=source.model, version=source.version, threshold=threshold, results=results
        )

    async def _kept(self, who: Who, name: str, owner: str | None) -> Gallery | None:
        """The gallery, if it is there."""
        try:
            return await self._calls.run(lambda galleries: galleries.gallery(who, name, owner))
        except GalleryNotFound:
            return None


async def _upload(request: Request, most: int) -> Upload:
    content_type = record_of(request.scope).headers.get(b"content-type", b"")
    return await read_upload(request.receive, content_type, most)


def _options(wanted: type[OptionsT], request: Request, upload: Upload) -> OptionsT:
    """Options of the query and of the body, which win."""
    return read_asked(wanted, {**query_values(request.scope["query_string"]), **upload.options})


def _sound(embedded: Vectors | ServiceError) -> Vectors:
    if isinstance(embedded, ServiceError):
        raise embedded
    return embedded


def _results(
    embedded: Sequence[Vectors | ServiceError], matches: Iterable[list[Match]], threshold: float | None, request_id: str
) -> list[Found | ItemError]:
    """What was found for each picture, or its error in its place."""
    found = iter(matches)
    return [
        ItemError(error=Problem(**problem(one, request_id)))
        if isinstance(one, ServiceError)
        else Found.of(next(found), threshold)
        for one in embedded
    ]
