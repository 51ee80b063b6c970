"""What became of one picture: a line of JSON, which a verb's `--json`, the journal and the output have in common."""

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import orjson

from app.client import JsonObject, ServiceProblem
from app.errors import ServiceError

UNREADABLE: Final = "unreadable-file"
"""Code of a file that cannot be read: no service was asked."""
OF_PICTURE: Final = frozenset(
    (UNREADABLE, "empty-body", "unsupported-image", "corrupt-image", "image-too-large", "body-too-large",
     "tensors-too-large", "inference-failed")
)  # fmt: skip
"""Codes that say something of a picture, which will be as true the next time."""
_OF_THE_HOUR: Final = frozenset(("internal-error", "deadline-exceeded", "overloaded"))
"""Codes of pictures that are worth another try, the next time. All other errors meet every picture and end the run."""


Lines = Callable[[], Iterator[bytes]]
"""The lines of all pictures, from the first, each time it is called."""


class Record(NamedTuple):
    """What became of one picture."""

    name: str
    error: str
    """Its code; empty where there is a result."""
    line: bytes
    """All of it as JSON, without the end of the line."""


def record_of(file: str | None, model: str, version: int, result: JsonObject) -> JsonObject:
    """A result, of which file and from whom."""
    named = {} if file is None else {"file": file}
    return {**named, "model": model, "version": version, "result": result}


def failure_of(file: str | None, error: ServiceProblem | ServiceError | OSError) -> JsonObject:
    """What failed, with the stable code of the error."""
    named = {} if file is None else {"file": file}
    if isinstance(error, OSError):
        return {**named, "error": {"code": UNREADABLE, "detail": f"It cannot be read: {error.strerror or error}."}}
    return {**named, "error": {"code": error.code, "detail": error.detail}}


def answered(name: str, model: str, version: int, result: JsonObject) -> Record:
    """The record of a result."""
    return Record(name, "", orjson.dumps(record_of(name, model, version, result)))


def failed(name: str, error: ServiceProblem | ServiceError | OSError) -> Record:
    """The record of a picture that failed; raises the error again where it would meet every picture."""
    entry = failure_of(name, error)
    code: str = entry["error"]["code"]
    if code not in OF_PICTURE | _OF_THE_HOUR:
        raise error
    return Record(name, code, orjson.dumps(entry))


def is_final(code: str) -> bool:
    """Whether a picture with this error, or none, need not be tried again."""
    return code not in _OF_THE_HOUR


def row_of(line: bytes) -> JsonObject:
    """A record, read back, as a row of a table: the parts of its result, or of its error, beside the file."""
    entry: JsonObject = orjson.loads(line)
    error = entry.pop("error", None)
    named = {} if error is None else {"error": error["code"], "detail": error["detail"]}
    return {**entry.pop("result", {}), **entry, **named}
