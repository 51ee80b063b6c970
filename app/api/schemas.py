"""What the OpenAPI document says of the routes: bodies, options, answers, problems (OpenAPI 3.1)."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from pydantic import BaseModel, Field, create_model

from app.api.calls import Target
from app.serving import Canary, Shadow
from app.tasks import Task
from app.tasks.base import PictureTask

BINARY: Final = {"schema": {"type": "string", "format": "binary", "contentMediaType": "application/octet-stream"}}
"""Bytes in the words of OpenAPI 3.1, and in those of 3.0 that generators of clients understand."""
PIXEL: Final = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
"""A picture of one pixel, for examples."""


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str = Field(description="Stable; the README lists all codes.")


class ProtocolProblem(Problem):
    """An error under `/v2`: the problem, and what clients of the protocol read."""

    error: str


class ItemError(BaseModel):
    """One picture among several that could not be answered, in its place."""

    error: Problem


class VersionState(BaseModel):
    """How one version is."""

    version: int = Field(description="0 where the model's `serving.toml` is broken.")
    state: str = Field(description="`loading`, `ready`, `failed`, `unloading` or `unloaded`.")
    reason: str | None = Field(description="Why it failed; or why a version that is ready was not replaced as asked.")


class ModelSummary(BaseModel):
    """One model, by its newest version."""

    name: str
    version: int | None = Field(description="Version that answers; null where the model's configuration is broken.")
    versions: list[int] = Field(description="Complete versions on disk.")
    loaded: list[int] = Field(description="Versions that can be asked for by number.")
    aliases: dict[str, int] = Field(description="Names that its operator gave to versions.")
    task: str | None
    state: str = Field(description="`loading`, `ready`, `failed`, `unloading` or `unloaded`.")
    reason: str | None = Field(description="Why it failed; or why it was not replaced as asked.")
    states: list[VersionState] = Field(description="Every version that was to be loaded, newest first.")
    description: str | None


class ModelList(BaseModel):
    """All models."""

    models: list[ModelSummary]


class ModelDetail(ModelSummary):
    """One version of one model."""

    canary: Canary | None = Field(description="The version that answers a share of requests that name none.")
    shadow: Shadow | None = Field(description="The version that is compared with the stable one.")
    labels: list[str]
    inputs: list[str]
    outputs: list[str]
    device: str | None
    in_each_process: bool | None = Field(description="Whether every process that answers runs it, on its event loop.")
    max_batch_size: int | None = Field(description="Most rows in one run.")
    batch_milliseconds: dict[str, float] = Field(description="What a batch of each size took at warm-up.")
    manifest: dict[str, Any] | None = Field(description="What training recorded: data, metrics, parity, digests.")
    card: str | None = Field(description="The model card, Markdown.")


class TaskSummary(BaseModel):
    """One task."""

    task: str
    path: str
    summary: str
    takes_picture: bool = Field(description="Whether the body is a picture; otherwise it is options alone.")
    answers: list[str] = Field(description="Media types of the answer, for `Accept`.")
    default_model: str | None
    models: list[str]
    options: dict[str, Any] = Field(description="JSON Schema of the options.")


class TaskList(BaseModel):
    """All tasks."""

    tasks: list[TaskSummary]


class Liveness(BaseModel):
    """Whether every process turns, and what is stuck."""

    status: str = Field(description="`alive` or `stuck`.")
    faults: list[str] = Field(description="What is wrong beyond repair, in sentences.")


class Readiness(BaseModel):
    """Whether requests are answered, and what is broken."""

    ready: bool
    draining: bool = Field(description="The service is stopping.")
    settled: bool = Field(description="Every chosen model was tried.")
    loading: list[str]
    failed: dict[str, str] = Field(description="Reasons by `model/version`.")


@lru_cache
def answer_model(task: type[Task[Any]]) -> type[BaseModel]:
    """The shape of a whole JSON answer of a task."""
    return create_model(
        f"{task.kind.capitalize()}Answer",
        __doc__=f"Answer of `/{task.kind}`; results are in the order of the pictures sent.",
        model=(str, ...),
        version=(int, ...),
        results=(list[task.Answer | ItemError], ...),  # type: ignore[name-defined]
    )


def task_operation(task: type[Task[Any]]) -> dict[str, Any]:
    """Parameters, body and picture answer of a task's operation."""
    options = task.Options.model_json_schema()["properties"]
    named = {**Target.model_json_schema()["properties"], **options}
    query = [
        {"name": name, "in": "query", "required": False, "description": schema["description"], "schema": schema}
        for name, schema in named.items()
    ]
    return {
        "parameters": [*query, TIMEOUT],
        "requestBody": picture_body(options) if issubclass(task, PictureTask) else _options_body(task),
        "responses": {"200": {"content": {f"image/{form}": BINARY for form in task.Options().forms}}},
    }


