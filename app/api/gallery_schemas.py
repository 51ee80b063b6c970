"""What goes into the routes of galleries and comes out of them."""

from collections.abc import Iterable
from typing import Annotated, Any, Final, TypeVar

import orjson
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from app.api.calls import Target
from app.api.schemas import ItemError
from app.errors import InvalidOption
from app.galleries.records import MAX_METADATA_BYTES, Entry, Gallery, Match
from app.manifest import explain

OptionsT = TypeVar("OptionsT", bound=BaseModel)

_MAX_DEPTH: Final = 100

OWNER: Final = (
    "Id of the key that made the gallery, for administrators; without it their own, or the only one so named."
)


def _parsed(value: object) -> object:
    """In queries and forms it is text."""
    if not isinstance(value, str):
        return value
    try:
        return orjson.loads(value)
    except ValueError:
        raise ValueError("write a JSON object") from None


def _shallow(value: dict[str, Any]) -> dict[str, Any]:
    """Within an answer it stands a few levels deeper, and writers of JSON end at some 250."""
    level: list[Any] = [value]
    for _ in range(_MAX_DEPTH + 1):
        level = [part for one in level for part in _parts(one)]
    if level:
        raise ValueError(f"at most {_MAX_DEPTH} objects and lists stand one within another")
    return value


def _parts(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _small(value: dict[str, Any]) -> dict[str, Any]:
    if len(orjson.dumps(value)) > MAX_METADATA_BYTES:
        raise ValueError(f"at most {MAX_METADATA_BYTES} bytes of JSON are kept")
    return value


Metadata = Annotated[dict[str, Any], BeforeValidator(_parsed), AfterValidator(_shallow), AfterValidator(_small)]


class _Asked(Target):
    """Which gallery is meant, beside its name, and by which model."""

    model_config = ConfigDict(extra="forbid")

    owner: str | None = Field(None, description=OWNER)


class GallerySettings(_Asked):
    """What can be set of a gallery; a new one holds embeddings of this model, by default the task's."""

    threshold: float | None = Field(
        None, ge=-1, le=1, description="From which score on somebody is known, where a search does not say."
    )


class PutOptions(_Asked):
    """Options of a `PUT` of pictures."""

    metadata: Metadata = Field(
        {}, description=f"A JSON object of at most {MAX_METADATA_BYTES} bytes, kept with the id."
    )


class SearchOptions(_Asked):
    """Options of a search."""

    count: int = Field(5, ge=1, le=100, description="How many ids to answer, nearest first.")
    threshold: float | None = Field(
        None, ge=-1, le=1, description="From which score on the nearest is known; without it the gallery's."
    )


class GalleryInfo(BaseModel):
    """One gallery."""

    name: str
    owner: str = Field(description="Id of the key that made it; empty where nobody was asked for one.")
    model: str = Field(description="Whose embeddings it holds, in this version.")
    version: int
    threshold: float | None
    ids: int
    vectors: int
    indexed: int = Field(description="Vectors that are found by an index; the others are compared one by one.")
    created: float = Field(description="Seconds since 1970 (UTC), as all times here.")

    @classmethod
    def of(cls, gallery: Gallery) -> "GalleryInfo":
        """What is told of a gallery."""
        return cls(
            name=gallery.name, owner=gallery.owner, model=gallery.source.model, version=gallery.source.version,
            threshold=gallery.threshold, ids=gallery.entries, vectors=gallery.vectors,
            indexed=gallery.vectors - gallery.recent, created=gallery.created,
        )  # fmt: skip


class GalleryList(BaseModel):
    """All galleries of a key; of all keys for an administrator."""

    galleries: list[GalleryInfo]


class EntryInfo(BaseModel):
    """One id."""

    id: str
    vectors: int
    metadata: dict[str, Any]
    created: float
    changed: float

    @classmethod
    def of(cls, entry: Entry) -> "EntryInfo":
        """What is told of an id."""
        return cls(**vars(entry))


class GalleryDetail(GalleryInfo):
    """One gallery and some of its ids."""

    entries: list[EntryInfo]
    after: str | None = Field(description="The last of these ids where there may be more: ask again with `?after=`.")


class MatchInfo(BaseModel):
    """One id, and how near it is."""

    id: str
    score: float = Field(description="Cosine similarity with the nearest of its vectors, -1 to 1.")
    metadata: dict[str, Any]


class Found(BaseModel):
    """What was found for one picture."""

    known: bool | None = Field(description="Whether the nearest reaches the threshold; null where there is none.")
    matches: list[MatchInfo]

    @classmethod
    def of(cls, matches: list[Match], threshold: float | None) -> "Found":
        """What is told of a search."""
        known = None if threshold is None else bool(matches) and matches[0].score >= threshold
        return cls(known=known, matches=[MatchInfo(**vars(match)) for match in matches])


class SearchAnswer(BaseModel):
    """Answer of a search; results are in the order of the pictures sent."""

    gallery: str
    model: str
    version: int
    threshold: float | None
    results: list[Found | ItemError]


def read_asked(wanted: type[OptionsT], values: dict[str, Any]) -> OptionsT:
    """Options by their names. Raises `InvalidOption`."""
    try:
        return wanted.model_validate(values)
    except ValidationError as error:
        raise InvalidOption(explain(error, wanted)) from None
