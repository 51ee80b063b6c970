"""Multipart bodies (RFC 7578): whole in memory, where a picture is anyway, or as they come, for files on the disk."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from encodings import normalize_encoding
from encodings.aliases import aliases
from typing import Any, Final, Protocol, cast

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from app.errors import InvalidRequest

_MAX_FIELDS = 16
_MAX_FIELD_BYTES = 65_536
_USUAL_HEADERS = 4
_USUAL_HEAD_BYTES = 4096
"""Longer heads of parts are left to the parser, which has limits for them: parameters are taken apart in Python, a
microsecond for each few bytes."""
_LONGEST_TYPE: Final = 1024
"""Bytes of a Content-Type: its boundary has 70 at most (RFC 2046, section 5.1.1), and it is taken apart in the same
way, on the event loop."""

_CHARSETS: Final = frozenset((*aliases, *aliases.values()))
"""Others are not looked up: Python keeps every name that it did not find, for ever. Nor are the codecs of its own that
have no other name: the time that `punycode` takes, alone or within `idna`, grows with the square of the text."""

Part = tuple[str, str | bytes]
"""A name with its text, or with the bytes of a file."""


def parts_of(body: bytes, content_type: bytes, max_files: int) -> list[Part]:
    """The parts of a body, in order. A part with a `filename` is a file.

    Raises:
        InvalidRequest: the boundary is missing, the body is cut short or makes no sense, or there are more than
            `max_files` files or 16 fields.
    """
    boundary, charset = _announced(content_type)
    reader = _Reader(charset, max_files)
    with _told():
        if (pieces := _pieces(body, boundary, max_files + _MAX_FIELDS)) is not None:
            for disposition, content in pieces:
                reader.add(disposition, content)
            return reader.parts
        parser = MultipartParser(boundary, cast(Any, reader.callbacks()))
        parser.write(body)
        parser.finalize()
    if not reader.ended:
        raise _unreadable("it ends before its last boundary.")
    return reader.parts


class Files(Protocol):
    """Who takes the files of a body that comes in pieces."""

    def begin(self, name: str) -> None:
        """A file of this name begins; the name may be empty."""

    def write(self, data: bytes) -> None:
        """Its next bytes."""

    def end(self) -> None:
        """All of it has come."""


class StreamedParts:
    """The parts of a body that comes in pieces. Files go on as they come; fields are kept to the end."""

    def __init__(self, content_type: bytes, max_files: int, files: Files) -> None:
        """Begin. Raises `InvalidRequest` as `parts_of`."""
        boundary, charset = _announced(content_type)
        self._reader = _StreamReader(charset, max_files, files)
        self._parser = MultipartParser(boundary, cast(Any, self._reader.callbacks()))

    def write(self, data: bytes) -> None:
        """Take the next piece. Raises `InvalidRequest` as `parts_of`, and what the files raise."""
        with _told():
            self._parser.write(data)

    def finish(self) -> dict[str, str]:
        """All has come: the fields. Raises `InvalidRequest` as `parts_of`."""
        with _told():
            self._parser.finalize()
        if not self._reader.ended:
            raise _unreadable("it ends before its last boundary.")
        return {name: content for name, content in self._reader.parts if isinstance(content, str)}


def _pieces(body: bytes, boundary: bytes, most: int) -> list[tuple[bytes, bytes]] | None:
    """Content-Disposition and content of each part of a body as clients write them; None for whatever is unusual, which
    is left to the parser: it looks at every byte of every header, and takes as long as decoding a small picture."""
    delimiter = b"--" + boundary
    first, *others = body.split(b"\r\n" + delimiter, most)
    if not first.startswith(delimiter) or not others or others.pop() not in (b"--", b"--\r\n"):
        return None
    pieces = []
    for piece in (first[len(delimiter) :], *others):
        head, blank, content = piece.partition(b"\r\n\r\n")
        if len(head) > _USUAL_HEAD_BYTES:
            return None
        lines = head.split(b"\r\n")
        if not blank or lines.pop(0) or len(lines) > _USUAL_HEADERS:
            return None
        headers = [line.partition(b": ") for line in lines]
        if not all(name.replace(b"-", b"").isalpha() and colon for name, colon, _ in headers):
            return None
        found = [value for name, _, value in headers if name.lower() == b"content-disposition"]
        if len(found) != 1:
            return None
        pieces.append((found[0], content))
    return pieces


class _Reader:
    """Collects what the parser finds."""

    def __init__(self, charset: str, max_files: int) -> None:
        self.parts: list[Part] = []
        self.ended = False
        self._charset = charset
        self._left = {True: max_files, False: _MAX_FIELDS}
        self._max_files = max_files
        self._header = [b"", b""]
        self._disposition = b""
        self._name = ""
        self._is_file = False
        self._file = ""
        self._data: list[bytes] = []

    def add(self, disposition: bytes, content: bytes) -> None:
        """Take one whole part."""
        self._disposition, self._data = disposition, []
        self._headers_finished()
        self._collect(content, 0, len(content))
        self._end()

    def callbacks(self) -> dict[str, Callable[..., Any]]:
        """What the parser calls."""
        return {
            "on_part_begin": self._begin, "on_part_data": self._collect, "on_part_end": self._end,
            "on_header_field": self._header_name, "on_header_value": self._header_value,
            "on_header_end": self._header_end, "on_headers_finished": self._headers_finished, "on_end": self._all_read,
        }  # fmt: skip

    def _begin(self) -> None:
        self._disposition, self._data = b"", []

    def _collect(self, data: bytes, start: int, end: int) -> None:
        self._data.append(data[start:end])
        if not self._is_file and sum(map(len, self._data)) > _MAX_FIELD_BYTES:
            raise _unreadable(f"a field is longer than {_MAX_FIELD_BYTES} bytes.")

    def _end(self) -> None:
        content = self._data[0] if len(self._data) == 1 else b"".join(self._data)
        self.parts.append((self._name, content if self._is_file else self._decoded(content)))

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._header[0] += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1] += data[start:end]

    def _header_end(self) -> None:
        if self._header[0].lower() == b"content-disposition":
            self._disposition = self._header[1]
        self._header = [b"", b""]

    def _headers_finished(self) -> None:
        _, parameters = parse_options_header(self._disposition)
        if b"name" not in parameters:
            raise _unreadable("a part has no name in its Content-Disposition.")
        self._name = self._decoded(parameters[b"name"])
        self._is_file = b"filename" in parameters
        self._file = self._decoded(parameters.get(b"filename", b""))
        self._left[self._is_file] -= 1
        if self._left[self._is_file] < 0:
            limit = f"{self._max_files} files" if self._is_file else f"{_MAX_FIELDS} fields"
            raise _unreadable(f"there are too many parts; at most {limit} are taken in one request.")

    def _all_read(self) -> None:
        self.ended = True

    def _decoded(self, text: bytes) -> str:
        try:
            return text.decode(self._charset)
        except UnicodeDecodeError:
            return text.decode("latin-1")


class _StreamReader(_Reader):
    """Passes files on as they come."""

    def __init__(self, charset: str, max_files: int, files: Files) -> None:
        super().__init__(charset, max_files)
        self._files = files

    def _headers_finished(self) -> None:
        super()._headers_finished()
        if self._is_file:
            self._files.begin(self._file)

    def _collect(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._files.write(data[start:end])
        else:
            super()._collect(data, start, end)

    def _end(self) -> None:
        if self._is_file:
            self._files.end()
        else:
            super()._end()


def _announced(content_type: bytes) -> tuple[bytes, str]:
    """Boundary and charset of a body."""
    if len(content_type) > _LONGEST_TYPE:
        raise _unreadable(f"its Content-Type is longer than {_LONGEST_TYPE} bytes.")
    _, parameters = parse_options_header(content_type)
    boundary = parameters.get(b"boundary")
    if not boundary:
        raise _unreadable("its header names no boundary.")
    return boundary, _charset(parameters.get(b"charset", b"utf-8"))


@contextmanager
def _told() -> Iterator[None]:
    """Say what is wrong in one sentence."""
    try:
        yield
    except FormParserError:
        raise _unreadable("it is no valid multipart.") from None
    except (UnicodeError, LookupError):  # of charsets such as `undefined` or `rot13`, which Python knows and cannot use
        raise _unreadable("its charset is not for text.") from None


def _charset(name: bytes) -> str:
    found = normalize_encoding(name.decode("latin-1")).lower()
    return found if found in _CHARSETS else "latin-1"


def _unreadable(why: str) -> InvalidRequest:
    return InvalidRequest(f"The multipart body cannot be read: {why}")