def job_operation(tasks: Mapping[str, type[Task[Any]]]) -> dict[str, Any]:
    """Parameters and body of the operation that takes a background job in."""
    target = Target.model_json_schema()["properties"]
    options: dict[str, Any] = {}
    for kind, task in tasks.items():
        for name, schema in task.Options.model_json_schema()["properties"].items():
            known = options.setdefault(name, {"description": f"Of `{kind}`: {schema['description']}", "schema": {}})
            known["schema"].setdefault("anyOf", []).append({k: v for k, v in schema.items() if k != "description"})
    named = {
        "task": {"required": True, "description": "The task.", "schema": {"type": "string", "enum": list(tasks)}},
        **{name: {"description": schema["description"], "schema": schema} for name, schema in target.items()},
        **options,
    }
    file = {"type": "array", "minItems": 1, "items": BINARY["schema"]}
    return {
        "parameters": [{"in": "query", "name": name, "required": False, **rest} for name, rest in named.items()],
        "requestBody": {
            "required": True,
            "description": "A zip as it is, or files in parts; options may stand between them.",
            "content": {
                "application/zip": BINARY,
                "multipart/form-data": {
                    "schema": {"type": "object", "properties": {"file": file}, "required": ["file"]}
                },
            },
        },
    }


TIMEOUT: Final = {
    "name": "X-Request-Timeout-Ms", "in": "header", "required": False, "schema": {"type": "integer", "minimum": 1},
    "description": "Milliseconds that the answer may take; more than the service allows changes nothing.",
}  # fmt: skip
"""A parameter of every route that runs a model."""


def picture_body(options: dict[str, Any]) -> dict[str, Any]:
    """Every form of a body that holds pictures, and besides them which model is to answer, and these options."""
    file = {"type": "array", "minItems": 1, "items": BINARY["schema"]}
    images = {"type": "array", "minItems": 1, "items": {"type": "string", "contentEncoding": "base64"}}
    return {
        "required": True,
        "description": "A picture as it is, or several in parts or as base64; options may stand beside them.",
        "content": {
            "application/octet-stream": BINARY,
            "image/*": BINARY,
            "multipart/form-data": {"schema": _object("file", file, options)},
            "application/json": {"schema": _object("images", images, options), "example": {"images": [PIXEL, PIXEL]}},
        },
    }


def _object(name: str, pictures: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    properties = {**Target.model_json_schema()["properties"], **options, name: pictures}
    return {"type": "object", "properties": properties, "required": [name], "additionalProperties": False}


def _options_body(task: type[Task[Any]]) -> dict[str, Any]:
    own = task.Options.model_json_schema()
    properties = {**Target.model_json_schema()["properties"], **own["properties"]}
    example = task.Options().model_dump(mode="json", by_alias=True, exclude_none=True)
    return {
        "required": False,
        "description": "Options, where they are not in the query.",
        "content": {"application/json": {"schema": {**own, "properties": properties}, "example": example}},
    }
