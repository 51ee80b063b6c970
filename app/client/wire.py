"""From a question to an HTTP request, and from its answer to typed results; sends nothing."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypedDict, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from app.client.problems import Problem, ServiceProblem

Picture = bytes | os.PathLike[str]
"""The bytes of a picture file, or where it lies."""
JsonObject = dict[str, Any]

ResultT = TypeVar("ResultT")
ShapeT = TypeVar("ShapeT", bound=BaseModel, covariant=True)
ReadT = TypeVar("ReadT", bound=BaseModel)
Build = Callable[[int], httpx.Request]
"""Makes a request that may take so many milliseconds."""


class Sends(Protocol):
    """As `AsyncClient.send`."""

    async def __call__(self, build: Build, within: float | None = None, repeatable: bool = True) -> httpx.Response:
        """Send a request, and return the answer that is a success."""


class Question(Protocol[ShapeT]):
    """What may be asked: any class of `app.tasks`, such as `Classify`."""

    @property
    def kind(self) -> str:
        """The path of its route."""

    @property
    def Answer(self) -> type[ShapeT]:  # noqa: N802 - the name that tasks give it
        """The shape of one result."""


class Choices(TypedDict, total=False):
    """What a call may choose besides its pictures.

    Attributes:
        model: who is to answer; without it the task's default.
        version: its version, by number or by a name that its operator gave it.
        options: the task's, by their names in the documentation.
        timeout: seconds that all of the call may take.
    """

    model: str | None
    version: int | str | None
    options: Mapping[str, object]
    timeout: float | None


@dataclass(frozen=True)
class Answer(Generic[ResultT]):
    """What a model said: results in the order of the pictures; one that could not be answered has its problem there."""

    model: str
    version: int
    results: tuple[ResultT | ServiceProblem, ...]
    request_id: str

    @property
    def result(self) -> ResultT:
        """The first result: the only one of one picture. Raises `ServiceProblem` where that failed."""
        if isinstance(self.results[0], ServiceProblem):
            raise self.results[0]
        return self.results[0]


@dataclass(frozen=True)
class Call:
    """A call with pictures, ready to be sent as often as needed."""

    path: str
    query: Mapping[str, str]
    pictures: tuple[bytes, ...]
    accept: str = "application/json"
    method: str = "POST"
    fields: Mapping[str, str] = field(default_factory=dict)
    """Options that may be too long for the query."""

    def request(self, client: httpx.AsyncClient, milliseconds: int) -> httpx.Request:
        """One picture travels as it is, several as parts (RFC 7578): base64 would be a third longer."""
        headers = {"Accept": self.accept, "X-Request-Timeout-Ms": str(milliseconds)}
        body: dict[str, Any] = {"content": self.pictures[0] if self.pictures else b""}
        if len(self.pictures) > 1 or (self.pictures and self.fields):
            parts = [("file", ("picture", data, "application/octet-stream")) for data in self.pictures]
            body = {"files": parts, "data": self.fields}
        return client.build_request(self.method, self.path, params=self.query, headers=headers, timeout=None, **body)


def call_of(path: str, pictures: tuple[Picture, ...], chosen: Choices) -> Call:
    """The call of a task, or of a gallery. What is None is left to the service.

    Raises:
        OSError: a file cannot be read.
    """
    data = tuple(picture if isinstance(picture, bytes) else Path(picture).read_bytes() for picture in pictures)
    query = query_of({"model": chosen.get("model"), "version": chosen.get("version"), **chosen.get("options", {})})
    return Call(path, query, data)


def path_of(*parts: str) -> str:
    """A path of parts, each of which stays one whatever it holds (RFC 3986, section 3.3): `a#b`, `..` and `x/y` are not
    taken for another's path."""
    return "".join(f"/{quote(part, safe='') if part.strip('.') else '%2E' * len(part)}" for part in parts)


def query_of(given: Mapping[str, object]) -> dict[str, str]:
    """What stands in the query string; what is None is left out."""
    return {name: _text(value) for name, value in given.items() if value is not None}


class _Envelope(BaseModel):
    model: str
    version: int
    results: list[JsonObject]


def answer_of(response: httpx.Response, shape: type[Any], pictures: int) -> Answer[Any]:
    """The answer of a task with each result in its shape, one for each picture.

    Raises:
        ServiceProblem: `unexpected-answer`, the body is not what a task answers.
    """
    request_id = response.headers.get("x-request-id", "")
    try:
        found = _Envelope.model_validate_json(response.content)
        if pictures and len(found.results) != pictures:
            said = f"The answer has {len(found.results)} results for {pictures} pictures."
            raise ServiceProblem("unexpected-answer", said, response.status_code, request_id)
        reader = TypeAdapter(shape)
        results = tuple(_result(item, reader, request_id) for item in found.results)
    except ValidationError as error:
        said = f"The answer is not what a task of imago answers: {error.errors()[0]['msg']}"
        raise ServiceProblem("unexpected-answer", said, response.status_code, request_id) from error
    return Answer(found.model, found.version, results, request_id)


def read(shape: type[ReadT], response: httpx.Response) -> ReadT:
    """An answer in its shape. Raises `ServiceProblem` where it has another."""
    try:
        return shape.model_validate_json(response.content)
    except ValidationError as error:
        said = f"The answer is not what imago answers there: {error.errors()[0]['msg']}"
        raise ServiceProblem("unexpected-answer", said, response.status_code) from error


def _result(item: JsonObject, reader: TypeAdapter[Any], request_id: str) -> Any:
    if item.keys() == {"error"}:
        return Problem.model_validate(item["error"]).error(request_id)
    return reader.validate_python(item)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
