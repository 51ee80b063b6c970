"""What the service says of itself: models, tasks, health, metrics, pages, OpenAPI."""

import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from fastapi import FastAPI
from openapi_spec_validator import validate

from app.api.errors import STATUS
from app.api.refusals import ASKING, AT_THE_DOOR, EVERYWHERE
from app.api.system_routes import system_routes
from app.settings import Settings
from app.tasks import TASKS
from app.telemetry.metrics import Metrics
from tests.api.service import Service, exchange
from tests.imaging.pictures import noise, save
from tests.make_models import make_classifier


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One sound model, one with two versions, one with a broken graph."""
    root = tmp_path_factory.mktemp("mixed")
    make_classifier(root, name="sound")
    for version in (1, 2):
        make_classifier(root, name="twice", version=version, description=f"Number {version}")
    (root / "twice" / "serving.toml").write_text('versions = "all"\n', encoding="utf-8")
    broken = make_classifier(root, name="broken") / "model.onnx"
    broken.write_bytes(broken.read_bytes()[:100])
    running = Service(Settings(models=root, device="cpu", threads=1))
    yield running
    running.close()


def test_models_are_listed_by_name(service: Service) -> None:
    found = service.get("/models").json()["models"]
    assert [(model["name"], model["version"], model["task"], model["state"]) for model in found] == [
        ("tiny-autoencoder", 1, "reconstruct", "ready"),
        ("tiny-classifier", 1, "classify", "ready"),
        ("tiny-denoiser", 1, "enhance", "ready"),
        ("tiny-detector", 1, "detect", "ready"),
        ("tiny-embedder", 1, "embed", "ready"),
        ("tiny-generator", 1, "generate", "ready"),
        ("tiny-segmenter", 1, "segment", "ready"),
    ]


def test_a_model_tells_all_that_is_known_of_it(service: Service) -> None:
    found = service.get("/models/tiny-classifier").json()
    assert (found["labels"], found["device"], found["versions"], found["loaded"]) == (
        ["red", "green", "blue"],
        "cpu",
        [1],
        [1],
    )
    assert found["inputs"] == ["image: uint8 [?,8,8,3]"]
    assert "probabilities: float32 [?,3]" in found["outputs"]
    assert found["manifest"]["image"] == {
        "width": 8,
        "height": 8,
        "channels": 3,
        "fit": "stretch",
        "filter": "bilinear",
    }
    assert found["card"].startswith("# tiny-classifier")
    assert set(found["batch_milliseconds"]) == {"1", "2", "4", "8", "16"}


def test_a_card_that_is_no_utf_8_is_shown_as_well_as_it_can_be(mixed: Service) -> None:
    card = mixed.registry.root / "sound" / "1" / "README.md"
    card.write_bytes(b"# Sound\n\nGr\xfc\xdfe\n")
    assert mixed.get("/models/sound").json()["card"] == "# Sound\n\nGr\ufffd\ufffde\n"


def test_every_version_can_be_asked_for(mixed: Service) -> None:
    assert mixed.get("/models/twice").json()["version"] == 2
    assert mixed.get("/models/twice?version=1").json()["description"] == "Number 1"
    picture = save(noise(9, 9))
    assert mixed.post("/classify?model=twice", picture).headers["x-model-version"] == "2"
    assert mixed.post("/classify?model=twice&version=1", picture).headers["x-model-version"] == "1"


def test_a_broken_model_is_named_and_the_others_serve(mixed: Service) -> None:
    state = mixed.get("/readyz")
    assert state.status_code == 200
    assert state.json()["ready"] is True
    assert list(state.json()["failed"]) == ["broken/1"]
    assert "broken/1/model.onnx is not the file that was exported" in state.json()["failed"]["broken/1"]
    models = {model["name"]: model for model in mixed.get("/models").json()["models"]}
    assert (models["broken"]["state"], models["sound"]["state"]) == ("failed", "ready")
    assert models["broken"]["reason"]
    assert mixed.get("/models/broken").json()["card"].startswith("# broken")
    assert mixed.post("/classify?model=sound", save(noise(9, 9))).status_code == 200


def test_a_broken_model_cannot_answer_and_says_why(mixed: Service) -> None:
    answer = mixed.post("/classify?model=broken", save(noise(9, 9)))
    assert (answer.status_code, answer.json()["code"]) == (503, "not-ready")
    assert "not the file that was exported" in answer.json()["detail"]
    assert "retry-after" in answer.headers


def test_no_answer_tells_where_the_models_lie(mixed: Service) -> None:
    root = str(mixed.registry.root)
    for path in ("/models", "/models/broken", "/readyz", "/tasks", "/metrics", "/openapi.json"):
        assert root not in mixed.get(path).text
    assert root not in mixed.post("/classify?model=broken", save(noise(9, 9))).text


def test_strict_readiness_waits_for_every_model(mixed: Service, tmp_path: Path) -> None:
    shutil.copytree(mixed.registry.root, tmp_path, dirs_exist_ok=True)
    running = Service(Settings(models=tmp_path, device="cpu", threads=1, strict_readiness=True))
    assert running.get("/readyz").status_code == 503
    running.close()


def test_a_service_without_models_is_alive_and_not_ready(tmp_path: Path) -> None:
    running = Service(Settings(models=tmp_path, device="cpu"))
    assert running.get("/livez").status_code == 200
    assert running.get("/readyz").status_code == 503
    assert running.get("/models").json() == {"models": []}
    answer = running.post("/classify", save(noise(9, 9)))
    assert (answer.status_code, answer.json()["code"]) == (404, "model-not-found")
    running.close()


def test_what_only_a_restart_mends_makes_the_service_dead(mixed: Service) -> None:
    metrics = Metrics()
    app = FastAPI(routes=system_routes(mixed.registry, metrics, strict=False, draining=lambda: False).routes)
    metrics.pulse.beat(["A batch does not come back."])
    answer = mixed.run(exchange(app, "GET", "/livez"))
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert answer.json() == {"status": "stuck", "faults": ["A batch does not come back."]}


def test_every_task_is_described_with_its_options(service: Service) -> None:
    found = {task["task"]: task for task in service.get("/tasks").json()["tasks"]}
    assert found.keys() == TASKS.keys()
    assert found["segment"]["default_model"] == "tiny-segmenter"
    assert found["segment"]["path"] == "/segment"
    assert {kind: task["takes_picture"] for kind, task in found.items()} == {
        "classify": True, "segment": True, "detect": True, "enhance": True, "reconstruct": True, "embed": True,
        "generate": False,
    }  # fmt: skip
    assert found["embed"]["answers"] == ["application/json"]
    assert found["enhance"]["answers"] == [
        "application/json",
        "image/png",
        "image/jpeg",
        "image/webp",
    ]
    assert set(found["generate"]["options"]["properties"]) == {"count", "class", "seed", "index", "to", "truncation"}


def test_the_default_model_is_the_one_that_was_set(mixed: Service) -> None:
    settings = Settings(models=mixed.registry.root, device="cpu", threads=1, default_models={"classify": "twice"})
    running = Service(settings)
    assert running.post("/classify", save(noise(9, 9))).json()["model"] == "twice"
    assert mixed.post("/classify", save(noise(9, 9))).json()["model"] == "sound"
    running.close()


METRICS = [
    *(f"imago_{stage}_seconds" for stage in ("request_duration", "queue", "decode", "inference", "encode")),
    *(f"imago_{count}_total" for count in ("requests", "rejected", "cancelled")),
    *("imago_batch_size", "imago_queue_depth", "imago_models_loaded"),
    *("process_resident_memory_bytes", "process_cpu_seconds_total"),
]


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_is_exposed(service: Service, name: str) -> None:
    service.post("/classify", save(noise(9, 9)))
    text = service.get("/metrics").text
    assert f"# HELP {name.removesuffix('_total')}" in text
    assert re.search(rf"^{name}(_count)?[ {{]", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "text/plain"), ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text"),
        ('application/openmetrics-text; version="1.0.0"', "application/openmetrics-text; version=1.0.0"),
        ("application/openmetrics-text; version=newest", "text/plain"), ("text/plain; version=x.y", "text/plain"),
        ("application/openmetrics-text," * 2_000, "text/plain"),
    ],
)  # fmt: skip
def test_metrics_come_in_the_form_that_the_scraper_asks_for(service: Service, accept: str, kind: str) -> None:
    answer = service.get("/metrics", headers={"accept": accept})
    assert answer.headers["content-type"].startswith(kind)


def test_an_answer_is_counted_and_timed_once(service: Service) -> None:
    series = '{model="tiny-segmenter",status="200",task="segment"}'
    before = service.metric("imago_requests_total").get(series, 0)
    timed = service.metric("imago_request_duration_seconds_count").get('{model="tiny-segmenter",task="segment"}', 0)
    service.post("/segment", save(noise(9, 9)))
    assert service.metric("imago_requests_total")[series] == before + 1
    assert (
        service.metric("imago_request_duration_seconds_count")['{model="tiny-segmenter",task="segment"}'] == timed + 1
    )


def names_of_series(service: Service) -> set[str]:
    return {line.rsplit(" ", 1)[0] for line in service.get("/metrics").text.splitlines() if not line.startswith("#")}


def test_strangers_cannot_add_series(service: Service) -> None:
    service.post("/classify?model=nobody", b"x")
    service.post("/classify?unknown=1", b"x")
    before = names_of_series(service)
    for number in range(200):
        service.get(f"/random/{number}", headers={"user-agent": f"agent {number}", "x-request-id": f"id-{number}"})
        service.post(f"/classify?model=made-up-{number}&version={number}", b"x")
        service.post(f"/classify?option{number}=1", b"x")
        service.ask(f"METHOD{number}", "/classify")
    assert names_of_series(service) == before


class References(HTMLParser):
    """All addresses in a page, and all inline scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inline = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.found += [value for name in ("href", "src", "action", "data") if (value := values.get(name))]
        self.inline |= tag == "script" and "src" not in values


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_page_and_all_that_it_refers_to_is_served_from_here(service: Service, path: str) -> None:
    page = service.get(path)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    references = References(page.text)
    assert references.found
    assert not references.inline, "the page's own policy forbids inline scripts"
    for address in references.found:
        assert not urlsplit(address).netloc
        assert not urlsplit(address).scheme
        answer = service.get(f"/{address}")
        assert answer.status_code == 200, address
        assert answer.content
        if address.endswith(".css"):
            assert not re.search(r"url\(\s*['\"]?(https?:)?//|@import", answer.text)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("index.js", "text/javascript"),
        ("docs.js", "text/javascript"),
        ("index.css", "text/css"),
        ("icon.svg", "image/svg+xml"),
    ],
)
def test_an_asset_has_its_media_type_and_no_outside_address(service: Service, name: str, kind: str) -> None:
    answer = service.get(f"/static/{name}")
    assert answer.headers["content-type"].startswith(kind)
    assert not re.search(r"(src|href|import|fetch)\W{1,4}https?://", answer.text)


