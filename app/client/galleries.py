"""Galleries, from the client's end: ids get pictures, and a search names the ids whose pictures are nearest."""

from dataclasses import replace
from functools import partial
from typing import Any, Unpack

import httpx
import orjson
from pydantic import AwareDatetime, BaseModel

from app.client.wire import Answer, Choices, JsonObject, Picture, Sends, answer_of, call_of, path_of, query_of, read


class Gallery(BaseModel):
    """One gallery, and what it holds."""

    name: str
    owner: str
    """Id of the key that made it; empty where nobody was asked for one."""
    model: str
    """Whose embeddings it holds, in this version."""
    version: int
    threshold: float | None
    """From which score on the nearest is known."""
    ids: int
    vectors: int
    created: AwareDatetime


class GalleryEntry(BaseModel):
    """One id of a gallery."""

    id: str
    vectors: int
    metadata: JsonObject
    created: AwareDatetime
    changed: AwareDatetime


class GalleryMatch(BaseModel):
    """One id, and how near it is."""

    id: str
    score: float
    """Cosine similarity with the nearest of its vectors, -1 to 1."""
    metadata: JsonObject


class GalleryFind(BaseModel):
    """What a search found for one picture."""

    known: bool | None
    """Whether the nearest reaches the threshold; None where there is none."""
    matches: list[GalleryMatch]


class _Galleries(BaseModel):
    galleries: list[Gallery]


class _Entries(BaseModel):
    entries: tuple[GalleryEntry, ...]


class AsyncGalleries:
    """The galleries of one service: `AsyncClient.galleries`. All methods raise `ServiceProblem` as `AsyncClient.ask`.

    `owner` is for administrators: the id of the key whose gallery is meant. It is one of the `options` where there are
    `Choices`.
    """

    def __init__(self, http: httpx.AsyncClient, send: Sends) -> None:
        self._http = http
        self._send = send

    async def list(self) -> list[Gallery]:
        """The caller's galleries; everybody's for an administrator."""
        return read(_Galleries, await self._ask("GET")).galleries

    async def configure(
        self, gallery: str, threshold: float | None = None, model: str | None = None, owner: str | None = None
    ) -> Gallery:
        """Set the threshold of a gallery, None for none; it is made, for a model's embeddings, if it is not there."""
        body = {"threshold": threshold, "model": model, "owner": owner}
        return read(Gallery, await self._ask("PUT", gallery, json=body))

    async def delete(self, gallery: str, owner: str | None = None) -> None:
        """Delete a gallery with all that is in it."""
        await self._ask("DELETE", gallery, params=query_of({"owner": owner}))

    async def entries(
        self, gallery: str, after: str = "", count: int = 100, owner: str | None = None
    ) -> tuple[GalleryEntry, ...]:
        """At most `count` ids in their order, from the one behind `after` on; fewer are the last ones."""
        query = query_of({"after": after, "count": count, "owner": owner})
        return read(_Entries, await self._ask("GET", gallery, params=query)).entries

    async def entry(self, gallery: str, identity: str, owner: str | None = None) -> GalleryEntry:
        """One id."""
        query = query_of({"owner": owner})
        return read(GalleryEntry, await self._ask("GET", gallery, identity, params=query))

    async def put(
        self,
        gallery: str,
        identity: str,
        *pictures: Picture,
        metadata: JsonObject | None = None,
        **chosen: Unpack[Choices],
    ) -> GalleryEntry:
        """Set the pictures and the metadata of an id, in place of those that it had.

        Raises:
            OSError: a file cannot be read.
        """
        fields = {} if metadata is None else {"metadata": orjson.dumps(metadata).decode()}
        call = replace(call_of(path_of("galleries", gallery, identity), pictures, chosen), method="PUT", fields=fields)
        build = partial(call.request, self._http)
        return read(GalleryEntry, await self._send(build, chosen.get("timeout")))

    async def remove(self, gallery: str, identity: str, owner: str | None = None) -> None:
        """Delete an id and its vectors."""
        await self._ask("DELETE", gallery, identity, params=query_of({"owner": owner}))

    async def search(self, gallery: str, *pictures: Picture, **chosen: Unpack[Choices]) -> Answer[GalleryFind]:
        """The ids nearest to each picture; options are `count` and `threshold`.

        Raises:
            OSError: a file cannot be read.
        """
        call = call_of(path_of("galleries", gallery, "search"), pictures, chosen)
        response = await self._send(partial(call.request, self._http), chosen.get("timeout"))
        return answer_of(response, GalleryFind, len(pictures))

    async def _ask(self, method: str, *parts: str, **rest: Any) -> httpx.Response:
        def build(_: int) -> httpx.Request:
            return self._http.build_request(method, path_of("galleries", *parts), timeout=None, **rest)

        return await self._send(build)
