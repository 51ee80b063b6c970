"""Galleries over HTTP: pictures go in, the nearest ids come out; whose they are, and of which model."""

import base64
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from app.settings import Settings
from tests.api.doors import Keys
from tests.api.service import Service
from tests.imaging.pictures import noise, save
from tests.make_models import embedding_of, make_classifier, make_embedder

ANNA, BERTA, CAROL = (noise(8, 8, seed) for seed in range(3))
SCOPES = {"first": "infer", "second": "infer", "admin": "admin", "one model": "infer:wider"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    make_embedder(root)
    make_embedder(root, name="wider", size=16)
    make_classifier(root)
    return root


@pytest.fixture(scope="module")
def running(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("galleries")
    service = Service(Settings(models=models, galleries=folder, max_vectors=40, device="cpu", threads=1))
    yield service
    service.close()


@pytest.fixture
def service(running: Service) -> Iterator[Service]:
    yield running
    for gallery in running.get("/galleries").json()["galleries"]:
        assert running.ask("DELETE", f"/galleries/{gallery['name']}").status_code == 204


def put(service: Service, path: str, picture: np.ndarray, **rest: Any) -> httpx.Response:
    return service.ask("PUT", f"/galleries/{path}", content=save(picture), **rest)


def ids(answer: httpx.Response) -> list[list[str]]:
    assert answer.status_code == 200, answer.text
    return [[match["id"] for match in result["matches"]] for result in answer.json()["results"]]


def refused(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def test_the_nearest_id_is_found_with_its_cosine_and_its_metadata(service: Service) -> None:
    metadata = {"room": 12, "of": ["a", None]}
    entry = put(service, "faces/anna", ANNA, params={"metadata": json.dumps(metadata)})
    assert (entry.status_code, entry.json()["vectors"], entry.json()["metadata"]) == (200, 1, metadata)
    put(service, "faces/berta", BERTA)
    near = ANNA // 2 + BERTA // 8
    answer = service.post("/galleries/faces/search?count=2", save(near))
    assert ids(answer) == [["anna", "berta"]]
    found = answer.json()
    assert (found["gallery"], found["model"], found["version"]) == ("faces", "tiny-embedder", 1)
    matches = found["results"][0]["matches"]
    assert matches[0]["metadata"] == metadata
    for match, picture in zip(matches, (ANNA, BERTA), strict=True):
        assert match["score"] == pytest.approx(embedding_of(near) @ embedding_of(picture), abs=1e-3)


def test_several_pictures_of_an_id_are_one_id_found_by_any_of_them(service: Service) -> None:
    files = [("file", ("a", save(picture))) for picture in (ANNA, BERTA)]
    entry = service.ask("PUT", "/galleries/faces/both", files=files, data={"metadata": '{"n": 1}'})
    assert (entry.json()["vectors"], entry.json()["metadata"]) == (2, {"n": 1})
    put(service, "faces/carol", CAROL)
    images = [base64.b64encode(save(picture)).decode() for picture in (ANNA, BERTA, CAROL)]
    answer = service.ask("POST", "/galleries/faces/search", json={"images": images, "count": 1})
    assert ids(answer) == [["both"], ["both"], ["carol"]]
    assert all(result["matches"][0]["score"] > 0.999 for result in answer.json()["results"])


def test_a_put_replaces_what_an_id_had(service: Service) -> None:
    put(service, "faces/anna", ANNA, params={"metadata": '{"old": true}'})
    created = service.get("/galleries/faces/anna").json()["created"]
    images = [base64.b64encode(save(BERTA)).decode()]
    answer = service.ask("PUT", "/galleries/faces/anna", json={"images": images, "metadata": {"new": 1}})
    assert (answer.json()["metadata"], answer.json()["created"]) == ({"new": 1}, created)
    assert service.post("/galleries/faces/search", save(ANNA)).json()["results"][0]["matches"][0]["score"] < 0.999
    assert service.get("/galleries/faces").json()["vectors"] == 1


def test_whoever_is_below_the_threshold_is_not_known(service: Service) -> None:
    put(service, "faces/anna", ANNA)
    score = service.post("/galleries/faces/search", save(BERTA)).json()["results"][0]["matches"][0]["score"]
    search = "/galleries/faces/search"
    assert service.post(search, save(BERTA)).json()["results"][0]["known"] is None
    for threshold, known in ((score - 0.001, True), (score + 0.001, False)):
        assert service.post(f"{search}?threshold={threshold}", save(BERTA)).json()["results"][0]["known"] is known
        settings = service.ask("PUT", "/galleries/faces", json={"threshold": threshold})
        assert settings.json()["threshold"] == threshold
        assert service.post(search, save(BERTA)).json()["results"][0]["known"] is known
    assert service.post(f"{search}?threshold=-1", save(BERTA)).json()["results"][0]["known"] is True


def test_an_empty_gallery_knows_nobody(service: Service) -> None:
    made = service.ask("PUT", "/galleries/empty", json={"threshold": 0.5})
    assert (made.status_code, made.json()["model"], made.json()["ids"]) == (200, "tiny-embedder", 0)
    assert service.post("/galleries/empty/search", save(ANNA)).json()["results"] == [{"known": False, "matches": []}]


def test_what_is_deleted_is_not_found(service: Service) -> None:
    for name, picture in (("anna", ANNA), ("berta", BERTA)):
        put(service, f"faces/{name}", picture)
    assert ids(service.post("/galleries/faces/search", save(ANNA))) == [["anna", "berta"]]
    assert service.ask("DELETE", "/galleries/faces/anna").status_code == 204
    assert ids(service.post("/galleries/faces/search", save(ANNA))) == [["berta"]]
    for method in ("GET", "DELETE"):
        assert refused(service.ask(method, "/galleries/faces/anna")) == (404, "gallery-not-found")
    assert service.ask("DELETE", "/galleries/faces").status_code == 204
    assert service.get("/galleries").json() == {"galleries": []}
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/berta"), ("POST", "/search")):
        answer = service.ask(method, f"/galleries/faces{path}", content=save(ANNA) if method == "POST" else None)
        assert refused(answer) == (404, "gallery-not-found")


def test_ids_are_listed_page_by_page(service: Service) -> None:
    for name in ("c", "a", "b"):
        put(service, f"faces/{name}", ANNA)
    first = service.get("/galleries/faces?count=2").json()
    assert ([entry["id"] for entry in first["entries"]], first["after"], first["ids"]) == (["a", "b"], "b", 3)
    rest = service.get(f"/galleries/faces?count=2&after={first['after']}").json()
    assert ([entry["id"] for entry in rest["entries"]], rest["after"]) == (["c"], None)


def test_a_picture_among_several_that_fails_is_an_error_in_its_place_and_is_never_put(service: Service) -> None:
    put(service, "faces/anna", ANNA)
    files = [("file", ("a", b"no picture")), ("file", ("b", save(ANNA)))]
    first, second = service.ask("POST", "/galleries/faces/search", files=files).json()["results"]
    assert first["error"]["code"] == "unsupported-image"
    assert second["matches"][0]["id"] == "anna"
    assert refused(service.ask("PUT", "/galleries/faces/berta", files=files)) == (415, "unsupported-image")
    assert service.get("/galleries/faces").json()["ids"] == 1
    assert refused(service.post("/galleries/faces/search", b"no picture")) == (415, "unsupported-image")


@pytest.mark.parametrize(
    ("method", "path", "sentence"),
    [
        ("PUT", "/galleries/faces/anna?metadata=[1]", "metadata"),
        ("PUT", "/galleries/faces/anna?metadata={", "metadata: write a JSON object."),
        ("PUT", f'/galleries/faces/anna?metadata={{"a":"{"x" * 4096}"}}', "at most 4096 bytes"),
        ("PUT", "/galleries/faces/anna?metdata={}", "did you mean 'metadata'?"),
        ("PUT", "/galleries/faces/.anna", "id"),
        ("PUT", "/galleries/-/anna", "gallery"),
        ("POST", "/galleries/faces/search?count=0", "count"),
        ("POST", "/galleries/faces/search?threshold=2", "threshold"),
        ("POST", "/galleries/faces/search?k=3", "'k' is unknown"),
    ],
)
def test_options_that_are_unknown_or_out_of_range_are_refused(
    service: Service, method: str, path: str, sentence: str
) -> None:
    answer = service.ask(method, path, content=save(ANNA))
    assert refused(answer) == (422, "invalid-option")
    assert sentence in answer.json()["detail"]


@pytest.mark.parametrize(
    "metadata",
    ['{"a":"\\ud800"}', '{"a":' + "[" * 101 + "]" * 101 + "}", '{"a":' + "[" * 1500 + "]" * 1500 + "}", '{"a":NaN}'],
)
def test_metadata_that_cannot_be_told_again_is_refused(service: Service, metadata: str) -> None:
    assert refused(put(service, "faces/anna", ANNA, params={"metadata": metadata})) == (422, "invalid-option")
    assert refused(service.get("/galleries/faces")) == (404, "gallery-not-found")


def test_metadata_as_deep_as_may_be_is_told_by_every_route(service: Service) -> None:
    deep: dict[str, Any] = {"a": None}
    for _ in range(99):
        deep = {"a": deep}
    images = [base64.b64encode(save(ANNA)).decode()]
    answer = service.ask("PUT", "/galleries/faces/anna", json={"images": images, "metadata": {"deeper": deep}})
    assert refused(answer) == (422, "invalid-option")
    assert (
        service.ask("PUT", "/galleries/faces/anna", json={"images": images, "metadata": deep}).json()["metadata"]
        == deep
    )
    found = service.post("/galleries/faces/search", save(ANNA)).json()["results"][0]["matches"][0]
    assert found["metadata"] == service.get("/galleries/faces").json()["entries"][0]["metadata"] == deep


@pytest.mark.parametrize("body", [b"", b"{", b'{"model": "\xff"}', b"[" * 100_000, b"[]"])
def test_settings_that_are_no_object_of_json_are_refused_as_such(service: Service, body: bytes) -> None:
    answer = service.ask("PUT", "/galleries/faces", content=body, headers={"content-type": "application/json"})
    assert refused(answer) == (400, "invalid-request")
    assert "Content-Type: application/json" in answer.json()["detail"]


def test_settings_sent_as_something_else_than_json_are_told_how_to_be_sent(service: Service) -> None:
    answer = service.ask("PUT", "/galleries/faces", content=b'{"threshold": 0.5}')
    assert refused(answer) == (400, "invalid-request")
    assert "Content-Type: application/json" in answer.json()["detail"]


def test_more_vectors_than_the_operator_allows_are_refused(service: Service) -> None:
    files = [("file", ("a", save(ANNA)))] * 20
    for name in ("a", "b", "b"):
        assert service.ask("PUT", f"/galleries/faces/{name}", files=files).status_code == 200
    assert refused(put(service, "faces/c", ANNA)) == (409, "gallery-full")
    assert refused(put(service, "others/c", ANNA)) == (409, "gallery-full")
    service.ask("DELETE", "/galleries/faces/a")
    assert put(service, "faces/c", ANNA).status_code == 200


def test_metrics_are_told_where_galleries_cannot_be_read(models: Path, tmp_path: Path) -> None:
    service = Service(Settings(models=models, galleries=tmp_path, device="cpu", threads=1))
    put(service, "faces/anna", ANNA)
    assert service.metric("imago_gallery_vectors") == {"": 1}
    with closing(sqlite3.connect(tmp_path / "galleries.sqlite3")) as other, other:
        other.execute("DROP TABLE galleries")
    assert service.metric("imago_gallery_vectors") == {"": 1}
    service.close()


def test_a_gallery_is_bound_to_the_version_whose_embeddings_it_holds(tmp_path: Path) -> None:
    root = tmp_path / "models"
    make_embedder(root)
    make_embedder(root, name="other")
    settings = Settings(models=root, galleries=tmp_path / "galleries", default_models={"embed": "tiny-embedder"},
                        device="cpu", threads=1)  # fmt: skip
    service = Service(settings)
    put(service, "faces/anna", ANNA)
    for path in ("/galleries/faces/berta?model=other", "/galleries/faces/berta?version=2"):
        answer = service.ask("PUT", path, content=save(BERTA))
        assert refused(answer) == (409, "gallery-conflict")
        assert "holds embeddings of tiny-embedder version 1, not of" in answer.json()["detail"]
    assert refused(service.ask("PUT", "/galleries/faces", json={"model": "other"})) == (409, "gallery-conflict")
    assert put(service, "of-other/anna?model=other", ANNA).status_code == 200
    assert refused(put(service, "faces/x?version=canary", ANNA)) == (404, "model-not-found")
    assert refused(put(service, "faces/x?model=nobody", ANNA)) == (409, "gallery-conflict")
    assert refused(put(service, "new/x?model=nobody", ANNA)) == (404, "model-not-found")
    service.close()

    make_embedder(root, version=2)
    service = Service(settings)
    answer = service.post("/galleries/faces/search", save(ANNA))
    assert refused(answer) == (409, "gallery-conflict")
    assert "which is not loaded: have that version loaded (versions in serving.toml)" in answer.json()["detail"]
    service.close()

    serving = 'versions = "all"\n[aliases]\nstable = 2\nold = 1\n'
    (root / "tiny-embedder" / "serving.toml").write_text(serving, encoding="utf-8")
    service = Service(settings)
    assert ids(service.post("/galleries/faces/search", save(ANNA))) == [["anna"]], "both versions are loaded"
    assert ids(service.post("/galleries/faces/search?version=old", save(ANNA))) == [["anna"]]
    stable = service.post("/galleries/faces/search?version=stable", save(ANNA))
    assert refused(stable) == (409, "gallery-conflict")
    assert service.post("/galleries/faces/search", save(ANNA)).headers["x-model-version"] == "1"
    service.close()

    graph = root / "tiny-embedder"
    (graph / "1").rename(tmp_path / "gone")
    make_embedder(root, description="another", name="tiny-embedder", version=1, size=16)
    service = Service(settings)
    answer = service.post("/galleries/faces/search", save(ANNA))
    assert refused(answer) == (409, "gallery-conflict")
    assert "was filled by another file of tiny-embedder version 1" in answer.json()["detail"]
    service.close()


def test_galleries_that_are_switched_off_say_how_to_have_them(models: Path) -> None:
    service = Service(Settings(models=models, device="cpu", threads=1))
    for method, path in (
        ("GET", ""), ("GET", "/faces"), ("DELETE", "/faces"), ("GET", "/faces/anna"), ("DELETE", "/faces/anna"),
        ("PUT", "/faces/anna"), ("POST", "/faces/search"),
    ):  # fmt: skip
        answer = service.ask(method, f"/galleries{path}", content=save(ANNA) if method in ("PUT", "POST") else None)
        assert refused(answer) == (403, "galleries-off")
        assert "--galleries" in answer.json()["detail"]
    assert refused(service.ask("PUT", "/galleries/faces", json={})) == (403, "galleries-off")
    assert service.metric("imago_gallery_vectors") == {"": 0}
    service.close()


def test_a_gallery_is_found_by_the_key_that_made_it_and_by_administrators_alone(models: Path, tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys.json")
    made = {who: keys.add(scope) for who, scope in SCOPES.items()}
    secrets = {who: {"x-api-key": secret} for who, secret in made.items()}
    first, second = (made[who].split("_")[1] for who in ("first", "second"))
    settings = Settings(models=models, galleries=tmp_path / "galleries", keys=keys.path, device="cpu", threads=1)
    service = Service(settings)
    assert put(service, "faces/anna", ANNA, headers=secrets["first"]).status_code == 200
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/anna"), ("DELETE", "/anna"), ("POST", "/search")):
        content = save(ANNA) if method == "POST" else None
        answer = service.ask(method, f"/galleries/faces{path}", content=content, headers=secrets["second"])
        assert refused(answer) == (404, "gallery-not-found")
        told = service.ask(method, f"/galleries/faces{path}?owner={first}", content=content, headers=secrets["second"])
        assert refused(told) == (404, "gallery-not-found"), "owner is for administrators"
    assert service.get("/galleries", headers=secrets["second"]).json() == {"galleries": []}
    assert refused(service.get("/galleries")) == (401, "unauthenticated")

    assert put(service, "faces/berta", BERTA, headers=secrets["second"]).status_code == 200, (
        "each key has its own names"
    )
    others = service.ask("DELETE", f"/galleries/faces?owner={first}", headers=secrets["second"])
    assert refused(others) == (404, "gallery-not-found"), "another's is not one's own of the same name"
    found = ids(service.post("/galleries/faces/search", save(ANNA), headers=secrets["second"]))
    assert found == [["berta"]]
    seen = service.get("/galleries", headers=secrets["admin"]).json()["galleries"]
    assert {gallery["owner"] for gallery in seen} == {first, second}
    assert refused(service.get("/galleries/faces", headers=secrets["admin"])) == (422, "invalid-option")
    search = f"/galleries/faces/search?owner={first}"
    assert ids(service.post(search, save(ANNA), headers=secrets["admin"])) == [["anna"]]
    assert service.ask("DELETE", f"/galleries/faces?owner={first}", headers=secrets["admin"]).status_code == 204
    assert refused(service.get("/galleries/faces", headers=secrets["first"])) == (404, "gallery-not-found")

    assert refused(put(service, "faces/a", ANNA, headers=secrets["one model"])) == (404, "model-not-found")
    assert put(service, "faces/a?model=wider", ANNA, headers=secrets["one model"]).status_code == 200
    service.close()


def test_searches_are_measured_and_vectors_counted(service: Service) -> None:
    before = service.metric("imago_gallery_search_seconds_count")[""]
    put(service, "faces/anna", ANNA)
    answer = service.post("/galleries/faces/search", save(ANNA))
    assert "inference;dur=" in answer.headers["server-timing"]
    assert service.metric("imago_gallery_search_seconds_count")[""] == before + 1
    assert service.metric("imago_gallery_vectors") == {"": 1}