def test_the_openapi_document_is_valid(service: Service) -> None:
    document = service.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    validate(document)


@pytest.mark.parametrize("kind", TASKS)
def test_the_openapi_document_describes_every_task_wholly(service: Service, kind: str) -> None:
    document = service.get("/openapi.json").json()
    operation = document["paths"][f"/{kind}"]["post"]
    responses = operation["responses"]
    kinds = (*ASKING, *EVERYWHERE, *AT_THE_DOOR)
    expected = {STATUS[kind] for kind in kinds} | {200}
    assert {int(status) for status in responses} == expected
    drawn = {f"image/{form}" for form in TASKS[kind].Options().forms}
    assert set(responses["200"]["content"]) == {"application/json"} | drawn
    for status in expected - {200}:
        assert list(responses[str(status)]["content"]) == ["application/problem+json"]
    assert all(f"`{kind.code}`" in responses[str(STATUS[kind])]["description"] for kind in kinds)
    names = {parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "query"}
    options = {field.alias or name for name, field in TASKS[kind].Options.model_fields.items()}
    assert names == {"model", "version"} | options
    assert all(parameter["description"] for parameter in operation["parameters"])
    assert "application/json" in operation["requestBody"]["content"]


def test_the_openapi_document_names_every_route_that_callers_use(service: Service) -> None:
    paths = set(service.get("/openapi.json").json()["paths"])
    assert {
        "/classify",
        "/segment",
        "/detect",
        "/generate",
        "/models",
        "/models/{name}",
        "/tasks",
        "/livez",
        "/readyz",
        "/metrics",
    } <= paths


def test_readiness_while_ready_is_not_cached(service: Service) -> None:
    assert service.get("/readyz").headers["cache-control"] == "no-store"
