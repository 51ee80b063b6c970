"""What is logged of callers, and what pages and answers tell browsers."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from openapi_spec_validator import validate
from PIL import Image

from app.api.access import PUBLIC, SCOPE_OF
from app.security.keys import ADMIN, INFER
from app.settings import Settings
from app.telemetry.logs import JsonLines, TextLines
from tests.api.doors import Keys, bearer
from tests.api.service import Service
from tests.imaging.pictures import corners, noise, save

PICTURE = save(noise(12, 9))
STATIC = Path(__file__).parents[2] / "app/api/static"
ADMINS = sorted(path for path, scope in SCOPE_OF.items() if scope == ADMIN)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys") / "keys.json")


@pytest.fixture(scope="module")
def secrets(keys: Keys) -> dict[str, str]:
    return {scope: keys.add(scope) for scope in (INFER, ADMIN)}


@pytest.fixture(scope="module")
def closed(model_root: Path, keys: Keys, secrets: dict[str, str]) -> Iterator[Service]:
    running = Service(Settings(models=model_root, device="cpu", threads=1, keys=keys.path))
    yield running
    running.close()


def lines(caplog: pytest.LogCaptureFixture) -> str:
    """All that was logged, in both forms."""
    return "\n".join(form.format(record) for record in caplog.records for form in (TextLines(), JsonLines()))


def with_a_story() -> bytes:
    """A picture that says where it was taken, by whom, and how."""
    exif = Image.Exif()
    exif[0x013B] = "Jane Photographer"
    exif[0x8825] = {1: "N", 2: (51.0, 28.0, 40.0), 29: "2026:11:21"}
    return save(Image.fromarray(corners()), "JPEG", exif=exif, comment=b"a private comment")


def test_no_line_holds_a_key_a_picture_or_what_it_says_of_itself(
    closed: Service, secrets: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "imago")
    secret = secrets[INFER]
    story = with_a_story()
    wrong = secret[:-4] + "AAAA"
    closed.exchange("POST", "/classify", headers=bearer(secret), body=story)
    closed.exchange("POST", "/classify", headers=bearer(secret), body=story[:-40])
    closed.exchange("POST", "/classify", headers=bearer(wrong), body=story)
    closed.exchange("POST", "/classify", headers=[(b"x-api-key", wrong.encode())], body=story)
    closed.exchange("POST", "/classify", f"key={secret}".encode(), bearer(secret), story)
    closed.exchange("GET", "/nowhere", f"key={secret}".encode(), [(b"authorization", b"Basic " + secret.encode())])
    told = lines(caplog)
    assert f"key {secret.split('_')[1]}" in told
    for hidden in (secret.split("_", 2)[2][:-4], "Jane", "private comment", "2026:11:21", "JFIF", "Exif"):
        assert hidden not in told


def test_a_key_is_named_by_its_id_in_the_line_of_a_request(
    closed: Service, secrets: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    closed.exchange("POST", "/classify", headers=bearer(secrets[INFER]), body=PICTURE)
    assert re.search(rf"POST /classify 200 \d+\.\d ms, key {secrets[INFER].split('_')[1]}$", caplog.messages[-1])


@pytest.mark.parametrize(
    "path",
    ["/classify\n2026-01-01 ERROR forged", "/\x1b[2J", "/\u2028x", "/\udcff", "/\r\nSet-Cookie: a=b"],
    ids=ascii,  # half a letter has no place in a name that goes from process to process
)
def test_a_path_forges_neither_a_line_nor_a_header(
    closed: Service, secrets: dict[str, str], caplog: pytest.LogCaptureFixture, path: str
) -> None:
    caplog.set_level(logging.DEBUG)
    answer = closed.exchange("GET", path, headers=bearer(secrets[ADMIN]))
    assert answer.status == 404
    told = lines(caplog)
    assert told.encode("ascii", "backslashreplace").decode().replace("\n", "").isprintable()
    assert not [line for line in told.splitlines() if line.startswith(("2026-01-01", "Set-Cookie"))]
    assert all(value.isprintable() for value in answer.headers.values())


@pytest.mark.parametrize("path", ADMINS)
def test_who_asks_for_what_is_an_administrator_s_is_audited_whatever_comes_of_it(
    closed: Service, secrets: dict[str, str], caplog: pytest.LogCaptureFixture, path: str
) -> None:
    caplog.set_level(logging.INFO, "imago.audit")
    asked = path.replace("{name}", "nobody").replace("{version}", "1")
    for kind, who in (
        (INFER, secrets[INFER].split("_")[1]),
        (ADMIN, secrets[ADMIN].split("_")[1]),
        (None, "nobody known"),
    ):
        caplog.clear()
        answer = closed.exchange("POST", asked, headers=[] if kind is None else bearer(secrets[kind]), body=b"{}")
        assert f"{who} at 127.0.0.1 asked POST {asked} and was answered {answer.status}" in caplog.messages


@pytest.mark.parametrize("path", ADMINS)
def test_without_keys_what_is_an_administrator_s_is_audited_and_closed_to_pages_of_strangers(
    service: Service, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    caplog.set_level(logging.INFO, "imago.audit")
    asked = path.replace("{name}", "nobody").replace("{version}", "1")

    def is_refused(*headers: tuple[bytes, bytes]) -> bool:
        answer = service.exchange("POST", asked, headers=headers, body=b"{}")
        return answer.status == 403 and answer.json()["code"] == "foreign-origin"

    def from_a_stranger(origin: str, host: str) -> bool:
        return is_refused((b"origin", origin.encode()), (b"host", host.encode()))

    for origin, host in (
        ("http://evil.example", "127.0.0.1:8000"), ("http://evil.example:8000", "evil.example:8000"),
        ("null", "localhost"),
        ("http://203.0.113.9", "127.0.0.1"), ("http://localhost:1", "localhost:8000"), ("http://[", "["), ("", ""),
    ):  # fmt: skip
        assert from_a_stranger(origin, host), (origin, host)
    assert "nobody known at 127.0.0.1 asked POST" in caplog.messages[-1]
    for own in ("localhost:8000", "127.0.0.1:8000", "[::1]:8000"):
        assert not from_a_stranger(f"http://{own}", own)
    assert not is_refused()


def test_a_service_that_asks_nobody_for_a_key_where_others_can_reach_it_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "imago")
    Service(Settings(models=tmp_path, device="cpu", threads=1)).close()
    assert not caplog.messages
    Service(Settings(models=tmp_path, device="cpu", threads=1, insecure_no_auth=True)).close()
    assert caplog.messages == ["insecure_no_auth: whoever reaches this service may call it"]


@pytest.mark.parametrize("path", ["/", "/docs", "/static/index.js", "/static/docs.js"])
def test_a_page_may_run_and_reach_nothing_but_what_comes_from_here(service: Service, path: str) -> None:
    headers = service.get(path).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    assert policy["style-src"] == ("'self' 'unsafe-inline'" if path == "/docs" else "'self'")
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-opener-policy"] == headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["/models", "/tasks", "/metrics", "/openapi.json", "/livez", "/nowhere", "/readyz"])
def test_no_cache_keeps_what_one_caller_may_see(service: Service, path: str) -> None:
    assert service.get(path).headers["cache-control"] == "no-store"


@pytest.mark.parametrize("method", ["OPTIONS", "GET", "POST"])
@pytest.mark.parametrize("path", ["/classify", "/models", "/", "/metrics"])
def test_no_page_of_another_site_is_given_leave_to_read(service: Service, method: str, path: str) -> None:
    headers = [(b"origin", b"http://evil.example"), (b"access-control-request-method", b"POST")]
    answer = service.exchange(method, path, headers=headers, body=PICTURE)
    assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_our_own_scripts_keep_no_key_and_write_no_markup() -> None:
    for file in STATIC.glob("*.js"):
        text = file.read_text()
        for word in (
            "Storage",
            "cookie",
            "innerHTML",
            "outerHTML",
            "insertAdjacent",
            "document.write",
            "eval(",
            "indexedDB",
        ):
            assert word not in text, (file.name, word)


def test_the_openapi_document_says_where_a_key_is_sent(
    closed: Service, secrets: dict[str, str], service: Service
) -> None:
    document = closed.get("/openapi.json", headers={"x-api-key": secrets[INFER]}).json()
    validate(document)
    assert document["security"] == [{"bearer": []}, {"header": []}]
    assert document["components"]["securitySchemes"]["header"]["name"] == "X-API-Key"
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert ("security" in operation) == (SCOPE_OF[path] == PUBLIC)
    assert "security" not in service.get("/openapi.json").json()
