"""From an error to its answer: the one place that knows which error has which status (RFC 9110, RFC 9457)."""

import math
import random
from collections.abc import Mapping
from typing import Any, Final

import orjson
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from app import errors
from app.errors import ServiceError

STATUS: Final[Mapping[type[ServiceError], int]] = {
    errors.InvalidRequest: 400,
    errors.EmptyBody: 400,
    errors.WrongTask: 400,
    errors.MalformedMessage: 400,
    errors.LoadRefused: 400,  # Triton's status for a load that fails
    errors.Unauthenticated: 401,
    errors.ScopeMissing: 403,
    errors.ForeignOrigin: 403,
    errors.ControlOff: 403,
    errors.GalleriesOff: 403,
    errors.JobsOff: 403,
    errors.RouteNotFound: 404,
    errors.GalleryNotFound: 404,
    errors.ModelNotFound: 404,
    errors.JobNotFound: 404,
    errors.MethodNotAllowed: 405,
    errors.NotAcceptable: 406,
    errors.RequestTimeout: 408,
    errors.GalleryConflict: 409,
    errors.GalleryFull: 409,
    errors.JobUnfinished: 409,
    errors.BodyTooLarge: 413,
    errors.ImageTooLarge: 413,
    errors.JobTooLarge: 413,
    errors.TensorsTooLarge: 413,
    errors.TargetTooLong: 414,
    errors.UnsupportedImage: 415,
    errors.UnsupportedEncoding: 415,
    errors.InvalidOption: 422,
    errors.CorruptImage: 422,
    errors.Overloaded: 429,
    errors.QuotaExceeded: 429,
    errors.TooManyGuesses: 429,
    errors.TooManyJobs: 429,
    errors.HeadersTooLong: 431,
    errors.CallerLeft: 499,  # nobody reads it: nginx's status for logs and metrics
    errors.InternalError: 500,
    errors.InferenceFailed: 500,
    errors.NotReady: 503,
    errors.InsufficientMemory: 503,
    errors.TooManyConnections: 503,
    errors.DeadlineExceeded: 504,
}
_PASSING: Final = (
    errors.Overloaded,
    errors.QuotaExceeded,
    errors.TooManyGuesses,
    errors.TooManyJobs,
    errors.NotReady,
    errors.InsufficientMemory,
    errors.TooManyConnections,
)
"""What waiting helps against."""
_NO_OBJECT: Final = "The body is no JSON object: send {...} with Content-Type: application/json."


def status_of(error: ServiceError) -> int:
    """The HTTP status of an error."""
    return STATUS[type(error)]


def problem(error: ServiceError, instance: str) -> dict[str, Any]:
    """The members of `application/problem+json` (RFC 9457, section 3.1) and a stable `code`."""
    return {
        "type": f"urn:imago:{error.code}",
        "title": error.code.replace("-", " ").capitalize(),
        "status": status_of(error),
        "detail": error.detail,
        "instance": f"urn:imago:request:{instance}",
        "code": error.code,
    }


def problem_answer(error: ServiceError, instance: str, path: str = "") -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer to a request that failed as a whole. On a path of the Open Inference
    Protocol v2 it is plain JSON, and what its clients read is the string `error`."""
    told, media_type, protocol = problem(error, instance), "application/problem+json", _is_protocol(path)
    if protocol:
        told["error"], media_type = error.detail, "application/json"
    headers = {"content-type": media_type, "cache-control": "no-store"}
    if isinstance(error, _PASSING):
        headers["retry-after"] = str(_retry_after(error.retry_after))
    if isinstance(error, errors.Unauthenticated):
        headers["www-authenticate"] = 'Bearer realm="imago"'
    if isinstance(error, errors.MethodNotAllowed):
        headers["allow"] = error.allowed
    if isinstance(error, errors.UnsupportedEncoding):
        headers["accept-encoding"] = "gzip, deflate" if protocol else "identity"  # RFC 9110, section 15.5.16
    return status_of(error), headers, orjson.dumps(told)


def problem_response(error: ServiceError, instance: str, path: str = "") -> Response:
    """The same as an answer of the framework."""
    status, headers, body = problem_answer(error, instance, path)
    return Response(body, status, headers)


def refusal(request: Request, error: Exception) -> ServiceError:
    """What a route raised, or the framework refused by itself, as one of our errors."""
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        if first["type"] == "json_invalid" or first["loc"] == ("body",):
            return errors.InvalidRequest(_NO_OBJECT)
        return errors.InvalidOption(f"{first['loc'][-1]}: {first['msg']}.")
    if isinstance(error, HTTPException) and error.status_code == 400:  # bytes of which no text can be made
        return errors.InvalidRequest(_NO_OBJECT)
    if isinstance(error, HTTPException) and error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        return errors.MethodNotAllowed(request.method, allowed.replace("GET", "GET, HEAD"))
    return errors.RouteNotFound() if isinstance(error, HTTPException) else errors.InternalError()


def _is_protocol(path: str) -> bool:
    return path == "/v2" or path.startswith("/v2/")


def _retry_after(seconds: float) -> int:
    """Whole seconds, spread by half so that those refused together do not come back together (RFC 9110, 10.2.3)."""
    return math.ceil(min(30, max(1, seconds * random.uniform(1.0, 1.5))))  # noqa: S311 - spreading, not security
