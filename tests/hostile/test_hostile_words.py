"""Words that try to be more than words: parameters, names of models and versions, and keys."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from app.security.keys import ADMIN, INFER
from benchmarks.server import running_server
from tests.api.connection import request
from tests.api.doors import Keys
from tests.api.test_hostile_names import NAMES
from tests.hostile.asking import GOOD, Watched, check
from tests.hostile.conftest import QUIET

WRONG = "422 invalid-option"
UNKNOWN = "404 model-not-found"
NOT_HERE = "404 route-not-found"
NUMBERS = [
    "", "NaN", "inf", "-inf", "-1", "1e400", "1e308", "9223372036854775808", "0x10", "1,5", "1;2", "true", "null", "[]",
    "[1]", "{}", "1%00", "%F0%9F%98%80", "9" * 5000, "1' OR '1'='1", "$(id)", "../1", "%0a1%0a2",
]  # fmt: skip
"""No numbers, or none that anything here can have."""
QUERIES: dict[str, str] = {
    **{f"/classify?top_k={value}": WRONG for value in [*NUMBERS, "0", "1001", "1.5", "0.0"]},
    **{f"/classify?coverage={value}": WRONG for value in [*NUMBERS[:-1], "1.5", "2"]},
    **{f"/classify?explain={value}": WRONG for value in ("perhaps", "2", "", "nul", "[]")},
    **{f"/segment?mask={value}": WRONG for value in ("", "gif", "PNG ", "../png", "png,rle")},
    **{f"/segment?render={value}": WRONG for value in ("", "none", "labels\0".replace("\0", "%00"))},
    **{f"/detect?threshold={value}": WRONG for value in [*NUMBERS, "1.1"]},
    **{f"/detect?max_count={value}": WRONG for value in [*NUMBERS, "0", "1001"]},
    **{f"/generate?count={value}": WRONG for value in [*NUMBERS, "0", "65", "1.5"]},
    **{f"/generate?seed={value}": WRONG for value in [*NUMBERS, "1.5"]},
    **{f"/generate?index={value}": WRONG for value in [*NUMBERS, "2147483649"]},
    **{f"/generate?truncation={value}": WRONG for value in [*NUMBERS, "0", "11"]},
    **{f"/generate?class={value}": WRONG for value in ("", "-1", "3", "1e0", "unknown", "%00", "9" * 5000)},
    **{f"/classify?version={value}": WRONG for value in NUMBERS},
    **{f"/classify?version={value}": UNKNOWN for value in ("0", "2", "-1", "9223372036854775808")},
    **{f"/classify?version={value}": UNKNOWN for value in ("inf", "true", "null")},  # names that a version may have
    "/classify?": "200 red",
    "/classify?&&&": "200 red",
    "/classify?top_k": WRONG,
    "/classify?=1": WRONG,
    "/classify?top_k=1&top_k=2": WRONG,
    "/classify?top_k=1;version=2": WRONG,
    "/classify?TOP_K=1": WRONG,
    "/classify?top_k%5b%5d=1": WRONG,
    "/classify?top_k=%31": "200 red",
    "/classify?top_k=%zz": WRONG,
    "/classify?top_k=\xff": "400 malformed-message",
    "/classify?%ff=1": WRONG,
    "/classify?" + "&".join(f"a{number}=1" for number in range(40)): WRONG,
    "/classify?" + "x" * 8000: WRONG,
    "/classify?model=tiny-segmenter": "400 wrong-task",
    "/segment?model=tiny-classifier": "400 wrong-task",
}  # fmt: skip
HOSTILE_NAMES = [name for name in NAMES if 0 < len(name) < 2000]
"""Those that fit into a target."""


def read(target: str) -> bytes:
    return request(target=target.encode("latin-1"), method=b"GET")


def by_name(names: Iterable[str]) -> Iterator[tuple[str, bytes, str]]:
    """Requests that name a model: in a query, in a body, in paths."""
    for name in names:
        coded = quote(name, safe="")
        shown = ascii(name[:40])
        yield f"query {shown}", request(GOOD, b"/classify?model=" + coded.encode()), UNKNOWN
        yield f"body {shown}", request(json.dumps({"model": name}).encode(), b"/generate"), UNKNOWN
        for front, back in (
            ("/models/", ""),
            ("/v2/models/", ""),
            ("/v2/models/", "/ready"),
            ("/v2/models/", "/stats"),
        ):
            yield f"{front}{shown}{back}", read(front + coded + back), f"{UNKNOWN} | {NOT_HERE}"
        yield f"infer {shown}", request(b"{}", f"/v2/models/{coded}/infer".encode()), f"{UNKNOWN} | {NOT_HERE}"


NAMED = {what: (data, expected) for what, data, expected in by_name(HOSTILE_NAMES)}
VERSIONS = ["0", "01", "-1", "+1", "1e3", "1.0", "9" * 400, "x", "%201", "%ef%bc%91", "..", "%2e%2e", "1%00", "latest"]


def asked(target: str) -> bytes:
    return request(b"" if "/generate" in target else GOOD, target.replace(" ", "%20").encode("latin-1"))


ALL = {ascii(target[:60]): (asked(target), expected) for target, expected in QUERIES.items()} | NAMED


@pytest.mark.parametrize("what", ALL)
def test_a_word_has_its_answer(lone: Watched, what: str) -> None:
    check(lone, *ALL[what])
    lone.check_unharmed()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_version_is_unknown(lone: Watched, version: str) -> None:
    front = f"/v2/models/tiny-classifier/versions/{version}"
    for data in (read(front), read(front + "/ready"), request(b"{}", f"{front}/infer".encode())):
        check(lone, data, f"{UNKNOWN} | {NOT_HERE}")
    lone.check_unharmed()


@pytest.fixture(scope="module")
def locked(model_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Watched, str, str]]:
    """A server behind keys; a key for inference and one for everything."""
    keys = Keys(tmp_path_factory.mktemp("keys") / "keys.json")
    infer, admin = keys.add(INFER), keys.add(ADMIN)
    with running_server(model_root, "--workers", "1", "--keys", str(keys.path), *QUIET) as server:
        good = request(GOOD, headers=[(b"x-api-key", infer.encode())])
        yield Watched(server, good), infer, admin


NO_KEY = "401 unauthenticated"
NOT_IT = "401 unauthenticated | 429 too-many-guesses"
KEYS: dict[str, tuple[list[tuple[bytes, bytes]], str]] = {
    "none": ([], NO_KEY),
    "empty": ([(b"x-api-key", b"")], NOT_IT),
    "Bearer alone": ([(b"authorization", b"Bearer")], NOT_IT),
    "Bearer and a blank": ([(b"authorization", b"Bearer ")], NOT_IT),
    "Basic": ([(b"authorization", b"Basic aW1hZ286aW1hZ28=")], NOT_IT),
    "Digest": ([(b"authorization", b'Digest username="a"')], NOT_IT),
    "Negotiate": ([(b"authorization", b"Negotiate YII=")], NOT_IT),
    "a JSON web token of no algorithm": ([(b"authorization", b"Bearer eyJhbGciOiJub25lIn0.e30.")], NOT_IT),
    "without its secret": ([(b"x-api-key", b"ID_")], NOT_IT),
    "with another secret": ([(b"x-api-key", b"ID_" + b"x" * 43)], NOT_IT),
    "cut by one": ([(b"x-api-key", b"CUT")], NOT_IT),
    "and one more": ([(b"x-api-key", b"KEYx")], NOT_IT),
    "in capitals": ([(b"x-api-key", b"UPPER")], NOT_IT),
    "with a zero": ([(b"authorization", b"Bearer KEY%00")], NOT_IT),
    "in quotation marks": ([(b"x-api-key", b'"KEY"')], NOT_IT),
    "twice in one": ([(b"x-api-key", b"KEY, KEY")], NOT_IT),
    "of fifty thousand bytes": ([(b"x-api-key", b"imago_" + b"x" * 50_000)], NOT_IT),
    "of no text": ([(b"x-api-key", b"\xff\xfe")], NOT_IT),
    "in a cookie": ([(b"cookie", b"x-api-key=KEY; key=KEY")], NO_KEY),
    "in another header": ([(b"x-auth-token", b"KEY"), (b"api-key", b"KEY"), (b"proxy-authorization", b"KEY")], NO_KEY),
    "of another's proxy": ([(b"x-forwarded-user", b"admin"), (b"x-forwarded-for", b"127.0.0.1")], NO_KEY),
    "of the host": ([(b"forwarded", b"for=127.0.0.1;by=127.0.0.1")], NO_KEY),
    "right": ([(b"x-api-key", b"KEY")], "200 red"),
    "right, as a bearer's": ([(b"authorization", b"Bearer KEY")], "200 red"),
}
CLOSED_TO_INFERENCE = ["/models/tiny-classifier/x", "/metrics", "/openapi.json", "/v2/repository/index"]


@pytest.mark.parametrize("what", KEYS)
def test_a_key_has_its_answer(locked: tuple[Watched, str, str], what: str) -> None:
    watched, infer, _ = locked
    words = {b"KEY": infer.encode(), b"CUT": infer[:-1].encode(), b"UPPER": infer.upper().encode()}
    words[b"ID_"] = "_".join([*infer.split("_")[:2], ""]).encode()
    headers, expected = KEYS[what]
    for word, value in words.items():
        headers = [(name, given.replace(word, value)) for name, given in headers]
    reply = check(watched, request(GOOD, headers=headers), expected)
    assert reply is not None
    assert infer.encode() not in reply.body
    watched.check_unharmed()


@pytest.mark.parametrize("name", ["key", "api_key", "access_token", "token", "x-api-key", "authorization"])
def test_a_key_in_a_query_opens_nothing(locked: tuple[Watched, str, str], name: str) -> None:
    watched, infer, admin = locked
    for secret in (infer, admin):
        reply = check(watched, request(GOOD, f"/classify?{name}={secret}".encode()), NO_KEY)
        assert reply is not None
        assert secret.encode() not in reply.body
    watched.check_unharmed()


@pytest.mark.parametrize(
    "target", ["/metrics", "/metrics/", "//metrics", "/%2fmetrics", "/livez/../metrics", "/METRICS", "/metrics%00",
               "/metrics?x=/livez", "http://imago/metrics", "/static/../metrics", "/static/%2e%2e/metrics"]
)  # fmt: skip
def test_no_spelling_leads_around_a_key(locked: tuple[Watched, str, str], target: str) -> None:
    watched, infer, _ = locked
    expected = NOT_HERE if target.startswith("/static") else NO_KEY
    check(watched, read(target), expected)
    check(watched, b"GET %b HTTP/1.1\r\nhost: a/?x=/livez\r\n\r\n" % target.encode(), expected)
    for method in (b"GET", b"HEAD", b"POST"):
        data = request(target=target.encode(), headers=[(b"x-api-key", infer.encode())], method=method)
        check(watched, data, "403 | 403 scope-missing | 404 | 404 route-not-found | 405 | 405 method-not-allowed")
    watched.check_unharmed()
