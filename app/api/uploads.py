"""From a request's body to pictures and options: raw bytes, multipart parts, or base64 in JSON."""

import base64
import binascii
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope

from app.errors import CallerLeft, EmptyBody, InvalidRequest

_MAX_FIELDS = 16


@dataclass(frozen=True)
class Upload:
    """What one body held; a picture that could not be read stands as its error in its place."""

    pictures: list[bytes | InvalidRequest] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)


class _InMemoryParser(MultiPartParser):
    """Starlette's parser, without its temporary files: the body is limited already, and a disk may be read-only."""

    spool_max_size = 2**31
    ended = False

    def on_end(self) -> None:
        """Note that the last boundary came."""
        self.ended = True

    async def parse(self) -> FormData:
        """Parse as Starlette does, and refuse a body cut short, whose last file it leaves out silently."""
        form = await super().parse()
        if not self.ended:
            for file in self._files_to_close_on_error:
                file.close()
            raise MultiPartException("it ends before its last boundary.")
        return form


async def read_upload(scope: Scope, receive: Receive, content_type: bytes, max_pictures: int) -> Upload:
    """Read a body. Anything but `multipart/form-data` and `application/json` counts as the bytes of one picture,
    so that `curl --data-binary @picture.jpg` works without a header.

    Raises:
        EmptyBody: there is no picture in it.
        InvalidRequest: broken multipart or JSON, or more than `max_pictures` pictures.
        BodyTooLarge: the body passes the limit while it comes.
        CallerLeft: the connection closed before the end of the body.
    """
    kind = content_type.partition(b";")[0].strip().lower()
    if kind == b"multipart/form-data":
        upload = await _multipart(Request(scope, receive), max_pictures)
    elif kind == b"application/json":
        upload = _json(await read_body(receive), max_pictures)
    else:
        return Upload([await read_body(receive)])
    if not upload.pictures:
        raise EmptyBody
    return upload


async def read_options(receive: Receive) -> dict[str, Any]:
    """Read a body that holds options alone: a JSON object, or nothing.

    Raises:
        InvalidRequest: the body is something else.
        CallerLeft: the connection closed before the end of the body.
    """
    return options_in(await read_body(receive))


def options_in(body: bytes) -> dict[str, Any]:
    """The options that a body holds; raises `InvalidRequest` as `read_options`."""
    return _object(body) if body else {}


async def read_body(receive: Receive) -> bytes:
    """The whole body; raises `CallerLeft` where the connection closes before its end."""
    chunks: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise CallerLeft
        chunks.append(message.get("body", b""))
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def _multipart(request: Request, max_pictures: int) -> Upload:
    parser = _InMemoryParser(request.headers, request.stream(), max_files=max_pictures, max_fields=_MAX_FIELDS)
    try:
        form = await parser.parse()
    except ClientDisconnect:
        raise CallerLeft from None
    except MultiPartException as error:
        raise InvalidRequest(f"The multipart body cannot be read: {error.message[:200]}") from None
    except UnicodeError:  # of charsets such as `undefined`, which Python knows and cannot decode
        raise InvalidRequest("The multipart body cannot be read: its charset is not for text.") from None
    upload = Upload()
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            upload.pictures.append(await value.read())
        else:
            upload.options[name] = value
    await form.close()
    return upload


def _json(body: bytes, max_pictures: int) -> Upload:
    options = _object(body)
    images = options.pop("images", None)
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise InvalidRequest('A JSON body looks like {"images": ["<base64>", ...]}.')
    if len(images) > max_pictures:
        raise InvalidRequest(f"{len(images)} pictures came; at most {max_pictures} are taken in one request.")
    return Upload([_base64(image) for image in images], options)


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"The body is not JSON: {error.msg} (character {error.pos}).") from None
    if not isinstance(found, dict):
        raise InvalidRequest("The JSON body is no object: send {...}.")
    return found


def _base64(text: str) -> bytes | InvalidRequest:
    """Decode base64 (RFC 4648, section 4), with or without the `data:` prefix that browsers put before it."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return InvalidRequest("This entry of 'images' is not base64 (RFC 4648, section 4).")
