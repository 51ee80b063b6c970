"""What a request asks for besides its body: model, version, options, media type of the answer, deadline."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final
from urllib.parse import parse_qsl

from pydantic import BaseModel, Field, TypeAdapter, ValidationError, field_validator

from app.errors import InvalidOption, NotAcceptable
from app.manifest import explain, nearest
from app.serving import ALIAS, Alias
from app.tasks import TASKS
from app.tasks.base import TaskOptions

_NUMBER = TypeAdapter(int)
LONGEST_ACCEPT: Final = 1024
"""Bytes of an `Accept` or `Accept-Encoding` that is heeded (RFC 9110, section 12.5.1, leaves that to the server).
Browsers send some 150; as many as a head may have, all of them commas, would keep the event loop for a tenth of a
second."""


class Target(BaseModel):
    """Which model is to answer."""

    model: str | None = Field(None, description="Name of the model; without it the task's default answers.")
    version: int | Alias | None = Field(
        None,
        description="Version of the model, by its number or by a name that its operator gave it; without it `stable`"
        " answers, or else the newest one loaded.",
    )

    @field_validator("version", mode="before")
    @classmethod
    def _by_number_or_name(cls, value: object) -> object:
        if value is None or (isinstance(value, str) and re.fullmatch(ALIAS, value)):
            return value
        try:
            return _NUMBER.validate_python(value)
        except ValidationError:
            raise ValueError("Input should be the number of a version, or a name of one") from None


@dataclass(frozen=True)
class Call:
    """Model, version and options that a request chose."""

    model: str | None
    version: int | str | None
    options: TaskOptions


_REMEMBERED_BYTES = 256
"""Longest query string that is remembered: nobody may fill the memory with theirs."""


def call_from_query(kind: str, query: bytes) -> Call:
    """The call of a query string. Clients repeat theirs, so that validation is paid once.

    Raises:
        InvalidOption: an option is unknown (the nearest known one is named), twice there, or out of its range.
    """
    return _remembered(kind, query) if len(query) <= _REMEMBERED_BYTES else call_of(kind, query_values(query))


def call_with_body(kind: str, query: bytes, body: Mapping[str, Any]) -> Call:
    """The call of a query string and of options in a body, which win."""
    return call_of(kind, {**query_values(query), **body})


def call_of(kind: str, values: Mapping[str, Any]) -> Call:
    """The call of named values. Raises `InvalidOption` as `call_from_query` does."""
    known = _names(kind)
    for name in values.keys() - known.keys():
        raise InvalidOption(f"{name[:64]!r} is unknown{nearest(name[:64], known)}")
    try:
        target = Target.model_validate({key: values[key] for key in ("model", "version") if key in values})
        options = TASKS[kind].Options.model_validate(
            {key: value for key, value in values.items() if key not in Target.model_fields}
        )
    except ValidationError as error:
        raise InvalidOption(explain(error, TASKS[kind].Options)) from None
    return Call(target.model, target.version, options)


@lru_cache(maxsize=256)
def accepted_form(accept: bytes, forms: tuple[str, ...]) -> str:
    """Which of `json` and these formats of pictures an `Accept` header prefers (RFC 9110, section 12.5.1); the first
    where it does not matter, and JSON before all.

    Raises:
        NotAcceptable: it excludes all of them.
    """
    ranges: list[tuple[str, float]] = []
    heeded = accept.strip() and len(accept) <= LONGEST_ACCEPT
    for entry in accept.decode("latin-1").split(",") if heeded else ["*/*"]:
        media, *parameters = (part.strip().lower() for part in entry.split(";"))
        weight = next((_weight(value[2:]) for value in parameters if value.startswith("q=")), 1.0)
        ranges.append((media, weight))
    media_types = {"json": "application/json"} | {form: f"image/{form}" for form in forms}
    wanted = {form: _quality(ranges, media_type) for form, media_type in media_types.items()}
    if not any(weight for weight, _ in wanted.values()):
        raise NotAcceptable(f"Answers are {' or '.join(media_types.values())}: accept one of them.")
    return max(wanted, key=wanted.__getitem__)


def timeout_seconds(header: bytes | None, default: float) -> float:
    """Seconds from `X-Request-Timeout-Ms`, at most `default`.

    Raises:
        InvalidOption: the header is no positive number of milliseconds.
    """
    if header is None:
        return default
    if not (header.isdigit() and len(header) < 10 and int(header) > 0):
        raise InvalidOption("X-Request-Timeout-Ms is a whole number of milliseconds, at least 1.")
    return min(default, int(header) / 1000)


@lru_cache(maxsize=1024)
def _remembered(kind: str, query: bytes) -> Call:
    return call_of(kind, query_values(query))


@lru_cache
def _names(kind: str) -> dict[str, None]:
    """All that a caller may name: model, version, and the task's options as they are documented."""
    options = TASKS[kind].Options.model_fields
    return dict.fromkeys([*Target.model_fields, *(field.alias or name for name, field in options.items())])


def _quality(ranges: list[tuple[str, float]], known: str) -> tuple[float, int]:
    """The weight of a media type, from the range that names it most precisely, and how precisely that is."""
    naming = ("*/*", known.partition("/")[0] + "/*", known)
    precision, weight = max(
        ((naming.index(media), weight) for media, weight in ranges if media in naming), default=(0, 0.0)
    )
    return weight, precision


def query_values(query: bytes) -> dict[str, str]:
    """The options of a query string. Raises `InvalidOption` as `call_from_query` where it cannot be read."""
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, max_num_fields=32)
    except (UnicodeDecodeError, ValueError):
        raise InvalidOption("The query string cannot be read: write ?option=value&option=value.") from None
    values = dict(pairs)
    if len(values) != len(pairs):
        raise InvalidOption("An option is in the query string twice.")
    return values


def _weight(text: str) -> float:
    try:
        return min(1.0, max(0.0, float(text)))
    except ValueError:
        return 0.0
