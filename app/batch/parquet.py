"""Records as a Parquet file with typed columns. The one home of pyarrow, which comes with the extra `batch`."""

import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

import orjson
from pydantic import BaseModel

from app.batch.records import Lines, row_of
from app.client import JsonObject
from app.errors import InvalidBatch

if TYPE_CHECKING:
    import pyarrow as pa

_Fit = Callable[[Any], Any]
_ROWS = 10_000
_BYTES = 2**25
"""Rows that are in memory at once, and their bytes as JSON: one group of the file."""


def check_parquet() -> None:
    """Raises `InvalidBatch` where pyarrow is missing."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise InvalidBatch("Parquet needs pyarrow: pip install 'imago[batch]', or write .jsonl or .csv.") from None


def write_parquet(path: Path, lines: Lines, shape: type[BaseModel]) -> None:
    """Write records with the columns `file`, `model`, `version`, `error`, `detail` and the fields of `shape`.

    The types are those of the fields, so that they do not depend on what the pictures showed; a field that may be one
    thing or another is JSON text.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    text, number = pa.string(), pa.int64()
    head = {"file": text, "model": text, "version": number, "error": text, "detail": text}
    schema = pa.schema({**head, **fields_of(shape)})
    fit = _fit_of(pa.struct(schema)) or (lambda row: row)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for group in _groups(lines()):
            rows = [fit(row_of(line)) for line in group]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))


def fields_of(shape: type[BaseModel]) -> "dict[str, pa.DataType]":
    """The columns of a result, or of an object inside one."""
    return {info.alias or name: arrow_type(info.annotation) for name, info in shape.model_fields.items()}


def arrow_type(annotation: Any) -> "pa.DataType":
    """The type of a field."""
    import pyarrow as pa

    simple = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    if annotation in simple:
        return simple[annotation]
    origin, parts = get_origin(annotation), [part for part in get_args(annotation) if part is not type(None)]
    if origin in (Union, types.UnionType):
        return arrow_type(parts[0]) if len(parts) == 1 else _anything()
    if origin is Literal:
        return arrow_type(type(parts[0]))
    if origin is list or (origin is tuple and len(set(parts)) == 1):
        return pa.list_(arrow_type(parts[0]))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return pa.struct(fields_of(annotation))
    return _anything()


def _groups(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Lines that are written together."""
    group: list[bytes] = []
    size = 0
    for line in lines:
        group.append(line)
        size += len(line)
        if len(group) == _ROWS or size >= _BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _fit_of(kind: "pa.DataType") -> _Fit | None:
    """What brings values into a column: those that may be anything as JSON text, others as they are (None)."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        fits = {field.name: fit for field in kind if (fit := _fit_of(field.type)) is not None}
        return partial(_fit_parts, fits) if fits else None
    if pa.types.is_list(kind):
        each = _fit_of(kind.value_type)
        return None if each is None else partial(_fit_all, each)
    return _fit_text if kind == _anything() else None


def _fit_parts(fits: Mapping[str, _Fit], value: JsonObject | None) -> JsonObject | None:
    if value is None:
        return None
    return value | {name: fit(value.get(name)) for name, fit in fits.items()}


def _fit_all(fit: _Fit, value: list[Any] | None) -> list[Any] | None:
    return None if value is None else [fit(part) for part in value]


def _fit_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else orjson.dumps(value).decode()


def _anything() -> "pa.DataType":
    """The type of a field that may be one thing or another; plain text is `string`."""
    import pyarrow as pa

    return pa.large_string()
