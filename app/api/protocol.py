"""The wire form of tensors in the Open Inference Protocol v2: datatypes, JSON data, raw bytes.

Plain functions of bytes, numbers and arrays: what a request looks like is left to `app.api.protocol_messages`. Nothing
is allocated by a size that a caller only announces.
"""

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any, Final

import numpy as np

from app.errors import InvalidRequest
from app.tensors import Tensor

BYTES: Final = "BYTES"
BF16: Final = "BF16"
"""The upper half of FP32. numpy has no such type: elements become float32, which holds each of them exactly."""
DTYPES: Final = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("<u1"), "UINT16": np.dtype("<u2"), "UINT32": np.dtype("<u4"), "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"), "INT16": np.dtype("<i2"), "INT32": np.dtype("<i4"), "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"), "FP32": np.dtype("<f4"), "FP64": np.dtype("<f8"), BF16: np.dtype("<f4"),
}  # fmt: skip
"""The datatypes of the protocol, but BYTES, as arrays."""
DATATYPES: Final = {dtype: name for name, dtype in DTYPES.items() if name != BF16}
"""The datatype of each array."""
BINARY_ONLY: Final = ("FP16", BF16)
"""Refused as JSON: the binary form is half as long and exact."""

_KINDS: Final[dict[str, set[type]]] = {"b": {bool}, "u": {int}, "i": {int}, "f": {float, int}}
"""What elements are in JSON, by the kind of their dtype."""
_LENGTH: Final = 4
_MOST_LISTS: Final = 32
"""Lists in lists that `data` may be made of: arrays have fewer dimensions."""

Shape = tuple[int, ...]


def size_of(datatype: str, shape: Shape) -> int:
    """The bytes of a tensor of fixed size: every datatype but BYTES."""
    return math.prod(shape) * (2 if datatype in BINARY_ONLY else DTYPES[datatype].itemsize)


def array_from_bytes(name: str, datatype: str, shape: Shape, data: memoryview) -> Tensor:
    """A tensor from its little-endian, row-major bytes; not copied where that can be avoided.

    Raises:
        InvalidRequest: they are not as many as the shape asks for.
    """
    if len(data) != size_of(datatype, shape):
        raise InvalidRequest(f"Input {name!r} has {len(data)} bytes; its shape takes {size_of(datatype, shape)}.")
    if datatype == BF16:
        upper = np.frombuffer(data, "<u2").astype("<u4") << 16
        return np.asarray(upper).view("<f4").reshape(shape)
    if datatype == "BOOL":
        return np.not_equal(np.frombuffer(data, np.uint8), 0).reshape(shape)
    array: Tensor = np.frombuffer(data, DTYPES[datatype]).reshape(shape)
    return array if array.flags.aligned else array.copy()


def elements_from_bytes(name: str, count: int, data: memoryview) -> list[bytes]:
    """The elements of a BYTES tensor: each has its length before it, four bytes, little-endian.

    Raises:
        InvalidRequest: they are not `count`, or do not end where the data end.
    """
    elements: list[bytes] = []
    start = 0
    while start < len(data) and len(elements) < count:
        first = start + _LENGTH
        start = first + int.from_bytes(data[start:first], "little")
        if first > len(data) or start > len(data):
            raise InvalidRequest(f"Element {len(elements)} of input {name!r} is longer than the data of the input.")
        elements.append(bytes(data[first:start]))
    if start != len(data) or len(elements) != count:
        raise InvalidRequest(f"The data of input {name!r} are not {count} elements, each with its length before it.")
    return elements


def array_from_json(name: str, datatype: str, shape: Shape, data: Any) -> Tensor:
    """A tensor from JSON, flat or in lists of lists, row by row.

    Raises:
        InvalidRequest: an element is not of the datatype or out of its range, or they are not as many as the shape asks
            for, or the datatype cannot be sent as JSON.
    """
    if datatype in BINARY_ONLY:
        raise InvalidRequest(f"Input {name!r}: {datatype} cannot be sent as JSON, use the binary data format.")
    flat = elements_from_json(name, shape, data)
    dtype = DTYPES[datatype]
    if not set(map(type, flat)) <= _KINDS[dtype.kind]:
        raise InvalidRequest(f"Input {name!r} has elements that are not of datatype {datatype}.")
    try:
        array = np.array(flat, np.float64 if dtype.kind == "f" else dtype)
    except OverflowError:
        raise InvalidRequest(f"Input {name!r} has elements beyond the range of {datatype}.") from None
    with np.errstate(over="ignore"):
        array = array.astype(dtype, copy=False)
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise InvalidRequest(f"Input {name!r} has elements beyond the range of {datatype}.")
    return array.reshape(shape)


def elements_from_json(name: str, shape: Shape, data: Any) -> Sequence[Any]:
    """The elements of JSON `data` in one list, of whatever type they are.

    Raises:
        InvalidRequest: `data` is no list, its lists are of unequal lengths or too deep, or its elements are not as many
            as the shape asks for.
    """
    if not isinstance(data, list):
        raise InvalidRequest(f"Input {name!r} needs 'data', a list.")
    flat: list[Any] = data
    for _ in range(_MOST_LISTS):
        kinds = set(map(type, flat))
        if list not in kinds:
            break
        if kinds != {list} or len(set(map(len, flat))) > 1:
            raise InvalidRequest(f"Input {name!r}: the lists in 'data' are of unequal lengths.")
        flat = list(chain.from_iterable(flat))
    if len(flat) != math.prod(shape):
        raise InvalidRequest(f"Input {name!r} has {len(flat)} elements; its shape takes {math.prod(shape)}.")
    return flat


def array_to_bytes(array: Tensor) -> bytes:
    """The little-endian, row-major bytes of an array."""
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()


def elements_to_bytes(elements: Sequence[str]) -> bytes:
    """The data of a BYTES tensor of these texts."""
    encoded = [element.encode() for element in elements]
    return b"".join(part for one in encoded for part in (len(one).to_bytes(_LENGTH, "little"), one))


def classified(array: Tensor, count: int, labels: Sequence[str]) -> list[list[str]]:
    """The `count` largest elements of each row, best first: `value:index`, or with labels `value:index:label`
    (classification extension)."""
    rows = array.reshape(len(array), -1)
    last = rows.shape[1] - 1
    best = last - np.argsort(rows[:, ::-1], axis=1, kind="stable")[:, ::-1][:, :count]  # of equals the first is first
    whole = array.dtype.kind in "biu"
    return [
        [_classified(int(row[index]) if whole else float(row[index]), index, labels) for index in order]
        for row, order in zip(rows, best.tolist(), strict=True)
    ]


def _classified(value: float, index: int, labels: Sequence[str]) -> str:
    text = f"{value}:{index}" if isinstance(value, int) else f"{value:.6f}:{index}"
    return f"{text}:{labels[index]}" if labels else text
