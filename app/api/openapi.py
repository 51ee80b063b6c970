"""The OpenAPI document (3.1) as a whole: to what routes say of themselves it adds what is true of all of them.

That is every refusal of the edge and the door, the headers of every answer, and names by which generated clients call
the operations. How keys are sent is left to `app.api.access`.
"""

import re
from typing import Any, Final

from pydantic.json_schema import models_json_schema

from app.api.access import PUBLIC, SCOPE_OF
from app.api.protocol_schemas import InferenceRequest
from app.api.refusals import AT_THE_DOOR, EVERYWHERE, join, refusals
from app.api.schemas import Problem, ProtocolProblem
from app.errors import ForeignOrigin
from app.security.keys import ADMIN
from app.tasks import TASKS

Json = dict[str, Any]

_SHAPES: Final = models_json_schema(
    [(shape, "serialization") for shape in (Problem, ProtocolProblem)] + [(InferenceRequest, "validation")],
    ref_template="#/components/schemas/{model}",
)[1]["$defs"]
"""What is referred to by name alone."""


def _header(description: str, kind: str = "string") -> Json:
    return {"description": description, "schema": {"type": kind}}


_HEADERS: Final = {
    "X-Request-ID": _header("The caller's, or a new one: the operator finds the request under it."),
    "traceparent": _header("W3C Trace Context."),
    "Server-Timing": _header("Milliseconds of each stage (W3C Server Timing)."),
    "X-Model-Version": _header("The version that answered.", "integer"),
    "Retry-After": _header("Seconds to wait (RFC 9110, section 10.2.3).", "integer"),
    "Location": _header("Where to ask for what was begun."),
    "WWW-Authenticate": _header("How to authenticate (RFC 6750)."),
}
_ALWAYS: Final = ("X-Request-ID", "traceparent", "Server-Timing")
_WITH: Final = {"202": ("Location",), "401": ("WWW-Authenticate",), "429": ("Retry-After",), "503": ("Retry-After",)}
_EXAMPLES: Final = {
    "name": "cifar10-classifier", "version": 1, "gallery": "faces", "id": "anna",
    "job": "0f1e2d3c4b5a69788796a5b4c3d2e1f0",
}  # fmt: skip
"""Of what stands in paths: a shipped model, what may be in a gallery, a job."""


def completed(document: Json) -> Json:
    """The document of FastAPI, completed."""
    components = document.setdefault("components", {})
    components["schemas"] = dict(sorted({**components.get("schemas", {}), **_SHAPES}.items()))
    components["headers"] = _HEADERS
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            operation["operationId"] = _name(method, path)
            _complete(operation, path)
    return document


def _complete(operation: Json, path: str) -> None:
    responses = operation["responses"]
    scope = SCOPE_OF.get(path)
    door = () if scope == PUBLIC else (*AT_THE_DOOR, ForeignOrigin) if scope == ADMIN else AT_THE_DOOR
    join(responses, refusals((*EVERYWHERE, *door), protocol=path.startswith("/v2")))
    operation["responses"] = dict(sorted(responses.items()))
    for status, response in responses.items():
        names = [*_ALWAYS, *_WITH.get(status, ())]
        if (status == "200" and operation["operationId"] in TASKS) or path.endswith("/infer"):
            names.append("X-Model-Version")
        response["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in names}
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path":
            parameter["example"] = str(_EXAMPLES[parameter["name"]])


def _name(method: str, path: str) -> str:
    """`classify`; `get_models`, `get_models_name` for what is no task."""
    words = [*re.findall(r"\w+", path), *(["slash"] if path.endswith("/") else [])]
    return words[0] if len(words) == 1 and words[0] in TASKS else "_".join([method, *words])
