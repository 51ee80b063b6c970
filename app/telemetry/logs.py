"""Log lines: one JSON object or one plain line each, with the id of the request that they belong to."""

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal

request_id: ContextVar[str] = ContextVar("request_id", default="-")
"""The id of the request that the current context answers."""

LogFormat = Literal["text", "json"]


def configure(level: str, form: LogFormat) -> None:
    """Send the lines of the `imago` loggers, and of uvicorn's, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    for name in ("imago", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level.upper())
        logger.propagate = False


class TextLines(logging.Formatter):
    """`2026-11-21T10:00:00.000Z INFO imago.repository [request] text`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; line breaks in the text are escaped, so that nobody can forge a record."""
        text = _one_line(record.getMessage())
        line = f"{_time(record)} {record.levelname} {record.name} [{request_id.get()}] {text}"
        return line if record.exc_info is None else f"{line}\n{self.formatException(record.exc_info)}"


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, request, text, and error with its trace."""

    def format(self, record: logging.LogRecord) -> str:
        """One JSON object."""
        entry = {
            "time": _time(record), "level": record.levelname, "logger": record.name,
            "request": request_id.get(), "text": record.getMessage(),
        }  # fmt: skip
        if record.exc_info is not None:
            entry["error"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _one_line(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
