"""Requests that are not as HTTP/1.1 has them, or more than anybody needs: heads, framing, methods, targets, headers.

What comes late, and who comes in crowds, is in `tests.wire`.
"""

import socket
import zlib

import pytest

from tests.api.connection import request
from tests.hostile.asking import CLOSED, GOOD, Watched, ask, check, check_form, good_request
from tests.hostile.conftest import MAX_BODY

SIZE = b"content-length: %d" % len(GOOD)
MALFORMED = "400 malformed-message"
LONG_HEAD = "431 headers-too-long"
NOT_HERE = "404 route-not-found"
OTHER_METHOD = "405 method-not-allowed"
CODED = "415 unsupported-content-encoding"
NOT_MADE = "406 not-acceptable"
WRONG_OPTION = "422 invalid-option"
BODY_TOO_LONG = "413 body-too-large"
CHUNKED = (b"transfer-encoding: chunked",)
Message = tuple[bytes, str]


def message(first: bytes = b"POST /classify HTTP/1.1", *headers: bytes, body: bytes = GOOD) -> bytes:
    """A request of exactly these lines."""
    return b"\r\n".join([first, b"host: imago", *headers, b"", body])


def chunked(
    *pieces: bytes, headers: tuple[bytes, ...] = (b"transfer-encoding: chunked",), end: bytes = b"0\r\n\r\n"
) -> bytes:
    return message(b"POST /classify HTTP/1.1", *headers, body=b"".join(pieces) + end)


