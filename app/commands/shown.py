"""Results of any task as cells of a table, and the pictures in them as files: by their shape, whatever the task."""

import base64
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from app.client import JsonObject

_MOST = 6
"""Entries of a list that a cell shows."""


def table_of(records: list[JsonObject]) -> Table:
    """A row for each record: its file, what failed, or a column for each part of its result."""
    results = [record.get("result", {}) for record in records]
    columns = list(dict.fromkeys(name for result in results for name, value in result.items() if value is not None))
    named = any("file" in record for record in records)
    table = Table(*(["file"] if named else []), *(columns or ["result"]), box=None, pad_edge=False, header_style="bold")
    for record, result in zip(records, results, strict=True):
        cells = [cell(result.get(name)) for name in columns] or [""]
        if "error" in record:
            cells[0] = f"[red]{escape(record['error']['detail'])}[/]"
        table.add_row(*([escape(str(record.get("file", "")))] if named else []), *cells)
    return table


def cell(value: Any) -> str:
    """One value in few words: `cat 0.9975, dog 0.001`; an encoded picture by its kind and size."""
    if isinstance(value, dict):
        return _entry(value)
    if isinstance(value, list):
        shown = ", ".join(map(cell, value[:_MOST]))
        return f"{shown}, {len(value) - _MOST} more" if len(value) > _MOST else shown
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else escape(str(value))


def _entry(value: JsonObject) -> str:
    if "encoding" in value:
        size = f" {value['width']}x{value['height']}" if "width" in value else ""
        return f"{value['encoding']}{size}"
    if "label" in value:  # its index says the same again
        return " ".join(cell(part) for name, part in value.items() if name != "index")
    return " ".join(f"{name} {cell(part)}" for name, part in value.items())


def save_images(result: JsonObject, folder: Path) -> None:
    """Write the pictures that a result holds, named by its numbers and words: `7-0-ship.png`."""
    name = "-".join(_safe(value) for value in result.values() if isinstance(value, int | str))
    for value in result.values():
        if isinstance(value, dict) and isinstance(value.get("data"), str):
            (folder / f"{name}.{value['encoding']}").write_bytes(base64.b64decode(value["data"]))


def _safe(value: int | str) -> str:
    """A part of a file's name: labels may hold anything."""
    return "".join(letter if letter.isalnum() or letter in "._" else "_" for letter in str(value))
