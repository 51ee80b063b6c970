"""The authorisation matrix: every route of the application, every method, every kind of key, every odd spelling."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.routing import BaseRoute, Route

from app.api.access import PUBLIC, SCOPE_OF
from app.main import create_app
from app.security.keys import ADMIN, INFER, METRICS
from app.settings import Settings
from tests.api.doors import MODEL, OTHER, Keys, bearer
from tests.api.service import Answer, Service
from tests.imaging.pictures import noise, save
from tests.make_models import make_classifier, make_segmenter

PICTURE = save(noise(12, 9))
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get", "BREW"]
WRONG = f"imago_00000000_{'x' * 43}"
KINDS = {"infer": (INFER,), "one model": (f"infer:{MODEL}",), "metrics": (METRICS,), "admin": (ADMIN,)}
OPENS = {
    "none": set(), "wrong": set(), "infer": {INFER}, "one model": {INFER}, "metrics": {METRICS},
    "admin": {INFER, METRICS, ADMIN},
}  # fmt: skip
ROUTES: list[BaseRoute] = create_app(Settings(device="cpu")).router.routes
PATHS = sorted({str(getattr(route, "path", route)) for route in ROUTES})


def concrete(path: str) -> str:
    """A path that this route answers."""
    path = path.replace("{name:path}", "index.js").replace("{name}", MODEL).replace("{version}", "1")
    return path.replace("{gallery}", "faces").replace("{id}", "anna")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys") / "keys.json")


@pytest.fixture(scope="module")
def secrets(keys: Keys) -> dict[str, str]:
    return {"wrong": WRONG, **{kind: keys.add(*scopes) for kind, scopes in KINDS.items()}}


@pytest.fixture(scope="module")
def closed(model_root: Path, keys: Keys, secrets: dict[str, str]) -> Iterator[Service]:
    """The application behind keys."""
    running = Service(Settings(models=model_root, device="cpu", threads=1, keys=keys.path))
    yield running
    running.close()


def ask(closed: Service, secrets: dict[str, str], kind: str, method: str, path: str, query: bytes = b"") -> Answer:
    headers = [] if kind == "none" else bearer(secrets[kind])
    return closed.exchange(method, path, query, headers, PICTURE)


def is_let_in(answer: Answer) -> bool:
    """Whether the check of keys let a request pass, whatever its route said then."""
    off = (b"model-control-off", b"galleries-off", b"jobs-off")
    return answer.status not in {401, 403, 429} or any(code in answer.body for code in off)


def test_every_route_has_a_scope_and_every_scope_a_route() -> None:
    """A route without one is closed to everybody: name it in `SCOPE_OF`, in app/api/access.py."""
    assert all(isinstance(route, Route) for route in ROUTES), "a router was included, which hides its routes"
    assert set(PATHS) == set(SCOPE_OF)
    assert set(SCOPE_OF.values()) <= {PUBLIC, INFER, METRICS, ADMIN}


def test_what_is_public_is_written_here_again() -> None:
    assert {path for path, scope in SCOPE_OF.items() if scope == PUBLIC} == {
        "/", "/docs", "/static/{name:path}", "/livez", "/readyz", "/v2/health/live", "/v2/health/ready",
    }  # fmt: skip


@pytest.mark.parametrize("kind", OPENS)
@pytest.mark.parametrize("path", PATHS)
def test_a_key_opens_the_routes_of_its_scopes_with_every_method_and_no_other(
    closed: Service, secrets: dict[str, str], path: str, kind: str
) -> None:
    may = SCOPE_OF[path] == PUBLIC or SCOPE_OF[path] in OPENS[kind]
    for method in METHODS:
        answer = ask(closed, secrets, kind, method, concrete(path))
        if may:
            assert is_let_in(answer), (method, answer)
        elif kind == "none":
            assert answer.status == 401
            assert answer.headers["www-authenticate"] == 'Bearer realm="imago"'
        elif kind == "wrong":
            assert answer.status in {401, 429}
        else:
            assert (answer.status, answer.json()["code"]) == (403, "scope-missing")


def spellings(path: str) -> set[str]:
    """What might be taken for a path, by one that decides and another that answers."""
    return {
        "/" + path, path + "/", path + "//", path.replace("/", "//"), path + "/.", "/." + path, "/x/.." + path,
        path + "%2f", "/%2f" + path[1:], path.upper(), path + ";x=1", path + "\0", path + "\n", path + " ", " " + path,
        path + ".json", path.replace("/", "\\"), path[1:], path + "?x=/livez", path + "#", "/livez/.." + path,
        "/livez" + path, "/static/.." + path, "/static/../" + path, "http://imago" + path, "*", "",
    }  # fmt: skip


@pytest.mark.parametrize("path", [path for path, scope in SCOPE_OF.items() if scope != PUBLIC])
def test_no_spelling_of_a_path_leads_around_the_key(closed: Service, secrets: dict[str, str], path: str) -> None:
    for spelling, kind, method in itertools.product(spellings(concrete(path)), ("none", "wrong"), ("GET", "POST")):
        answer = ask(closed, secrets, kind, method, spelling)
        public = spelling.startswith("/static/") or spelling in {"/", "/\n"}
        assert answer.status in ({404, 405} if public else {401, 429}), (spelling, answer)


@pytest.mark.parametrize(
    "headers",
    [
        [(b"host", b"a/?x=")], [(b"host", b"imago/livez?")], [(b"host", b"")], [(b"x-forwarded-prefix", b"/livez")],
        [(b"x-original-url", b"/livez")], [(b"x-rewrite-url", b"/livez")], [(b"x-http-method-override", b"GET")],
        [(b"x-forwarded-for", b"127.0.0.1")], [(b"forwarded", b"for=127.0.0.1")], [(b"origin", b"http://imago")],
        [(b"cookie", b"key=" + b"x" * 43)], [(b"authorization", b"Basic aW1hZ286aW1hZ28=")],
        [(b"authorization", b"Bearer")],
        [(b"authorization", b"Bearer ")], [(b"authorization", b"")], [(b"x-api-key", b"")], [(b"x-api-key", b"\xff\0")],
        [(b"authorization", b"Bearer " + b"x" * 60_000)], [(b"authorization", b"bearer imago_00000000_")],
    ],
    ids=lambda headers: b"=".join(headers[0])[:40].decode("latin-1"),
)  # fmt: skip
def test_no_header_but_a_key_lets_anybody_in(closed: Service, headers: list[tuple[bytes, bytes]]) -> None:
    for path, method in itertools.product(PATHS, ("GET", "POST")):
        answer = closed.exchange(method, concrete(path), headers=headers, body=PICTURE)
        assert is_let_in(answer) == (SCOPE_OF[path] == PUBLIC), (path, method)


@pytest.mark.parametrize("path", PATHS)
def test_a_key_in_the_query_string_opens_nothing(closed: Service, secrets: dict[str, str], path: str) -> None:
    for name in ("key", "api_key", "apikey", "access_token", "token", "authorization", "x-api-key"):
        answer = closed.exchange("GET", concrete(path), f"{name}={secrets['admin']}".encode())
        assert is_let_in(answer) == (SCOPE_OF[path] == PUBLIC)


def test_a_key_is_taken_from_either_header(closed: Service, secrets: dict[str, str]) -> None:
    secret = secrets["infer"].encode()
    for header in (
        (b"authorization", b"Bearer " + secret), (b"authorization", b"bearer " + secret),
        (b"authorization", b"BEARER  " + secret + b" "), (b"x-api-key", secret),
    ):  # fmt: skip
        assert closed.exchange("POST", "/classify", headers=[header], body=PICTURE).status == 200


@pytest.mark.parametrize("body", [PICTURE, bytes(20_000), b""])
def test_a_refusal_looks_the_same_whatever_was_sent(closed: Service, body: bytes) -> None:
    answer = closed.exchange("POST", "/classify", body=body)
    assert (answer.status, answer.json()["code"]) == (401, "unauthenticated")
    assert len(answer.body) < 500


def same(*answers: Answer) -> bool:
    """Whether answers differ in their ids, times and the name asked for alone."""

    def told(answer: Answer) -> tuple[int, set[str], str]:
        text = answer.body.decode().replace(answer.headers["x-request-id"], "ID")
        for name in (OTHER, "tiny-unknownone", "tiny-generator"):
            text = text.replace(name, "NAME")
        return answer.status, set(answer.headers), text

    return len({json.dumps([*map(str, told(answer)[::2]), *sorted(told(answer)[1])]) for answer in answers}) == 1


@pytest.mark.parametrize("path", [path for path in PATHS if "{name}" in path])
def test_a_model_of_others_is_as_unknown_as_one_that_does_not_exist(
    closed: Service, secrets: dict[str, str], path: str
) -> None:
    for method in METHODS:
        asked = [
            closed.exchange(method, concrete(path).replace(MODEL, name), headers=bearer(secrets["one model"]))
            for name in (OTHER, "tiny-unknownone")
        ]
        assert same(*asked), asked
        assert SCOPE_OF[path] != INFER or asked[0].status in {404, 405}


@pytest.mark.parametrize("query", [b"", b"&version=1", b"&version=9", b"&top_k=1"])
def test_a_task_answers_for_a_model_of_others_as_for_one_that_does_not_exist(
    closed: Service, secrets: dict[str, str], query: bytes
) -> None:
    for path in ("/classify", "/segment", "/generate"):
        asked = [
            closed.exchange("POST", path, b"model=" + name + query, bearer(secrets["one model"]), PICTURE)
            for name in (OTHER.encode(), b"tiny-unknownone", b"tiny-generator")
        ]
        assert same(*asked), asked
    named = {"model": OTHER}
    hidden = closed.post("/generate", json=named, headers={"x-api-key": secrets["one model"]})
    assert (hidden.status_code, hidden.json()["code"]) == (404, "model-not-found")


def test_a_default_of_others_is_no_model(closed: Service, secrets: dict[str, str]) -> None:
    answer = ask(closed, secrets, "one model", "POST", "/segment")
    assert (answer.status, answer.json()["code"]) == (404, "model-not-found")
    assert OTHER not in answer.body.decode()
    assert ask(closed, secrets, "one model", "POST", "/classify").status == 200


@pytest.mark.parametrize("path", [path for path in PATHS if "{" not in path])
def test_nothing_names_the_models_of_others(closed: Service, secrets: dict[str, str], path: str) -> None:
    for kind in ("none", "one model"):
        for method in ("GET", "POST"):
            text = ask(closed, secrets, kind, method, path).body.decode("latin-1")
            assert OTHER not in text
            assert "tiny-generator" not in text
            assert kind != "none" or MODEL not in text


def test_a_key_for_one_model_sees_that_one(closed: Service, secrets: dict[str, str]) -> None:
    listed = ask(closed, secrets, "one model", "GET", "/models").json()["models"]
    assert [model["name"] for model in listed] == [MODEL]
    tasks = {task["task"]: task for task in ask(closed, secrets, "one model", "GET", "/tasks").json()["tasks"]}
    assert (tasks["classify"]["default_model"], tasks["classify"]["models"]) == (MODEL, [MODEL])
    assert (tasks["segment"]["default_model"], tasks["segment"]["models"]) == (None, [])


def test_without_a_key_readiness_names_nothing_that_is_broken(
    tmp_path: Path, keys: Keys, secrets: dict[str, str]
) -> None:
    make_segmenter(tmp_path)
    (make_classifier(tmp_path) / "model.onnx").write_bytes(b"broken")
    running = Service(Settings(models=tmp_path, device="cpu", threads=1, keys=keys.path))
    try:
        assert running.get("/readyz").json() == {
            "ready": True,
            "draining": False,
            "settled": True,
            "loading": [],
            "failed": {},
        }
        told = running.get("/readyz", headers={"x-api-key": secrets["infer"]}).json()
        assert list(told["failed"]) == [f"{MODEL}/1"]
        hidden = running.get("/readyz", headers={"x-api-key": secrets["wrong"]}).json()
        assert hidden["failed"] == {}
    finally:
        running.close()


def test_without_keys_everything_is_open(service: Service) -> None:
    for path in PATHS:
        for method in METHODS:
            assert is_let_in(service.exchange(method, concrete(path), body=PICTURE))
