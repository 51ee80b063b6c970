"""gzip and deflate: what libraries write is read, what is written they read, and no bomb is unpacked."""

import gzip
import tracemalloc
import zlib

import pytest

from app.api.compression import accepted_encoding, compress, decompress
from app.errors import BodyTooLarge, InvalidRequest

WRITERS = {b"gzip": gzip.compress, b"deflate": zlib.compress}
READERS = {b"gzip": gzip.decompress, b"deflate": zlib.decompress}
DATA = bytes(range(256)) * 40


@pytest.mark.parametrize("encoding", WRITERS)
def test_both_ways_agree_with_the_libraries(encoding: bytes) -> None:
    assert decompress(WRITERS[encoding](DATA), encoding, len(DATA)) == DATA
    assert READERS[encoding](compress(DATA, encoding)) == DATA
    assert decompress(WRITERS[encoding](b""), encoding, 0) == b""


@pytest.mark.parametrize("encoding", WRITERS)
def test_one_byte_beyond_the_limit_is_too_large(encoding: bytes) -> None:
    with pytest.raises(BodyTooLarge):
        decompress(WRITERS[encoding](DATA), encoding, len(DATA) - 1)


@pytest.mark.parametrize("encoding", WRITERS)
def test_a_bomb_is_not_unpacked(encoding: bytes) -> None:
    bomb = WRITERS[encoding](bytes(100 * 2**20))
    tracemalloc.start()
    try:
        with pytest.raises(BodyTooLarge):
            decompress(bomb, encoding, 2**20)
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("encoding", WRITERS)
@pytest.mark.parametrize("body", [b"", b"plain", DATA, b"\x1f\x8b", b"cut", b"longer", b"other"])
def test_a_body_of_another_form_is_refused(encoding: bytes, body: bytes) -> None:
    packed = WRITERS[encoding](DATA)
    other = WRITERS[next(name for name in WRITERS if name != encoding)](DATA)
    sent = {b"cut": packed[:-1], b"longer": packed + b"x", b"other": other}.get(body, body)
    with pytest.raises(InvalidRequest):
        decompress(sent, encoding, len(DATA))


@pytest.mark.parametrize(
    ("header", "encoding"),
    [(b"", None), (b"identity", None), (b"*", None), (b"br, zstd", None), (b"gzip", b"gzip"), (b"deflate", b"deflate"),
     (b"gzip, deflate, br", b"gzip"), (b"deflate, GZIP;q=0.5", b"deflate"), (b"gzip;q=0", None),
     (b"gzip; q=0.1, deflate; q=0.2", b"deflate"), (b"gzip;q=much", None), (b",;,", None), (b"\xff", None),
     (b"gzip" + b"," * 60_000, None)],
)  # fmt: skip
def test_answers_are_encoded_where_that_is_asked_for(header: bytes, encoding: bytes | None) -> None:
    assert accepted_encoding(header) == encoding
