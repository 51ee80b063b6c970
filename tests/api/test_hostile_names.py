"""Names that try to be more than names, in paths, queries and bodies: unknown, and nothing else."""

import pytest

from tests.api.service import Service
from tests.imaging.pictures import noise, save

PICTURE = save(noise(9, 9))
NAMES = [
    "", ".", "..", "../..", "../../../../etc/passwd", "..\\..\\windows", "/etc/passwd", "//etc/passwd", "C:\\x", "a/b",
    "tiny-classifier/", "tiny-classifier/1", "tiny-classifier/../tiny-classifier", "./tiny-classifier", "%2e%2e%2f",
    "%00", "tiny-classifier\0", "\0", "tiny-classifier.", "tiny-classifier ", " tiny-classifier", "TINY-CLASSIFIER",
    "tiny\u2010classifier", "\uff54\uff49\uff4e\uff59-classifier", "\u202etiny-classifier", "tiny-classifier\u200b",
    "CON", "NUL", "x" * 300, "x" * 20_000, "*", "?", "#", "~", "~root", "${HOME}", "$(id)", "`id`", "; rm -rf /", "|id",
    "' OR 1=1 --", '"', "<script>alert(1)</script>", "{{7*7}}", "%s%s%n", "{0.__class__}", "None", "null", "0", "-1",
    "\r\nSet-Cookie: a=b", "\n", "\t", "\u2028", "\ufeff", "\U0001f600", "a" + "\u0301" * 500, "file:///etc/passwd",
    "http://169.254.169.254/", "\\\\server\\share", "__proto__", "constructor", "manifest.json", "serving.toml",
    ".hidden",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_hostile_model_name_is_an_unknown_model(service: Service, name: str) -> None:
    for body in ({"model": name}, {"model": name, "version": 1}):
        answer = service.ask("POST", "/generate", json=body)
        assert (answer.status_code, answer.json()["code"]) == (404, "model-not-found")
        assert len(answer.content) < 1200
    asked = service.ask("POST", "/classify", params={"model": name}, content=PICTURE)
    assert (asked.status_code, asked.json()["code"]) == (404, "model-not-found")


@pytest.mark.parametrize("name", NAMES, ids=ascii)
@pytest.mark.parametrize(
    "front", ["/models/", "/static/", "/", "/models/tiny-classifier/", "/static/swagger-ui/", "/v2/models/"]
)
def test_a_hostile_path_leads_nowhere(service: Service, front: str, name: str) -> None:
    answer = service.exchange("GET", front + name)
    if front + name in {"/", "/\n"}:  # Starlette lets one line break pass
        assert answer.status == 200
        return
    assert answer.status in {404, 405}
    assert b"root:" not in answer.body
    assert "\n" not in "".join(answer.headers.values())
    assert "location" not in answer.headers


@pytest.mark.parametrize(
    "path",
    [
        "/classify/../models",
        "//classify",
        "/classify%2f",
        "/CLASSIFY",
        "/classify\0",
        "/classify;x=1",
        "/docs/../metrics",
    ],
)
def test_only_its_own_path_leads_to_a_route(service: Service, path: str) -> None:
    assert service.exchange("POST", path, body=PICTURE).status in {404, 405}


def test_nothing_that_is_refused_is_repeated_at_length(service: Service) -> None:
    for told in (
        service.exchange("GET", "/models/" + "x" * 60_000),
        service.exchange("POST", "/classify", b"model=" + b"x" * 60_000, body=PICTURE),
        service.exchange("POST", "/classify", b"x" * 60_000 + b"=1", body=PICTURE),
        service.exchange("X" * 60_000, "/classify"),
        service.exchange("POST", "/classify", headers=[(b"content-encoding", b"x" * 60_000)], body=PICTURE),
    ):
        assert 400 <= told.status < 500
        assert len(told.body) < 600
