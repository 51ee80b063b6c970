"""From the body of `POST /jobs` to the disk, as it comes: a zip as it is, or the files of a form."""

import asyncio
from pathlib import Path
from typing import Final

from starlette.types import Receive, Scope

from app.api.multipart import StreamedParts
from app.api.uploads import MULTIPART, RECEIVED, media_type
from app.errors import CallerLeft
from app.jobs.arrivals import FilesArrival, ZipArrival
from app.jobs.job import Bounds

_BLOCK: Final = 2**18
"""Bytes that go to a thread together, to be taken apart and written."""

Fields = dict[str, str]


async def receive_pictures(
    scope: Scope, receive: Receive, content_type: bytes, path: Path, bounds: Bounds
) -> tuple[int, bool, Fields]:
    """Receive the pictures of a job into a new zip at this path: how many they are, whether every member of the zip is
    one, and the fields that stood between them.

    Raises:
        InvalidRequest, JobTooLarge, EmptyBody: as `app.jobs.arrivals` and `app.api.multipart`.
        BodyTooLarge, CallerLeft, RequestTimeout: it did not come to its end.
        OSError: it cannot be written.
    """
    if media_type(content_type) != MULTIPART:
        arrival = ZipArrival(path, bounds)
        try:
            await _pass_on(scope, receive, arrival)
            return await asyncio.to_thread(arrival.finish), arrival.every, {}
        finally:
            arrival.close()
    files = FilesArrival(path, bounds)
    try:
        parts = StreamedParts(content_type, bounds.pictures, files)
        await _pass_on(scope, receive, parts)
        fields = parts.finish()
        return await asyncio.to_thread(files.finish), files.every, fields
    finally:
        files.close()


async def _pass_on(scope: Scope, receive: Receive, to: ZipArrival | StreamedParts) -> None:
    """Write a body as it comes, in blocks, while nobody reads more of it than the kernel keeps."""
    block, more = bytearray(), True
    scope[RECEIVED] = 0
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise CallerLeft
        block += message.get("body", b"")
        scope[RECEIVED] += len(message.get("body", b""))
        more = message.get("more_body", False)
        if block and (len(block) >= _BLOCK or not more):
            await asyncio.to_thread(to.write, bytes(block))
            block.clear()
