"""A client that costs less than the server it asks: HTTP/1.1 over kept connections, one request at a time on each.

A general client such as httpx takes more of a core for a request than a small model does, so that a crowd of such
clients in one process never fills a batch.
"""

import asyncio
import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar
from urllib.parse import urlsplit

import orjson

Label = TypeVar("Label")

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_RETRY_AFTER = re.compile(rb"\r\nretry-after: *(\d+)", re.IGNORECASE)


class RequestFailed(Exception):
    """An answer other than 200."""


async def post_all(
    url: str, clients: int, items: Iterable[tuple[bytes, Label]], use: Callable[[dict[str, Any], Label], None]
) -> int:
    """Post every picture, `clients` at a time, and hand each result over beside its label; return how many. What is
    refused because too much waits is sent again when its Retry-After is over.

    Raises:
        RequestFailed: an answer is neither 200 nor 429.
    """
    target, source, counts = urlsplit(url), iter(items), [0] * clients
    path = f"{target.path}?{target.query}".rstrip("?")

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection(target.hostname, target.port)
        for data, label in source:
            request = f"POST {path} HTTP/1.1\r\nHost: imago\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data
            while (body := await _answered(reader, writer, request)) is None:
                pass
            use(orjson.loads(body)["results"][0], label)
            counts[number] += 1
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*map(client, range(clients)))
    return sum(counts)


async def _answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bytes | None:
    """The body of the answer; None where the request is to be sent again, now."""
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = _LENGTH.search(head)
    body = await reader.readexactly(int(length[1]) if length else 0)
    later = _RETRY_AFTER.search(head)
    if head.startswith(b"HTTP/1.1 429 ") and later is not None:
        await asyncio.sleep(int(later[1]))
        return None
    if not head.startswith(b"HTTP/1.1 200 "):
        raise RequestFailed(f"{head.splitlines()[0].decode()}: {body[:300].decode(errors='replace')}")
    return body
