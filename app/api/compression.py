"""Bodies as gzip or deflate (RFC 9110, section 8.4.1; deflate is the zlib format, RFC 1950), for tensors in and out."""

import zlib
from functools import lru_cache
from typing import Final

from app.api.calls import LONGEST_ACCEPT
from app.errors import BodyTooLarge, InvalidRequest

ENCODINGS: Final = {b"gzip": 31, b"deflate": 15}
"""Content codings, and the window bits that zlib knows their formats by."""


def decompress(body: bytes, encoding: bytes, limit: int) -> bytes:
    """The bytes that a body stands for; no more than `limit` of them, and one, are ever made.

    Raises:
        BodyTooLarge: they are more.
        InvalidRequest: the body is not of this encoding, cut short, or goes on after its end.
    """
    stream = zlib.decompressobj(ENCODINGS[encoding])
    try:
        found = stream.decompress(body, limit + 1)
    except zlib.error:
        raise InvalidRequest(f"The body is no {encoding.decode()} data.") from None
    if len(found) > limit:
        raise BodyTooLarge(limit)
    if not stream.eof or stream.unused_data:
        raise InvalidRequest(f"The {encoding.decode()} data of the body do not end where it ends.")
    return found


def compress(body: bytes, encoding: bytes) -> bytes:
    """A body in this encoding, at zlib's quickest level: the network is mostly near."""
    stream = zlib.compressobj(1, wbits=ENCODINGS[encoding])
    return stream.compress(body) + stream.flush()


@lru_cache(maxsize=256)
def accepted_encoding(header: bytes) -> bytes | None:
    """Which of gzip and deflate an `Accept-Encoding` asks for by name, or None (RFC 9110, section 12.5.3), as where it
    is too long to be read."""
    if len(header) > LONGEST_ACCEPT:
        return None
    weights: dict[bytes, float] = {}
    for entry in header.lower().split(b","):
        coding, _, parameter = entry.partition(b";")
        if (name := coding.strip()) in ENCODINGS:
            weights[name] = _weight(parameter.strip())
    best = max(weights, key=weights.__getitem__, default=None)
    return best if best is not None and weights[best] > 0 else None


def _weight(parameter: bytes) -> float:
    if not parameter.startswith(b"q="):
        return 1.0
    try:
        return float(parameter[2:])
    except ValueError:
        return 0.0
