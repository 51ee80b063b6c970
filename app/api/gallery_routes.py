"""Galleries over HTTP: named collections of embeddings, searched for the nearest to a picture's.

A gallery belongs to the key that made it; for others it does not exist, except for administrators. Pictures are turned
into embeddings and forgotten.
"""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from app.api.gallery_answers import GalleryAnswers
from app.api.gallery_calls import GalleryCalls, who_asks
from app.api.gallery_schemas import (
    OWNER,
    EntryInfo,
    GalleryDetail,
    GalleryInfo,
    GalleryList,
    GallerySettings,
    PutOptions,
    SearchAnswer,
    SearchOptions,
)
from app.api.refusals import RUNNING, refusals
from app.api.schemas import TIMEOUT, picture_body
from app.errors import (
    EmptyBody,
    GalleriesOff,
    GalleryConflict,
    GalleryFull,
    GalleryNotFound,
    InvalidOption,
    InvalidRequest,
    ModelNotFound,
    NotReady,
    Overloaded,
    WrongTask,
)
from app.galleries.records import ID
from app.manifest import NAME
from app.telemetry.families import Histogram

GalleryName = Annotated[str, Path(alias="gallery", pattern=f"^{NAME}$")]
Identity = Annotated[str, Path(alias="id", pattern=f"^{ID}$")]
Owner = Annotated[str | None, Query(description=OWNER)]

_ANY: Final = (GalleriesOff, GalleryNotFound, InvalidOption, Overloaded)
_EMBEDDING: Final = (*RUNNING, EmptyBody, WrongTask, GalleriesOff, GalleryNotFound, GalleryConflict, GalleryFull)


def gallery_routes(calls: GalleryCalls, max_pictures: int, seconds: Histogram) -> APIRouter:
    """The routes of galleries; searches are counted in `seconds`."""
    router = APIRouter(tags=["galleries"])
    answers = GalleryAnswers(calls, max_pictures, seconds)
    _add_galleries(router, calls, answers)
    _add_entries(router, calls, answers)
    return router


def _add_galleries(router: APIRouter, calls: GalleryCalls, answers: GalleryAnswers) -> None:

    @router.get("/galleries", summary="The galleries of this key", responses=refusals((GalleriesOff, Overloaded)))
    async def galleries(request: Request) -> GalleryList:
        who = who_asks(request)
        found = await calls.run(lambda galleries: galleries.listed(who))
        return GalleryList(galleries=[GalleryInfo.of(gallery) for gallery in found])

    @router.get("/galleries/{gallery}", summary="One gallery and its ids", responses=refusals(_ANY))
    async def gallery(
        request: Request, name: GalleryName, owner: Owner = None,
        after: Annotated[str, Query(description="Ids behind this one.")] = "",
        count: Annotated[int, Query(ge=1, le=1000, description="How many ids.")] = 100,
    ) -> GalleryDetail:  # fmt: skip
        who = who_asks(request)
        found, entries = await calls.run(lambda galleries: galleries.entries(who, name, owner, after, count))
        more = entries[-1].id if len(entries) == count else None
        told = [EntryInfo.of(entry) for entry in entries]
        return GalleryDetail(**GalleryInfo.of(found).model_dump(), entries=told, after=more)

    @router.put(
        "/galleries/{gallery}", summary="Make a gallery, or set its threshold",
        responses=refusals((*_ANY, InvalidRequest, GalleryConflict, GalleryFull, ModelNotFound, NotReady, WrongTask)),
        openapi_extra={"requestBody": {"content": {"application/json": {"example": {"threshold": 0.6}}}}},
    )  # fmt: skip
    async def configure(request: Request, name: GalleryName, settings: GallerySettings) -> GalleryInfo:
        return await answers.configure(request, name, settings)

    @router.delete("/galleries/{gallery}", summary="Delete a gallery", status_code=204, responses=refusals(_ANY))
    async def delete(request: Request, name: GalleryName, owner: Owner = None) -> Response:
        who = who_asks(request)
        await calls.run(lambda galleries: galleries.delete(who, name, owner))
        return Response(status_code=204)


def _add_entries(router: APIRouter, calls: GalleryCalls, answers: GalleryAnswers) -> None:
    @router.post(
        "/galleries/{gallery}/search", summary="The ids nearest to pictures", responses=refusals(_EMBEDDING),
        openapi_extra=_operation(SearchOptions),
    )  # fmt: skip
    async def search(request: Request, name: GalleryName) -> SearchAnswer:
        return await answers.search(request, name)

    @router.get("/galleries/{gallery}/{id}", summary="One id of a gallery", responses=refusals(_ANY))
    async def entry(request: Request, name: GalleryName, identity: Identity, owner: Owner = None) -> EntryInfo:
        who = who_asks(request)
        return EntryInfo.of(await calls.run(lambda galleries: galleries.entry(who, name, owner, identity)))

    @router.put(
        "/galleries/{gallery}/{id}", summary="Set the pictures of an id", responses=refusals(_EMBEDDING),
        openapi_extra=_operation(PutOptions),
    )  # fmt: skip
    async def put(request: Request, name: GalleryName, identity: Identity) -> EntryInfo:
        return await answers.put(request, name, identity)

    @router.delete(
        "/galleries/{gallery}/{id}", summary="Delete an id and its vectors", status_code=204, responses=refusals(_ANY)
    )
    async def delete_entry(request: Request, name: GalleryName, identity: Identity, owner: Owner = None) -> Response:
        who = who_asks(request)
        await calls.run(lambda galleries: galleries.delete_entry(who, name, owner, identity))
        return Response(status_code=204)


def _operation(options: type[BaseModel]) -> dict[str, Any]:
    """Parameters and body of an operation that takes pictures."""
    properties = options.model_json_schema()["properties"]
    query = [
        {"name": name, "in": "query", "required": False, "description": schema["description"], "schema": schema}
        for name, schema in properties.items()
    ]
    return {"parameters": [*query, TIMEOUT], "requestBody": picture_body(properties)}
