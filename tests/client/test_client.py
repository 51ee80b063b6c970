"""The Python client, against a server that says what it is told, and against the real one."""

import asyncio
import pickle
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.client import AsyncClient, Client, Retries, ServiceProblem
from app.client.problems import Problem
from app.imaging.codec import Decoder, encode_png
from app.tasks import Classify, Generate, Segment
from benchmarks.server import running_server
from tests.client.scripted import Said, problem, result, said, scripted

LABELS = {"labels": [{"label": "cat", "index": 0, "probability": 0.9}]}
SOON = Retries(first_wait=0.001, longest_wait=0.001)


def picture(value: int) -> bytes:
    return encode_png(np.full((8, 8, 3), (value, 100, 50), np.uint8))


@pytest.fixture(scope="module")
def imago(model_root: Path) -> Iterator[Client]:
    with running_server(model_root, "--workers", "1", "--log-level", "warning") as server, Client(server.url) as client:
        yield client


def refused(client: Client, task: Any = "classify", timeout: float = 30.0) -> ServiceProblem:
    with pytest.raises(ServiceProblem) as caught:
        client.ask(task, b"picture", timeout=timeout)
    return caught.value


@pytest.mark.parametrize(
    ("url", "key", "told"),
    [("http://[::1", None, "is no URL"), ("http://imago", "käse", "key"), ("http://imago", "a\n", "key")],
)
def test_a_client_that_cannot_be_made_leaves_no_thread(url: str, key: str | None, told: str) -> None:
    before = threading.active_count()
    with pytest.raises(ValueError, match=told):
        Client(url, key)
    assert threading.active_count() == before


def test_an_answer_has_the_shape_of_its_task(imago: Client) -> None:
    answer = imago.ask(Classify, picture(250), options={"top_k": 2})
    assert [score.label for score in answer.result.labels] == ["red", "green"]
    assert (answer.model, answer.version) == ("tiny-classifier", 1)
    assert answer.request_id


def test_a_task_asked_by_its_name_gives_dictionaries(imago: Client) -> None:
    answer = imago.ask("classify", picture(250), options={"top_k": 1, "explain": True})
    assert answer.result["labels"][0]["label"] == "red"
    assert answer.result["heatmap"]["width"] == 8


def test_several_pictures_travel_in_one_request_and_a_bad_one_has_its_problem_in_its_place(
    imago: Client, tmp_path: Path
) -> None:
    (tmp_path / "red.png").write_bytes(picture(250))
    answer = imago.ask(Classify, tmp_path / "red.png", b"no picture", picture(0))
    first, second, third = answer.results
    assert not isinstance(first, ServiceProblem)
    assert not isinstance(third, ServiceProblem)
    assert (first.labels[0].label, third.labels[0].label) == ("red", "green")
    assert isinstance(second, ServiceProblem)
    assert (second.code, second.status, second.request_id) == ("unsupported-image", 415, answer.request_id)


def test_a_picture_that_cannot_be_answered_is_one_exception_that_says_all(imago: Client) -> None:
    with pytest.raises(ServiceProblem) as caught:
        imago.ask(Classify, b"no picture")
    assert (caught.value.code, caught.value.status) == ("unsupported-image", 415)
    assert "no picture in a known format" in caught.value.detail
    assert caught.value.request_id
    again = pickle.loads(pickle.dumps(caught.value))
    assert vars(again) == vars(caught.value)


def test_images_are_drawn_without_pictures_and_come_as_png_too(imago: Client) -> None:
    answer = imago.ask(Generate, options={"count": 2, "seed": 7, "class": "green"})
    assert [(image.seed, image.index, image.label) for image in answer.results] == [(7, 0, "green"), (7, 1, "green")]
    assert imago.draw(Segment, picture(250)).startswith(b"\x89PNG")
    assert Decoder(("png",)).open(imago.draw(Generate, options={"seed": 7})).width == 8


def test_a_model_and_a_version_can_be_named(imago: Client) -> None:
    assert imago.ask("classify", picture(1), model="tiny-classifier", version=1).version == 1
    with pytest.raises(ServiceProblem, match="model-not-found"):
        imago.ask("classify", picture(1), model="other")


def test_many_tasks_of_one_loop_share_a_client() -> None:
    async def ask_all(url: str) -> list[str]:
        async with AsyncClient(url) as client:
            answers = await asyncio.gather(*(client.ask(Classify, b"p") for _ in range(20)))
        return [answer.result.labels[0].label for answer in answers]

    with scripted(result(**LABELS)) as server:
        assert asyncio.run(ask_all(server.url)) == ["cat"] * 20


def test_the_key_and_the_time_left_are_sent_with_every_try() -> None:
    with scripted(problem(503, "not-ready"), result(**LABELS)) as server:
        with Client(server.url, api_key="secret", timeout=9, retries=SOON) as client:
            client.ask("classify", b"picture", options={"top_k": 3, "explain": True, "set": None})
        (path, first, body), (_, second, _) = server.asked
    assert (path, body) == ("/classify?top_k=3&explain=true", b"picture")
    assert first["authorization"] == second["authorization"] == "Bearer secret"
    assert 9000 >= int(first["x-request-timeout-ms"]) >= int(second["x-request-timeout-ms"]) > 0


