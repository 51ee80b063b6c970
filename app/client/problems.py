"""The one error of the client: what the service answered instead of a result, or why it answered nothing."""

import time
from email.utils import parsedate_to_datetime

import httpx
from pydantic import BaseModel, ValidationError

_SHOWN = 200
"""Characters of an answer that is no problem which its error repeats."""


class ServiceProblem(Exception):
    """A request that was not answered as asked.

    Attributes:
        code: the stable code of the problem (the README lists all). The client's own are `unreachable` (no connection,
            or it broke), `deadline-exceeded` (its clock said so first) and `unexpected-answer` (no service of imago's).
        status: the HTTP status; None where nothing was answered, or for a picture among several.
        detail: one sentence for people.
        request_id: under which the operator finds the request in the log.
        retry_after: seconds that the service asked to wait.
    """

    def __init__(
        self, code: str, detail: str, status: int | None = None, request_id: str = "", retry_after: float | None = None
    ) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.status = status
        self.detail = detail
        self.request_id = request_id
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[type["ServiceProblem"], tuple[object, ...]]:
        return type(self), (self.code, self.detail, self.status, self.request_id, self.retry_after)


class Problem(BaseModel):
    """The members of `application/problem+json` (RFC 9457) that the client reads."""

    code: str
    detail: str
    status: int | None = None
    instance: str = ""

    def error(self, request_id: str = "", retry_after: float | None = None) -> ServiceProblem:
        """The same as an exception; without an id of the answer's headers that of `instance` counts."""
        number = request_id or self.instance.removeprefix("urn:imago:request:")
        return ServiceProblem(self.code, self.detail, self.status, number, retry_after)


def problem_of(response: httpx.Response) -> ServiceProblem:
    """What an answer other than 200 says; a proxy's page is `unexpected-answer`."""
    request_id, after = response.headers.get("x-request-id", ""), _retry_after(response, time.time())
    try:
        found = Problem.model_validate_json(response.content)
    except ValidationError:
        said = f"The answer is {response.status_code} and no problem of imago: {response.text[:_SHOWN]!r}"
        return ServiceProblem("unexpected-answer", said, response.status_code, request_id, after)
    found.status = response.status_code
    return found.error(request_id, after)


def _retry_after(response: httpx.Response, now: float) -> float | None:
    """Seconds of `Retry-After`, which holds a number or a date (RFC 9110, section 10.2.3)."""
    text = response.headers.get("retry-after", "").strip()
    if text.isdecimal() and text.isascii():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now) if text else None
    except ValueError:
        return None
