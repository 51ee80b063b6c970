"""What the OpenAPI document says of refusals: by status the codes, each with an example of its problem."""

from collections.abc import Iterable
from copy import deepcopy
from typing import Any, Final

from app import errors
from app.api.errors import STATUS
from app.errors import ServiceError

Kinds = tuple[type[ServiceError], ...]
Responses = dict[int | str, dict[str, Any]]

RUNNING: Final[Kinds] = (
    errors.InvalidRequest, errors.ModelNotFound, errors.ImageTooLarge, errors.UnsupportedImage,
    errors.InvalidOption, errors.CorruptImage, errors.Overloaded, errors.InferenceFailed, errors.NotReady,
    errors.InsufficientMemory, errors.DeadlineExceeded, errors.TensorsTooLarge,
)  # fmt: skip
"""Of a route that runs a model, besides those of every route."""
ASKING: Final[Kinds] = (*RUNNING, errors.EmptyBody, errors.WrongTask, errors.NotAcceptable)
"""Of a task's route."""
EVERYWHERE: Final[Kinds] = (
    errors.MalformedMessage, errors.RequestTimeout, errors.BodyTooLarge, errors.TargetTooLong,
    errors.UnsupportedEncoding, errors.HeadersTooLong, errors.InternalError, errors.TooManyConnections,
)  # fmt: skip
"""Of every route: what the connection and the edge refuse."""
AT_THE_DOOR: Final[Kinds] = (
    errors.Unauthenticated, errors.ScopeMissing, errors.QuotaExceeded, errors.TooManyGuesses,
)  # fmt: skip
"""Of every route that needs a key."""


def refusals(kinds: Iterable[type[ServiceError]], protocol: bool = False) -> Responses:
    """The responses of a route that may refuse so; under `/v2` problems have the protocol's form."""
    found: Responses = {}
    for kind in sorted(kinds, key=lambda kind: (STATUS[kind], kind.code)):
        found.setdefault(STATUS[kind], _response(protocol))
        _content(found[STATUS[kind]])["examples"][kind.code] = {"value": _example(kind, protocol)}
    for response in found.values():
        response["description"] = _description(response)
    return found


def join(responses: Responses, more: Responses) -> None:
    """Add refusals to the responses of a route; a status that has some already gets the examples of both."""
    for status, response in more.items():
        own = responses[str(status)] = deepcopy(responses.get(str(status), response))  # routes may share theirs
        if own == response:
            continue
        if "examples" in _content(own):
            _content(own)["examples"] |= _content(response)["examples"]
            own["description"] = _description(own)
        else:  # an answer of another form, such as what /readyz says with 503
            own["content"] |= response["content"]
            own["description"] = f"{own['description']}, or {response['description']}"


def _response(protocol: bool) -> dict[str, Any]:
    media_type, shape = ("json", "ProtocolProblem") if protocol else ("problem+json", "Problem")
    content = {"schema": {"$ref": f"#/components/schemas/{shape}"}, "examples": {}}
    return {"content": {f"application/{media_type}": content}}


def _content(response: dict[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = next(iter(response["content"].values()))
    return content


def _description(response: dict[str, Any]) -> str:
    return ", ".join(f"`{code}`" for code in _content(response)["examples"])


def _example(kind: type[ServiceError], protocol: bool) -> dict[str, Any]:
    """As `app.api.errors.problem` makes it; the sentence is that of the documentation."""
    detail = (kind.__doc__ or "").split("\n")[0]
    example = {
        "type": f"urn:imago:{kind.code}", "title": kind.code.replace("-", " ").capitalize(), "status": STATUS[kind],
        "detail": detail, "instance": "urn:imago:request:1f2e3d4c5b6a7988", "code": kind.code,
    }  # fmt: skip
    return example | {"error": detail} if protocol else example