@pytest.mark.parametrize("status", [429, 503])
def test_what_was_refused_at_admission_is_sent_again(status: int) -> None:
    with scripted(problem(status, "overloaded", retry_after="0"), result(**LABELS)) as server:
        with Client(server.url, retries=SOON) as client:
            assert client.ask(Classify, b"picture").result.labels[0].label == "cat"
        assert len(server.asked) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 415, 422, 500, 502, 504])
def test_any_other_refusal_is_an_answer_and_not_repeated(status: int) -> None:
    with scripted(problem(status, "some-code")) as server, Client(server.url, retries=SOON) as client:
        found = refused(client)
        assert (found.code, found.status, found.detail, found.request_id) == (
            "some-code", status, "It is some-code.", "abc",
        )  # fmt: skip
        assert len(server.asked) == 1


def test_retries_are_bounded() -> None:
    with scripted(problem(429, "overloaded", retry_after="0")) as server:
        retries = Retries(limit=2, first_wait=0.001)
        with Client(server.url, retries=retries) as client:
            assert refused(client).status == 429
        assert len(server.asked) == 3


def test_a_wait_beyond_the_deadline_is_not_begun() -> None:
    with scripted(problem(429, "overloaded", retry_after="60")) as server, Client(server.url) as client:
        begun = time.monotonic()
        found = refused(client, timeout=20)
        assert time.monotonic() - begun < 10
        assert (found.code, found.retry_after) == ("overloaded", 60)
        assert len(server.asked) == 1


def test_a_connection_that_breaks_under_a_task_is_tried_again() -> None:
    with scripted(Said(), Said(), result(**LABELS)) as server, Client(server.url, retries=SOON) as client:
        assert client.ask(Classify, b"picture").result.labels[0].label == "cat"


def test_one_that_must_not_be_repeated_is_not() -> None:
    async def send_once(url: str) -> None:
        async with AsyncClient(url, retries=SOON) as client:
            await client.send(lambda _: client._http.build_request("POST", "/jobs", content=b"x"), repeatable=False)

    with scripted(Said()) as server:
        with pytest.raises(ServiceProblem, match="unreachable"):
            asyncio.run(send_once(server.url))
        assert len(server.asked) == 1


def test_nobody_at_the_address_is_told_with_the_address() -> None:
    with scripted(Said()) as server:
        url = server.url
    with Client(url, retries=Retries(limit=1, first_wait=0.001)) as client:
        found = refused(client)
    assert (found.code, found.status) == ("unreachable", None)
    assert url in found.detail


def test_the_deadline_holds_where_the_service_says_nothing() -> None:
    with scripted(Said(stall=True)) as server, Client(server.url) as client:
        found = refused(client, timeout=0.05)
        assert (found.code, found.status) == ("deadline-exceeded", None)


def test_a_page_of_a_proxy_is_no_problem_of_imago() -> None:
    with scripted(Said(502, b"<h1>Bad gateway</h1>")) as server, Client(server.url) as client:
        found = refused(client)
        assert (found.code, found.status) == ("unexpected-answer", 502)
        assert "Bad gateway" in found.detail


@pytest.mark.parametrize(
    "document",
    [
        {"hello": 1},
        *({"model": "m", "version": 1, "results": found} for found in ([{"labels": "cat"}], [], [LABELS] * 2)),
    ],
)
def test_a_success_that_is_no_answer_is_told_so(document: object) -> None:
    with scripted(said(200, document)) as server, Client(server.url) as client:
        assert refused(client, Classify).code == "unexpected-answer"


def test_a_retry_after_may_be_a_date() -> None:
    date = formatdate(time.time() + 50, usegmt=True)
    with scripted(problem(503, "not-ready", retry_after=date)) as server, Client(server.url) as client:
        after = refused(client).retry_after
        assert after is not None
        assert 40 < after <= 50


def test_a_file_that_is_not_there_is_the_caller_s_own_error(tmp_path: Path) -> None:
    with scripted(Said()) as server, Client(server.url) as client:
        with pytest.raises(FileNotFoundError):
            client.ask("classify", tmp_path / "none.jpg")
        assert not server.asked


def test_waits_double_up_to_the_longest_and_are_spread() -> None:
    retries = Retries(limit=5, first_wait=1, longest_wait=4)
    assert [retries.wait(tried, None, 1.0) for tried in range(1, 7)] == [1, 2, 4, 4, 4, None]
    assert [retries.wait(3, None, chance) for chance in (0, 0.5)] == [0, 2]


def test_what_the_service_asked_for_is_never_undercut() -> None:
    retries = Retries(first_wait=1)
    assert [retries.wait(1, 3.0, chance) for chance in (0, 0.5)] == [3, 3.5]


def test_an_item_s_problem_names_the_request_of_its_instance() -> None:
    assert Problem(code="c", detail="d", instance="urn:imago:request:xyz").error().request_id == "xyz"
