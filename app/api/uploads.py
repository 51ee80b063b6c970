"""From a request's body to pictures and options: raw bytes, multipart parts, or base64 in JSON."""

import asyncio
import base64
import binascii
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from starlette.types import Receive

from app.api.multipart import parts_of
from app.errors import CallerLeft, EmptyBody, InvalidRequest

MULTIPART: Final = b"multipart/form-data"
JSON: Final = b"application/json"
RECEIVED: Final = "imago.received"
"""Where the scope of a long body says how many bytes of it came: it has its time for each MiB, not for all of it."""
_LONG = 2**16
"""Longer bodies with parts or base64 in them are taken apart in a thread: that takes some milliseconds a megabyte, and
a fifth of a second where parts are made to look like boundaries again and again."""
_MOST_VALUES = 10_000
"""Values of a JSON body, whose pictures are one each: empty lists by the million would take 25 times their bytes, and
the parser lets no other thread run."""


@dataclass(frozen=True)
class Upload:
    """What one body held; a picture that could not be read stands as its error in its place."""

    pictures: list[bytes | InvalidRequest] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)


async def read_upload(receive: Receive, content_type: bytes, max_pictures: int) -> Upload:
    """Read a body to its end, and what is in it as `upload_of` does.

    Raises:
        BodyTooLarge: the body passes the limit while it comes.
        CallerLeft: the connection closed before the end of the body.
        EmptyBody, InvalidRequest: as `upload_of`.
    """
    body = await read_body(receive)
    if len(body) <= _LONG or media_type(content_type) not in (MULTIPART, JSON):
        return upload_of(body, content_type, max_pictures)
    return await asyncio.to_thread(upload_of, body, content_type, max_pictures)


def upload_of(body: bytes, content_type: bytes, max_pictures: int) -> Upload:
    """What is in a body. Anything but `multipart/form-data` and `application/json` counts as the bytes of one picture,
    so that `curl --data-binary @picture.jpg` works without a header.

    Raises:
        EmptyBody: there is no picture in it.
        InvalidRequest: broken multipart or JSON, or more than `max_pictures` pictures.
    """
    kind = media_type(content_type)
    if kind == MULTIPART:
        upload = Upload()
        for name, content in parts_of(body, content_type, max_pictures):
            if isinstance(content, bytes):
                upload.pictures.append(content)
            else:
                upload.options[name] = content
    elif kind == JSON:
        upload = _json(body, max_pictures)
    else:
        return Upload([body])
    if not upload.pictures:
        raise EmptyBody
    return upload


def media_type(content_type: bytes) -> bytes:
    """The media type of a `Content-Type`, without its parameters."""
    return content_type.partition(b";")[0].strip().lower()


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


def _json(body: bytes, max_pictures: int) -> Upload:
    options = _object(body)
    images = options.pop("images", None)
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise InvalidRequest('A JSON body looks like {"images": ["<base64>", ...]}.')
    if len(images) > max_pictures:
        raise InvalidRequest(f"{len(images)} pictures came; at most {max_pictures} are taken in one request.")
    return Upload([from_base64(image) for image in images], options)


def _object(body: bytes) -> dict[str, Any]:
    if len(body) > _MOST_VALUES and sum(map(body.count, (b",", b"[", b"{"))) > _MOST_VALUES:
        raise InvalidRequest(f"The JSON body holds more than {_MOST_VALUES} values.")
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(
            f"The body is not JSON: {error.msg} (character {error.pos}). Send an object, {{...}}."
        ) from None
    if not isinstance(found, dict):
        raise InvalidRequest("The JSON body is no object: send {...}.")
    return found


def from_base64(text: str) -> bytes | InvalidRequest:
    """Decode base64 (RFC 4648, section 4), with or without the `data:` prefix that browsers put before it."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return InvalidRequest("This entry of 'images' is not base64 (RFC 4648, section 4).")
