"""From the lines of a journal to the file that was asked for: JSON lines, CSV or Parquet, whole or not at all."""

import csv
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import orjson
from pydantic import BaseModel

from app.batch.parquet import check_parquet, write_parquet
from app.batch.records import Lines, row_of
from app.client import JsonObject
from app.errors import InvalidBatch


def write_jsonl(path: Path, lines: Lines, shape: type[BaseModel]) -> None:
    """A line a picture: `file`, `model`, `version`, `result`, or `file` and `error`."""
    with path.open("wb") as file:
        file.writelines(lines())


def write_csv(path: Path, lines: Lines, shape: type[BaseModel]) -> None:
    """A row a picture. What is inside a result has a column of its own, `labels.0.label`; lists of other things than
    objects are JSON. Which columns there are is found in a first pass."""
    columns = dict.fromkeys(("file", "model", "version", "error", "detail"))
    for line in lines():
        columns.update(dict.fromkeys(flattened(line)))
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.DictWriter(file, list(columns), restval="")
        rows.writeheader()
        rows.writerows(map(flattened, lines()))


def flattened(line: bytes) -> JsonObject:
    """One record as a row."""
    return dict(_cells("", row_of(line)))


def _cells(above: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        parts: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        parts = enumerate(value)
    else:
        yield above, orjson.dumps(value).decode() if isinstance(value, list) else value
        return
    for name, part in parts:
        yield from _cells(f"{above}.{name}" if above else str(name), part)


_WRITERS: Final[Mapping[str, Callable[[Path, Lines, type[BaseModel]], None]]] = {
    ".jsonl": write_jsonl, ".csv": write_csv, ".parquet": write_parquet,
}  # fmt: skip


def check_output(path: Path) -> None:
    """Refuse before the work what could not be written after it.

    Raises:
        InvalidBatch: the format is unknown, its library is missing, or the folder.
    """
    if path.suffix not in _WRITERS:
        raise InvalidBatch(f"{path.name!r} has no known ending: write to {', '.join(_WRITERS)}.")
    if not path.parent.is_dir():
        raise InvalidBatch(f"{path.parent} is no folder: make it first.")
    if path.suffix == ".parquet":
        check_parquet()


def write_output(path: Path, lines: Lines, shape: type[BaseModel]) -> None:
    """Write beside the place, then put it there.

    Args:
        path: its ending says in which form.
        lines: the records, in order.
        shape: of the results; its fields are the columns of a Parquet file.
    """
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        _WRITERS[path.suffix](unfinished, lines, shape)
        with unfinished.open("rb") as written:
            os.fsync(written.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
