"""Log lines: one JSON object or one plain line each, with the id of the request that they belong to.

No line holds a picture, a key or what a picture says of itself: nothing here is given them.
"""

import json
import logging
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Final, Literal

request_id: ContextVar[str] = ContextVar("request_id", default="-")
"""The id of the request that the current context answers."""

LogFormat = Literal["text", "json"]

ACCESS: Final = "%s %s %d %.1f ms"
ACCESS_BY_KEY: Final = ACCESS + ", key %s"
AUDIT: Final = "%s at %s asked %s %s and was answered %d"
_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    ACCESS: ("method", "path", "status", "milliseconds"),
    ACCESS_BY_KEY: ("method", "path", "status", "milliseconds", "key"),
    AUDIT: ("key", "address", "method", "path", "status"),
}
"""What the arguments of these texts are, for whoever reads JSON."""


def configure(level: str, form: LogFormat) -> None:
    """Send the lines of the `imago` loggers, and of uvicorn's, to standard error; those of the audit at any level, and
    warnings of other libraries in the same form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    for name in ("imago", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level.upper())
        logger.propagate = False
    logging.getLogger("imago.audit").setLevel(logging.INFO)
    logging.getLogger("PIL").setLevel(logging.WARNING)  # below that it repeats what a picture says of itself
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # a broken form is told to whoever sent it
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(handler.formatter)


class TextLines(logging.Formatter):
    """`2026-11-21T10:00:00.000Z INFO imago.repository [request] text`; the lines of a trace are indented."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; whatever a stranger put into it forges no second record and moves no cursor."""
        text = _printable(record.getMessage())
        line = f"{_time(record)} {record.levelname} {record.name} [{request_id.get()}] {text}"
        trace = "" if record.exc_info is None else self.formatException(record.exc_info)
        return "\n    ".join([line, *map(_printable, trace.splitlines())])


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, request, text, the values in the text where they have names, and the
    trace of an error. ASCII: what is not is escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """One JSON object."""
        entry: dict[str, object] = {
            "time": _time(record), "level": record.levelname, "logger": record.name,
            "request": request_id.get(), "text": record.getMessage(),
        }  # fmt: skip
        if isinstance(record.args, tuple):
            for name, value in zip(_FIELDS.get(record.msg, ()), record.args, strict=False):
                entry[name] = round(value, 2) if isinstance(value, float) else value
        if record.exc_info is not None:
            entry["error"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _printable(text: str) -> str:
    """The text with line breaks, control and direction marks, and backslashes escaped as Python writes them."""
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(c if c.isprintable() and c != "\\" else c.encode("unicode_escape").decode() for c in text)
