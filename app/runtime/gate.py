"""Looks through an ONNX file before it is opened: what is in it, how much, and where it points.

ONNX Runtime parses and optimises a graph in C++, and crafted ones have crashed it in most of its releases; a graph may
name files that are read, operators of libraries that are loaded, functions that grow when they are inlined. Here only
the few fields of `onnx.proto` are read that say so, from protobuf's wire format (protobuf.dev/programming-guides/
encoding): the package `onnx` would be the largest dependency of serving. What is refused is refused with its reason.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from app.errors import InvalidModel

MOST_BYTES: Final = 2**31 - 1
"""Of the graph: protobuf takes no more. Weights beyond that lie in files of their own."""
MOST_NODES: Final = 100_000
MOST_TENSORS: Final = 100_000
MOST_DEPTH: Final = 8
"""Graphs within nodes (branches, loops) within graphs."""
MOST_FIELDS: Final = 5_000_000
"""Of messages that are looked into: some seconds. A ResNet-50 has 5,000."""
DOMAINS: Final = frozenset(("", "ai.onnx", "ai.onnx.ml", "com.microsoft"))
"""Of operators: those that ONNX Runtime brings along. Any other would come from a library, or from inside the file."""
REFUSED: Final = frozenset(("EPContext",))
"""Operators of these domains that load a compiled program."""

_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
"""Wire types; the others are groups, which no field of ONNX is."""
_KEYS: Final = frozenset(("location", "offset", "length", "checksum"))
_LOOKS_LIKE: Final = {b"PK\x03\x04": "a zip archive, as PyTorch saves", b"\x80": "a pickle", b"\x89HDF": "HDF5"}

Value = int | memoryview


def outside_files(graph: bytes, files: Mapping[str, int]) -> tuple[str, ...]:
    """The files in which a graph keeps tensors: each one of `files`, which says how many bytes they have.

    Raises:
        InvalidModel: it is no ONNX file, has what must not be in one, or points elsewhere.
    """
    if len(graph) > MOST_BYTES:
        raise InvalidModel(f"The graph has {len(graph)} bytes; at most {MOST_BYTES} can be read.")
    for start, name in {**_LOOKS_LIKE, b"ORTM": "in ORT's own format"}.items():
        if graph.startswith(start) or (start == b"ORTM" and graph[4:8] == start):
            raise InvalidModel(f"The graph is no ONNX file but {name}.")
    look = _Look(files)
    try:
        look.at_model(memoryview(graph))
    except _Broken:
        raise InvalidModel("The graph is no ONNX file, or a damaged one.") from None
    return tuple(look.found)


class _Broken(Exception):
    """The bytes are no message."""


class _Look:
    """One look through one file. A message that comes in parts is read as one: each part is looked at."""

    def __init__(self, files: Mapping[str, int]) -> None:
        self.found: dict[str, None] = {}
        self._files = files
        self._fields = self._nodes = self._tensors = 0

    def at_model(self, model: memoryview) -> None:
        numbers = set()
        for number, value in self._of(model):
            numbers.add(number)
            if number == 7 and isinstance(value, memoryview):
                self._at_graph(value, 0)
            elif number in (20, 25):
                raise InvalidModel("The graph has functions or training steps of its own: inline or drop them first.")
        if not numbers >= {1, 7, 8}:  # version of the format, graph, versions of operators
            raise _Broken

    def _at_graph(self, graph: memoryview, depth: int) -> None:
        if depth > MOST_DEPTH:
            raise InvalidModel(f"Graphs are nested in one another more than {MOST_DEPTH} deep.")
        for number, value in self._of(graph):
            if not isinstance(value, memoryview):
                continue
            if number == 1:
                self._at_node(value, depth)
            elif number == 5:
                self._at_tensor(value)
            elif number == 15:
                self._at_sparse(value)

    def _at_node(self, node: memoryview, depth: int) -> None:
        self._nodes += 1
        if self._nodes > MOST_NODES:
            raise InvalidModel(f"The graph has more than {MOST_NODES} nodes.")
        for number, value in self._of(node):
            if not isinstance(value, memoryview):
                continue
            if number == 5:
                self._at_attribute(value, depth)
            elif number == 7 and (domain := _text(value)) not in DOMAINS:
                raise InvalidModel(f"An operator is of the domain {domain[:64]!r}; known are {sorted(DOMAINS - {''})}.")
            elif number == 4 and (operator := _text(value)) in REFUSED:
                raise InvalidModel(f"The operator {operator} runs a compiled program, which nobody can look into.")

    def _at_attribute(self, attribute: memoryview, depth: int) -> None:
        for number, value in self._of(attribute):
            if not isinstance(value, memoryview):
                continue
            if number in (6, 11):
                self._at_graph(value, depth + 1)
            elif number in (5, 10):
                self._at_tensor(value)
            elif number in (22, 23):
                self._at_sparse(value)

    def _at_sparse(self, tensor: memoryview) -> None:
        for number, value in self._of(tensor):
            if number in (1, 2) and isinstance(value, memoryview):
                self._at_tensor(value)

    def _at_tensor(self, tensor: memoryview) -> None:
        self._tensors += 1
        if self._tensors > MOST_TENSORS:
            raise InvalidModel(f"The graph has more than {MOST_TENSORS} tensors.")
        outside = False
        entries: list[tuple[str, str]] = []
        for number, value in self._of(tensor):
            if number == 13 and isinstance(value, memoryview):
                entries.append(self._entry(value))
            outside |= number == 14 and value == 1
        if outside or entries:
            self._at_place(entries)

    def _entry(self, entry: memoryview) -> tuple[str, str]:
        texts = {number: _text(value) for number, value in self._of(entry) if isinstance(value, memoryview)}
        return texts.get(1, ""), texts.get(2, "")

    def _at_place(self, entries: list[tuple[str, str]]) -> None:
        """Where a tensor lies outside of the graph: within a file that the manifest lists, which is one of its folder.
        So it is no path, and none of ONNX Runtime's own names, one of which stands for memory."""
        place = dict(entries)
        if len(place) != len(entries) or not place.keys() <= _KEYS or "location" not in place:
            raise InvalidModel("A tensor outside of the graph is described by what is not known.")
        name = place["location"]
        if name not in self._files:
            raise InvalidModel(f"The graph keeps tensors in {name[:64]!r}, which is not listed in the manifest.")
        offset, length = (_number(place.get(key, "0")) for key in ("offset", "length"))
        if offset + length > self._files[name]:
            raise InvalidModel(f"A tensor ends behind the end of {name}.")
        self.found[name] = None

    def _of(self, message: memoryview) -> Iterator[tuple[int, Value]]:
        """Numbers and values of the fields of a message, those of fixed length left out.

        Raises:
            InvalidModel: there are too many.
            _Broken: it is no message.
        """
        at, end = 0, len(message)
        while at < end:
            self._fields += 1
            if self._fields > MOST_FIELDS:
                raise InvalidModel(f"The graph has more than {MOST_FIELDS} parts.")
            tag, at = _varint(message, at)
            number, wire = tag >> 3, tag & 7
            if wire == _VARINT:
                value, at = _varint(message, at)
                yield number, value
            elif wire == _BYTES:
                length, at = _varint(message, at)
                yield number, message[at : at + length]
                at += length
            elif wire in (_EIGHT, _FOUR):
                at += 8 if wire == _EIGHT else 4
            else:
                raise _Broken
            if number == 0 or at > end:
                raise _Broken


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number of at most ten bytes of seven bits, the lowest first, and where it ends."""
    number = 0
    for place, byte in enumerate(message[at : at + 10]):
        number |= (byte & 127) << 7 * place
        if byte < 128:
            return number, at + place + 1
    raise _Broken


def _text(value: memoryview) -> str:
    return bytes(value).decode("utf-8", "replace")


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise InvalidModel("A tensor outside of the graph has a place that is no number.")
    return int(text)
