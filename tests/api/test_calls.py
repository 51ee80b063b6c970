"""What a request asks for besides its body: media type, options, model, deadline."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.api.calls import accepted_form, timeout_seconds
from app.errors import NotAcceptable
from app.settings import Settings
from tests.api.service import Service
from tests.imaging.pictures import noise, save

PICTURE = save(np.full((9, 12, 3), (200, 90, 10), np.uint8))


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", "json"), ("*/*", "json"), ("application/json", "json"), ("application/*", "json"), ("image/png", "png"),
        ("image/*", "png"), ("IMAGE/PNG", "png"), ("image/png, application/json", "json"), ("image/png, */*", "png"),
        ("image/png;q=0.9, application/json;q=0.8", "png"), ("image/png;q=0.8, application/json;q=0.9", "json"),
        ("image/png;q=0.5, */*;q=0.5", "png"), ("image/png;q=0.5, */*", "json"), ("application/json;q=0.5, */*", "png"),
        ("application/json;q=0, */*", "png"), ("image/png;q=0, */*", "json"), ("image/png;q=0, image/*", None),
        ("image/*;q=0.1, application/*;q=0.2", "json"), ("application/json; charset=utf-8", "json"),
        ("image/png; q=1.0 ; level=1", "png"), ("text/html, */*;q=0.1", "json"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8", "json"),
        ("image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8", "png"),
        ("text/html", None), ("image/jpeg", None), ("application/json;q=0", None), ("*/*;q=0", None), ("json", None),
        ("application/json;q=nan", None), ("application/json;q=-1", None), ("application/json;q=much", None),
        ("application/json;q=1e9", "json"), (";;;,,,;q=", None), ("x" * 1000, None), ("x" * 5000, "json"),
    ],
)  # fmt: skip
def test_the_accept_header_chooses_the_form(accept: str, form: str | None) -> None:
    if form is not None:
        assert accepted_form(accept.encode(), ("png",)) == form
        return
    with pytest.raises(NotAcceptable, match="application/json or image/png"):
        accepted_form(accept.encode(), ("png",))


def test_an_accept_header_without_end_is_not_heeded() -> None:
    assert accepted_form(b"image/png," * 100, ("png",)) == "png"
    assert accepted_form(b"image/png," * 6_000, ("png",)) == "json"


def test_a_list_may_come_in_several_lines(service: Service) -> None:
    lines = [(b"accept", b"text/html"), (b"accept", b"image/png")]
    assert service.exchange("POST", "/segment", headers=lines, body=PICTURE).headers["content-type"] == "image/png"
    scraper = [(b"accept", b"text/html"), (b"accept", b"application/openmetrics-text; version=1.0.0")]
    assert "openmetrics" in service.exchange("GET", "/metrics", headers=scraper).headers["content-type"]


def test_what_is_not_made_here_is_not_acceptable(service: Service) -> None:
    answer = service.post("/classify", PICTURE, accept="text/html")
    assert (answer.status_code, answer.json()["code"]) == (406, "not-acceptable")


@pytest.mark.parametrize(
    ("path", "body", "size"),
    [
        ("/classify", PICTURE, (12, 9)),
        ("/segment", PICTURE, (12, 9)),
        ("/segment?render=overlay", PICTURE, (12, 9)),
        ("/detect", PICTURE, (12, 9)),
        ("/generate?seed=1", b"", (8, 8)),
        ("/generate?seed=1&count=9", b"", (24, 24)),
    ],
)
def test_a_picture_is_answered_where_one_is_accepted(
    service: Service, path: str, body: bytes, size: tuple[int, int]
) -> None:
    answer = service.post(path, body, accept="image/png")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert Image.open(io.BytesIO(answer.content), formats=["PNG"]).size == size


def test_a_task_that_draws_nothing_answers_json_alone(service: Service) -> None:
    answer = service.post("/embed", PICTURE)
    assert (answer.status_code, len(answer.json()["results"][0]["embedding"])) == (200, 12)
    refused = service.post("/embed", PICTURE, accept="image/png")
    assert (refused.status_code, refused.json()["code"]) == (406, "not-acceptable")


def test_an_answer_of_one_picture_takes_one_picture(service: Service) -> None:
    files = [("file", ("a", PICTURE))] * 2
    answer = service.ask("POST", "/segment", files=files, headers={"accept": "image/png"})
    assert (answer.status_code, answer.json()["code"]) == (406, "not-acceptable")


def test_a_failure_is_told_in_json_even_where_a_picture_was_asked_for(service: Service) -> None:
    answer = service.post("/classify", b"no picture", accept="image/png")
    assert (answer.status_code, answer.headers["content-type"]) == (415, "application/problem+json")


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/classify?topk=3", "'topk' is unknown; did you mean 'top_k'?"),
        ("/classify?modle=x", "'modle' is unknown; did you mean 'model'?"),
        ("/classify?versoin=1", "'versoin' is unknown; did you mean 'version'?"),
        ("/generate?clas=1", "'clas' is unknown; did you mean 'class'?"),
        (
            "/generate?label=1",
            "'label' is unknown; known are class, count, index, model, seed, to, truncation, version.",
        ),
        ("/segment?zzzzz", "'zzzzz' is unknown; known are explain, mask, model, render, version."),
        ("/classify?" + "k" * 9000 + "=1", "k' is unknown; known are"),
    ],
)
def test_an_unknown_option_is_answered_with_the_nearest_known(service: Service, path: str, told: str) -> None:
    answer = service.post(path, PICTURE)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-option")
    assert told in answer.json()["detail"]
    assert len(answer.json()["detail"]) < 200


@pytest.mark.parametrize(
    "query",
    ["top_k=0", "top_k=1001", "top_k=", "top_k", "top_k=1.5", "top_k=nan", "top_k=-1", "top_k=1e1",
     "top_k=" + "9" * 5000,
     "top_k=%EF%BC%99", "top_k=1%00", "top_k=1&top_k=2", "top_k=1;drop", "explain=perhaps", "version=X", "version=1.5",
     "version=", "&".join(f"a{n}=1" for n in range(100)), "%00=1", "%FF=1", "=", "=1", "top_k[]=1"],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused_by_name(service: Service, query: str) -> None:
    answer = service.post(f"/classify?{query}", PICTURE)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-option")
    assert len(answer.json()["detail"]) < 300


@pytest.mark.parametrize("query", [b"top_k=\xff", b"\xc3\xa9=1", b"\0", b"top_k=%", b"top_k=%zz"])
def test_a_query_that_is_no_text_is_refused(service: Service, query: bytes) -> None:
    assert service.exchange("POST", "/classify", query, body=PICTURE).status == 422


@pytest.mark.parametrize(
    "path", ["/classify?", "/classify?&&", "/classify?top_k=2", "/classify?top_k=%32", "/classify?top_k=2&"]
)
def test_options_that_make_sense_are_taken(service: Service, path: str) -> None:
    assert service.post(path, PICTURE).status_code == 200


def test_a_query_too_long_to_be_remembered_is_answered_alike(service: Service) -> None:
    path = "/classify?top_k=" + "0" * 300 + "2"
    assert len(service.post(path, PICTURE).json()["results"][0]["labels"]) == 2


def test_options_of_a_body_win_over_those_of_the_query(service: Service) -> None:
    answer = service.ask("POST", "/generate?seed=1&count=2", json={"seed": 2, "class": "red"})
    assert [(result["seed"], result["class"]) for result in answer.json()["results"]] == [(2, "red")] * 2


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("model=tiny-classifier", 200, None),
        ("model=tiny-classifier&version=1", 200, None),
        ("version=2", 404, "model-not-found"),
        ("model=tiny-classifier&version=2", 404, "model-not-found"),
        ("model=tiny-classifier&version=-1", 404, "model-not-found"),
        ("model=tiny-classifier&version=" + "9" * 30, 404, "model-not-found"),
        ("model=nobody", 404, "model-not-found"),
        ("model=", 404, "model-not-found"),
        ("model=tiny-segmenter", 400, "wrong-task"),
        ("model=Tiny-Classifier", 404, "model-not-found"),
    ],
)
def test_the_model_named_answers_or_the_reason_is_told(
    service: Service, query: str, status: int, code: str | None
) -> None:
    answer = service.post(f"/classify?{query}", PICTURE)
    assert (answer.status_code, answer.json().get("code")) == (status, code)
    assert (answer.headers.get("x-model-version") == "1") == (status == 200)


def test_a_model_may_be_chosen_in_the_body(service: Service) -> None:
    answer = service.ask("POST", "/generate", json={"model": "tiny-classifier"})
    assert (answer.status_code, answer.json()["code"]) == (400, "wrong-task")


@pytest.fixture(scope="module")
def without_default(model_root: Path) -> Iterator[Service]:
    """A service whose default models are not there."""
    defaults = {"classify": "nobody", "generate": "nobody"}
    running = Service(Settings(models=model_root, device="cpu", threads=1, default_models=defaults))
    yield running
    running.close()


def test_a_model_that_the_body_names_answers_whatever_becomes_of_the_default(without_default: Service) -> None:
    ask = without_default.ask
    files, named = [("file", ("a.png", PICTURE))], {"model": "tiny-classifier"}
    encoded = base64.b64encode(PICTURE).decode()
    assert ask("POST", "/classify", files=files, data=named).status_code == 200
    assert ask("POST", "/classify", json={"images": [encoded], **named}).status_code == 200
    assert ask("POST", "/generate", json={"model": "tiny-generator"}).status_code == 200


def test_a_body_that_names_no_model_is_told_what_becomes_of_the_default(without_default: Service) -> None:
    ask, files = without_default.ask, [("file", ("a.png", PICTURE))]
    for answer in (
        ask("POST", "/classify", files=files),
        ask("POST", "/classify", files=files, data={"top_k": "1"}),
        ask("POST", "/classify", content=PICTURE),
        ask("POST", "/generate"),
        ask("POST", "/classify?model=nobody", files=files, data={"model": "tiny-segmenter"}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (404, "model-not-found")


def test_generated_images_are_the_same_bytes_for_the_same_seed(service: Service) -> None:
    first, again = (service.post("/generate?seed=7&count=3") for _ in range(2))
    assert first.content == again.content
    alone = service.post("/generate?seed=7&index=2", accept="image/png").content
    assert alone == base64.b64decode(first.json()["results"][2]["image"]["data"])


def test_an_unknown_class_is_answered_with_the_labels(service: Service) -> None:
    answer = service.ask("POST", "/generate", json={"class": "purple"})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-option")
    assert "labels: red, green, blue" in answer.json()["detail"]


@pytest.mark.parametrize(
    "value", ["0", "-5", "1.5", "", "soon", "1e3", "9999999999", "9" * 5000, "٣", "+5", " 5", "0x1", "nan"]
)
def test_a_deadline_that_is_no_number_of_milliseconds_is_refused(service: Service, value: str) -> None:
    headers = [(b"x-request-timeout-ms", value.encode())]
    answer = service.exchange("POST", "/classify", headers=headers, body=PICTURE)
    assert (answer.status, answer.json()["code"]) == (422, "invalid-option")
    assert "X-Request-Timeout-Ms" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("value", "seconds"), [(None, 30.0), (b"1", 0.001), (b"2500", 2.5), (b"999999999", 30.0), (b"07", 0.007)]
)
def test_a_caller_may_shorten_its_deadline_and_not_extend_it(value: bytes | None, seconds: float) -> None:
    assert timeout_seconds(value, 30.0) == seconds


def test_answers_do_not_depend_on_what_else_is_asked(service: Service) -> None:
    pictures = [save(noise(9, 9, seed)) for seed in range(4)]
    alone: list[Any] = [service.post("/classify", data).json()["results"][0] for data in pictures]
    together = service.ask("POST", "/classify", files=[("file", ("a", data)) for data in pictures]).json()["results"]
    for left, right in zip(alone, together, strict=True):
        assert [score["label"] for score in left["labels"]] == [score["label"] for score in right["labels"]]
        chances = [[score["probability"] for score in result["labels"]] for result in (left, right)]
        assert chances[0] == pytest.approx(chances[1], abs=1e-5)