def piece(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def get(target: bytes, *headers: bytes) -> bytes:
    return message(b"GET %b HTTP/1.1" % target, *headers, body=b"")


LINES: dict[str, Message] = {
    "nothing but an end of line": (b"\r\n\r\n", CLOSED),
    "a request of HTTP/0.9": (b"GET /livez\r\n\r\n", "200"),
    "HTTP/2's first line": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", MALFORMED),
    "TLS": (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(512), MALFORMED),
    "SSH": (b"SSH-2.0-OpenSSH_9.2\r\n", MALFORMED),
    "SMTP": (b"EHLO imago\r\nMAIL FROM:<a@b>\r\n", MALFORMED),
    "zeros": (bytes(2000), MALFORMED),
    "no version": (b"POST /classify\r\nhost: x\r\n\r\n", "400 empty-body"),
    "another protocol": (message(b"POST /classify RTSP/1.0", SIZE), "200 red"),
    "a version beyond ours": (message(b"POST /classify HTTP/9.9", SIZE), MALFORMED),
    "a version of two digits": (message(b"POST /classify HTTP/1.10", SIZE), MALFORMED),
    "two blanks": (message(b"POST  /classify HTTP/1.1", SIZE), "200 red"),
    "a tab": (message(b"POST\t/classify HTTP/1.1", SIZE), MALFORMED),
    "a blank before it": (message(b" POST /classify HTTP/1.1", SIZE), MALFORMED),
    "a blank in the target": (message(b"POST /class ify HTTP/1.1", SIZE), MALFORMED),
    "an unknown method": (message(b"BREW /classify HTTP/1.1", SIZE), MALFORMED),
    "a method in small letters": (message(b"post /classify HTTP/1.1", SIZE), MALFORMED),
    "a method with a zero": (message(b"PO\0ST /classify HTTP/1.1", SIZE), MALFORMED),
    "an endless method": (b"A" * 100_000, MALFORMED),
    "lines that end in half": (b"GET /livez HTTP/1.1\nhost: x\n\n", MALFORMED),
    "lines that return alone": (b"GET /livez HTTP/1.1\rhost: x\r\r", MALFORMED),
}
METHODS: dict[str, Message] = {
    **{
        method: (message(b"%b /classify HTTP/1.1" % method.encode(), b"content-length: 0", body=b""), OTHER_METHOD)
        for method in ("GET", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "PURGE", "MKCOL", "LOCK")
    },
    "HEAD of a task": (message(b"HEAD /classify HTTP/1.1", body=b""), "405"),
    "POST of a probe": (message(b"POST /livez HTTP/1.1", SIZE), OTHER_METHOD),
    "DELETE of a model": (message(b"DELETE /models/tiny-classifier HTTP/1.1", body=b""), OTHER_METHOD),
    "CONNECT": (message(b"CONNECT imago:443 HTTP/1.1", body=b""), MALFORMED),
    "CONNECT to a path": (message(b"CONNECT /classify HTTP/1.1", body=b""), OTHER_METHOD),
    "OPTIONS of everything": (message(b"OPTIONS * HTTP/1.1", body=b""), NOT_HERE),
}
TARGETS: dict[str, Message] = {
    "a whole address": (get(b"http://imago/livez"), "200"),
    "another host's address": (get(b"http://elsewhere.example/livez"), "200"),
    "an address without a path": (get(b"http://imago"), MALFORMED),
    "another scheme": (get(b"ftp://imago/livez"), "200"),
    "a word": (get(b"livez"), MALFORMED),
    "a host alone": (get(b"@elsewhere.example"), MALFORMED),
    "two slashes": (get(b"//livez"), NOT_HERE),
    "a host in the path": (get(b"//elsewhere.example/livez"), NOT_HERE),
    "dots": (get(b"/../../etc/passwd"), NOT_HERE),
    "encoded dots": (get(b"/static/%2e%2e/%2e%2e/etc/passwd"), NOT_HERE),
    "dots encoded twice": (get(b"/static/%252e%252e/passwd"), NOT_HERE),
    "dots of other systems": (get(b"/static/..%5c..%5cwindows"), NOT_HERE),
    "an encoded slash": (get(b"/%2flivez"), NOT_HERE),
    "an encoded zero": (get(b"/livez%00"), NOT_HERE),
    "an encoded end of line": (get(b"/livez%0d%0aset-cookie:%20a=b"), NOT_HERE),
    "half an encoding": (get(b"/livez%2"), NOT_HERE),
    "no encoding": (get(b"/livez%zz"), NOT_HERE),
    "bytes that are no text": (get(b"/\xff\xfe"), MALFORMED),
    "bytes that decode to no text": (get(b"/%ff%fe"), NOT_HERE),
    "a fragment": (get(b"/livez#x"), "200"),
    "a semicolon": (get(b"/livez;x=1"), NOT_HERE),
    "another case": (get(b"/LIVEZ"), NOT_HERE),
    "a slash behind it": (get(b"/livez/"), NOT_HERE),
    "a query of nonsense": (get(b"/livez?%%%&&&==="), "200"),
    "the longest target": (get(b"/livez?" + b"x" * 8185), "200"),
    "one byte more": (get(b"/livez?" + b"x" * 8186), "414 target-too-long"),
    "a hundred thousand bytes": (get(b"/" + b"x" * 100_000), "414 target-too-long"),
}
HEADERS: dict[str, Message] = {
    "no colon": (get(b"/livez", b"nonsense"), MALFORMED),
    "a blank before the colon": (get(b"/livez", b"x : y"), MALFORMED),
    "a blank in the name": (get(b"/livez", b"x y: z"), MALFORMED),
    "no name": (get(b"/livez", b": y"), MALFORMED),
    "a folded line": (get(b"/livez", b"x: y", b" z"), MALFORMED),
    "a zero": (get(b"/livez", b"x: a\0b"), MALFORMED),
    "a line return": (get(b"/livez", b"x: a\rb: c"), MALFORMED),
    "bytes that are no text": (get(b"/livez", b"x: \xff\xfe"), "200"),
    "a name in other letters": (get(b"/livez", b"\xc3\xa4: x"), MALFORMED),
    "no host": (b"GET /livez HTTP/1.1\r\n\r\n", "200"),
    "two hosts": (get(b"/livez", b"host: elsewhere.example"), "200"),
    "a host that is a path": (b"GET /livez HTTP/1.1\r\nhost: a/?x=\r\n\r\n", "200"),
    "an empty host": (b"GET /livez HTTP/1.1\r\nhost:\r\n\r\n", "200"),
    "a hundred": (get(b"/livez", *[b"x%d: y" % number for number in range(99)]), "200"),
    "one more": (get(b"/livez", *[b"x%d: y" % number for number in range(100)]), LONG_HEAD),
    "ten thousand": (get(b"/livez", *[b"x: y"] * 10_000), LONG_HEAD),
    "a megabyte in one": (get(b"/livez", b"x: " + b"y" * 1_000_000), LONG_HEAD),
    "a name of a megabyte": (get(b"/livez", b"x" * 1_000_000 + b": y"), LONG_HEAD),
    "a hundred thousand ranges": (get(b"/", b"range: bytes=" + b"0-1," * 100_000), LONG_HEAD),
    "ten thousand ranges": (get(b"/", b"range: bytes=" + b"0-1," * 10_000), "200"),
    "a range beyond the end": (get(b"/", b"range: bytes=99999999999-"), "200"),
    "sixty thousand bytes of tags": (get(b"/", b"if-none-match: " + b'"x",' * 14_000), "200"),
    "another protocol": (get(b"/livez", b"upgrade: websocket", b"connection: upgrade"), "200"),
    "HTTP/2 in the clear": (get(b"/livez", b"upgrade: h2c", b"connection: upgrade, http2-settings"), "200"),
    "another protocol for a task": (message(b"POST /classify HTTP/1.1", SIZE, b"upgrade: x", b"connection: upgrade"),
                                    "200 red"),
    "an id of scripts": (get(b"/livez", b"x-request-id: <script>alert(1)</script>"), "200"),
    "an id of ten thousand bytes": (get(b"/livez", b"x-request-id: " + b"x" * 10_000), "200"),
    "an id that is a line": (get(b"/livez", b"x-request-id: a%0d%0aset-cookie: b"), "200"),
    "a trace that is none": (get(b"/livez", b"traceparent: 00-" + b"z" * 32 + b"-00-00"), "200"),
    "a way that it did not come": (get(b"/livez", b"x-forwarded-for: 10.0.0.1", b"forwarded: for=x"), "200"),
    "another method inside": (message(b"POST /classify HTTP/1.1", SIZE, b"x-http-method-override: DELETE"), "200 red"),
    "another path inside": (get(b"/nowhere", b"x-original-url: /livez", b"x-rewrite-url: /livez"), NOT_HERE),
    **{
        f"a time of {value.decode('latin-1')!r}": (
            message(b"POST /classify HTTP/1.1", SIZE, b"x-request-timeout-ms: " + value), WRONG_OPTION
        )
        for value in (b"", b"0", b"-1", b"1e3", b"1.5", b"NaN", b"inf", b"0x10", b"\xef\xbc\x91", b"9" * 5000, b"1 2")
    },
    **{
        f"an answer of {kind.decode()}": (message(b"POST /classify HTTP/1.1", SIZE, b"accept: " + kind), expected)
        for kind, expected in {
            b"image/gif": NOT_MADE, b"*/*;q=0": NOT_MADE, b"text/html": NOT_MADE,
            b"nonsense": NOT_MADE, b"*/*;q=NaN": NOT_MADE, b",,,": NOT_MADE,
            b"a/b," * 9000 + b"*/*": "200 red", b"application/json;q=2": "200 red", b"": "200 red",
        }.items()
    },
}  # fmt: skip
LENGTHS: dict[str, Message] = {
    "none": (message(body=b""), "400 empty-body"),
    "of nothing": (message(b"POST /classify HTTP/1.1", b"content-length: 0", body=b""), "400 empty-body"),
    "more than comes": (message(b"POST /classify HTTP/1.1", b"content-length: 99999"), CLOSED),
    **{
        repr(value.decode()): (message(b"POST /classify HTTP/1.1", b"content-length: " + value), MALFORMED)
        for value in (b"-1", b"+5", b"1e2", b"0x10", b"5,5", b"5 5", b"5;5", b"", b"9" * 20, b"9" * 400, b"5.0", b"\0")
    },
    "twice the same": (message(b"POST /classify HTTP/1.1", SIZE, SIZE), MALFORMED),
    "two": (message(b"POST /classify HTTP/1.1", SIZE, b"content-length: 3"), MALFORMED),
    "and chunks": (chunked(piece(GOOD), headers=(SIZE, b"transfer-encoding: chunked")), MALFORMED),
    "one over the limit": (message(b"POST /classify HTTP/1.1", b"content-length: %d" % (MAX_BODY + 1)), BODY_TOO_LONG),
    "nineteen digits": (message(b"POST /classify HTTP/1.1", b"content-length: " + b"9" * 18), BODY_TOO_LONG),
    "over the limit, to be asked for": (
        message(b"POST /classify HTTP/1.1", b"content-length: 99999999", b"expect: 100-continue", body=b""),
        BODY_TOO_LONG,
    ),
    "an expectation that is none": (message(b"POST /classify HTTP/1.1", SIZE, b"expect: nonsense"), "200 red"),
}
CHUNKS: dict[str, Message] = {
    "one": (chunked(piece(GOOD)), "200 red"),
    "of one byte each": (chunked(*(piece(bytes([byte])) for byte in GOOD)), "200 red"),
    "a hundred thousand of one byte": (chunked(piece(b"x") * 100_000), "415 unsupported-image"),
    "none": (chunked(), "400 empty-body"),
    "beyond the limit": (chunked(piece(bytes(MAX_BODY // 2)) * 3), BODY_TOO_LONG),
    "one beyond the limit": (chunked(piece(bytes(MAX_BODY + 1))), BODY_TOO_LONG),
    "without an end": (chunked(piece(GOOD), end=b""), CLOSED),
    "of half an end": (chunked(piece(GOOD), end=b"0\r\n"), CLOSED),
    "longer than they say": (chunked(b"3\r\nabcdef\r\n"), MALFORMED),
    "of a size that is no number": (chunked(b"zz\r\nabc\r\n"), MALFORMED),
    "of a size below zero": (chunked(b"-3\r\nabc\r\n"), MALFORMED),
    "of a size with a sign": (chunked(b"+3\r\nabc\r\n"), MALFORMED),
    "of a size in hexadecimal": (chunked(b"0x3\r\nabc\r\n"), MALFORMED),
    "of a size of seventeen digits": (chunked(b"F" * 17 + b"\r\nabc\r\n"), MALFORMED),
    "of a size beyond all memory": (chunked(b"FFFFFFFFFFFFFFF\r\nabc\r\n", end=b""), CLOSED),
    "of no size": (chunked(b"\r\nabc\r\n"), MALFORMED),
    "of a blank before the size": (chunked(b" 3\r\nabc\r\n"), MALFORMED),
    "that end in half a line": (chunked(b"3\nabc\n", end=b"0\n\n"), MALFORMED),
    "that end in another byte": (chunked(b"3\r\nabcXX"), MALFORMED),
    "with an extension": (chunked(b'3;a="b"\r\nabc\r\n'), "415 unsupported-image"),
    "with an endless extension": (chunked(b"3;" + b"x" * 1_000_000 + b"\r\nabc\r\n"), LONG_HEAD),
    "with an extension that is a line": (chunked(b"3;\na\r\nabc\r\n"), MALFORMED),
    "with trailers": (chunked(piece(GOOD), end=b"0\r\nx: y\r\n\r\n"), "200 red"),
    "with endless trailers": (chunked(piece(GOOD), end=b"0\r\n" + b"x: y\r\n" * 200_000 + b"\r\n"), LONG_HEAD),
    "with a length behind": (chunked(piece(GOOD), end=b"0\r\ncontent-length: 5\r\n\r\n"), MALFORMED),
    **{
        f"coded as {coding.decode()!r}": (
            chunked(piece(GOOD), headers=(b"transfer-encoding: " + coding,)), MALFORMED
        )
        for coding in (b"xchunked", b"chunked, identity", b"identity", b"", b"chunked;q=1", b"\x0bchunked")
    },
    "that were compressed, as it is said": (
        chunked(piece(GOOD), headers=(b"transfer-encoding: gzip, chunked",)), "200 red"
    ),
    "coded twice": (
        chunked(piece(GOOD), headers=(b"transfer-encoding: chunked", b"transfer-encoding: chunked")),
        MALFORMED,
    ),
    "of HTTP/1.0": (message(b"POST /classify HTTP/1.0", b"transfer-encoding: chunked", body=piece(GOOD) + b"0\r\n\r\n"),
                    "200 red"),
}  # fmt: skip
CODINGS: dict[str, Message] = {
    coding.decode(): (message(b"POST /classify HTTP/1.1", SIZE, b"content-encoding: " + coding), CODED)
    for coding in (b"gzip", b"deflate", b"br", b"zstd", b"gzip, identity", b"x" * 500, b"aws-chunked", b"identity;q=1")
} | {
    "identity": (message(b"POST /classify HTTP/1.1", SIZE, b"content-encoding: identity"), "200 red"),
    "a bomb": (
        request(zlib.compress(bytes(64 << 20), 9), headers=[(b"content-encoding", b"deflate")]), CODED
    ),
}  # fmt: skip
TABLES = {
    "line": LINES, "method": METHODS, "target": TARGETS, "header": HEADERS, "length": LENGTHS, "chunks": CHUNKS,
    "coding": CODINGS,
}  # fmt: skip
ALL = {f"{table}: {what}": case for table, cases in TABLES.items() for what, case in cases.items()}


@pytest.mark.parametrize("what", ALL)
def test_a_message_has_its_answer(lone: Watched, what: str) -> None:
    reply = check(lone, *ALL[what])
    if reply is not None:
        assert not {"set-cookie", "location"} & reply.headers.keys()
        assert "<script>" not in str(reply.headers)
    lone.check_unharmed()


def test_a_hundred_requests_in_one_go_are_answered_in_their_order(lone: Watched) -> None:
    sent = [b"id-%d" % number for number in range(100)]
    first, *rest = (get(b"/livez", b"x-request-id: " + one) for one in sent)
    last = message(b"GET /nowhere HTTP/1.1", b"connection: close", body=b"")
    with socket.create_connection(lone.url.removeprefix("http://").split(":"), timeout=20) as caller:
        caller.sendall(b"".join([first, *rest, last]))
        text = b"".join(iter(lambda: caller.recv(65_536), b""))
    told = [line.removeprefix(b"x-request-id: ") for line in text.split(b"\r\n") if line.startswith(b"x-request-id")]
    assert told[:-1] == sent
    assert text.count(b"HTTP/1.1 200") == 100
    assert text.count(b"HTTP/1.1 404") == 1
    lone.check_unharmed()


@pytest.mark.parametrize("ending", ["chunked", "length", "refused"])
def test_what_is_smuggled_behind_a_request_that_is_refused_is_not_run(lone: Watched, ending: str) -> None:
    behind = get(b"/metrics")
    first = {
        "chunked": chunked(b"zz\r\n", end=b""),
        "length": message(b"POST /classify HTTP/1.1", SIZE, b"content-length: 3"),
        "refused": request(b"x" * (MAX_BODY + 1)),
    }[ending]
    reply = ask(lone.url, first + behind)
    assert reply is not None
    check_form(reply)
    assert reply.status in {400, 413}
    lone.check_unharmed()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_caller_who_leaves_while_it_sends_leaves_nothing_behind(lone: Watched, share: float) -> None:
    for whole in (good_request(), chunked(piece(GOOD)), request(bytes(1_000_000))):
        assert ask(lone.url, whole[: int(len(whole) * share)], hang_up=True) is None
    lone.check_unharmed()
