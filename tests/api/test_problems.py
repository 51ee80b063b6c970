"""Errors: the table of statuses, the form of a problem, and what is never told."""

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import errors
from app.api.errors import STATUS, problem, problem_response
from app.errors import ImagoError, NotReady, OperatorError, Overloaded, ServiceError
from app.runtime import BACKENDS
from app.settings import Settings
from tests.api.held import Held
from tests.api.service import Answer, Service, exchange

MEMBERS = {"type", "title", "status", "detail", "instance", "code"}
SECRET = "/srv/secret/model.onnx of the operator"


def leaves(kind: type[ImagoError]) -> set[type[ImagoError]]:
    below = kind.__subclasses__()
    return {leaf for child in below for leaf in leaves(child)} if below else {kind}


def test_every_error_of_a_service_has_a_status_and_nothing_else_has() -> None:
    assert set(STATUS) == leaves(ServiceError)
    assert not leaves(OperatorError) & set(STATUS)


def test_every_status_is_an_error_of_http() -> None:
    assert all(400 <= status < 600 for status in STATUS.values())
    assert STATUS[errors.Overloaded] == 429
    assert STATUS[errors.NotReady] == 503


def test_every_code_is_its_own_and_stable_in_form() -> None:
    codes = [error.code for error in (*leaves(ServiceError), *leaves(OperatorError))]
    assert len(set(codes)) == len(codes)
    assert all(code.replace("-", "").isalpha() and code == code.lower() for code in codes)
    assert "error" not in codes


def test_every_error_is_told_with_all_members_of_rfc_9457() -> None:
    for kind, status in STATUS.items():
        error = kind.__new__(kind)
        ServiceError.__init__(error, "A sentence.")
        told = problem(error, "an-id")
        assert told.keys() == MEMBERS
        assert (told["status"], told["code"], told["detail"]) == (status, kind.code, "A sentence.")
        assert told["type"] == f"urn:imago:{kind.code}"
        assert told["instance"] == "urn:imago:request:an-id"
        assert told["title"][0].isupper()


@pytest.mark.parametrize("error", [Overloaded(3.0), NotReady("Loading.", retry_after=3.0)])
def test_where_waiting_helps_the_answer_says_how_long(error: ServiceError) -> None:
    delays = {int(problem_response(error, "x").headers["retry-after"]) for _ in range(50)}
    assert delays <= {3, 4, 5}
    assert len(delays) > 1, "callers refused together would come back together"


@pytest.mark.parametrize("seconds", [0.0, 0.001, 1e9, float("inf")])
def test_the_delay_is_between_one_and_thirty_seconds(seconds: float) -> None:
    assert 1 <= int(problem_response(Overloaded(seconds), "x").headers["retry-after"]) <= 30


def test_where_waiting_does_not_help_there_is_no_delay() -> None:
    assert "retry-after" not in problem_response(errors.EmptyBody(), "x").headers


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "route-not-found"),
        ("POST", "/", 405, "method-not-allowed"),
        ("GET", "/classify", 405, "method-not-allowed"),
        ("PUT", "/classify", 405, "method-not-allowed"),
        ("DELETE", "/models", 405, "method-not-allowed"),
        ("TRACE", "/classify", 405, "method-not-allowed"),
        ("X" * 500, "/classify", 405, "method-not-allowed"),
        ("POST", "/classify", 400, "empty-body"),
        ("GET", "/models/nobody", 404, "model-not-found"),
        ("GET", "/models/tiny-classifier?version=1x", 422, "invalid-option"),
        ("GET", "/models/tiny-classifier?version=x", 404, "model-not-found"),
        ("GET", "/static/nothing.js", 404, "route-not-found"),
    ],
)
def test_every_refusal_is_a_problem(service: Service, method: str, path: str, status: int, code: str) -> None:
    answer = service.ask(method, path)
    told = answer.json()
    assert (answer.status_code, told["status"], told["code"]) == (status, status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    assert told.keys() == MEMBERS
    assert told["instance"].endswith(answer.headers["x-request-id"])
    assert len(told["detail"]) < 200


def test_a_method_refused_is_answered_with_those_allowed(service: Service) -> None:
    assert service.get("/classify").headers["allow"] == "POST"
    assert "GET" in service.post("/models").headers["allow"]


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Held:
    """A backend beside onnxruntime, and a model in `tmp_path` that is served with it."""
    backend = Held()
    monkeypatch.setitem(BACKENDS, backend.name, backend.open)  # type: ignore[arg-type]
    backend.model(tmp_path)
    return backend


@pytest.fixture
def holding(held: Held, tmp_path: Path) -> Iterator[Service]:
    """The application with the held model, loaded; it queues nothing that has to wait for more than one batch."""
    held.may_open.set()
    running = Service(Settings(models=tmp_path, device="cpu", threads=1, max_queue_seconds=1e-9))
    held.hold()
    yield running
    held.may_run.set()
    running.close()


def test_a_model_that_fails_is_told_in_a_fixed_sentence(
    holding: Service, held: Held, caplog: pytest.LogCaptureFixture
) -> None:
    held.failure = RuntimeError(SECRET)
    held.may_run.set()
    with caplog.at_level(logging.ERROR):
        answer = holding.post("/generate")
    assert (answer.status_code, answer.json()["code"]) == (500, "inference-failed")
    assert "secret" not in answer.text
    assert "RuntimeError" not in answer.text
    assert SECRET in caplog.text
    assert holding.metric("imago_requests_total") == {'{model="held-generator",status="500",task="generate"}': 1}


def test_a_fault_of_our_own_is_told_in_a_fixed_sentence(holding: Service, caplog: pytest.LogCaptureFixture) -> None:
    async def broken() -> None:
        raise RuntimeError(SECRET)

    holding.app.add_api_route("/broken", broken)
    with caplog.at_level(logging.ERROR):
        answer = holding.get("/broken")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal-error")
    assert "secret" not in answer.text
    assert SECRET in caplog.text
    assert answer.headers["x-request-id"] in answer.json()["instance"]


def test_a_service_goes_on_after_a_model_failed(holding: Service, held: Held) -> None:
    held.failure = ValueError("once")
    held.may_run.set()
    assert holding.post("/generate").status_code == 500
    held.failure = None
    assert holding.post("/generate").status_code == 200


def test_a_caller_that_leaves_cancels_its_job_and_nobody_elses(holding: Service, held: Held) -> None:
    async def story() -> tuple[int, int]:
        first = asyncio.create_task(exchange(holding.app, "POST", "/generate", b"count=2"))
        assert await asyncio.to_thread(held.running.wait, 10)
        # This one reads its body, waits behind the first, and then hears that its caller has gone.
        second = await exchange(holding.app, "POST", "/generate", b"count=3", leave=True)
        held.may_run.set()
        return (await first).status, second.status

    assert holding.run(story()) == (200, 0)
    left = '{model="held-generator",status="499",task="generate"}'
    assert holding.metric("imago_requests_total")[left] == 1
    assert held.rows == [2]
    assert holding.metric("imago_cancelled_total") == {'{model="held-generator",task="generate"}': 1}
    assert holding.metric("imago_queue_depth") == {'{model="held-generator",task="generate"}': 0}


def test_more_than_can_be_answered_in_time_is_refused_at_once(holding: Service, held: Held) -> None:
    async def story() -> list[Answer]:
        first = asyncio.create_task(exchange(holding.app, "POST", "/generate"))
        assert await asyncio.to_thread(held.running.wait, 10)
        others = {asyncio.create_task(exchange(holding.app, "POST", "/generate")) for _ in range(2)}
        (refused,), (waiting,) = await asyncio.wait(others, return_when=asyncio.FIRST_COMPLETED)
        held.may_run.set()
        return [await first, await waiting, await refused]

    *answered, refused = holding.run(story())
    assert [answer.status for answer in answered] == [200, 200]
    assert (refused.status, refused.json()["code"]) == (429, "overloaded")
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.headers["x-model-version"] == "1"
    rejected = holding.metric("imago_rejected_total")
    assert rejected['{model="held-generator",reason="overloaded",task="generate"}'] == 1


def test_a_deadline_that_passes_in_the_queue_is_told(holding: Service, held: Held) -> None:
    async def story() -> list[Answer]:
        first = asyncio.create_task(exchange(holding.app, "POST", "/generate"))
        assert await asyncio.to_thread(held.running.wait, 10)
        late = asyncio.Event()
        asyncio.get_running_loop().call_later(0.1, late.set)
        timeout = [(b"x-request-timeout-ms", b"50")]
        second = asyncio.create_task(exchange(holding.app, "POST", "/generate", headers=timeout))
        await late.wait()
        held.may_run.set()
        return [await first, await second]

    answered, expired = holding.run(story())
    assert answered.status == 200
    assert (expired.status, expired.json()["code"]) == (504, "deadline-exceeded")
    assert held.rows == [1]


def test_a_caller_that_leaves_inside_its_body_is_no_fault(service: Service) -> None:
    for path in ("/classify", "/generate"):
        answer = service.run(exchange(service.app, "POST", path, chunks=[b"\x89PNG", b"half"], cut=True))
        assert answer.status == 0
    counted = service.metric("imago_requests_total")
    assert {series for series in counted if 'status="500"' in series} == set()
    assert sum(count for series, count in counted.items() if 'status="499"' in series) == 2


def test_while_models_are_loaded_callers_are_asked_to_come_back(held: Held, tmp_path: Path) -> None:
    running = Service(Settings(models=tmp_path, device="cpu", threads=1), settled=False)
    assert running.run(asyncio.to_thread(held.opening.wait, 10))
    try:
        assert running.get("/livez").json() == {"status": "alive", "faults": []}
        state = running.get("/readyz")
        assert (state.status_code, state.headers["retry-after"]) == (503, "1")
        assert (state.json()["ready"], state.json()["loading"]) == (False, ["held-generator/1"])
        for path in ("/generate", "/generate?model=held-generator"):
            answer = running.post(path)
            assert (answer.status_code, answer.json()["code"]) == (503, "not-ready")
            assert int(answer.headers["retry-after"]) >= 1
        assert [model["state"] for model in running.get("/models").json()["models"]] == ["loading"]
        assert running.post("/generate?model=made-up").status_code == 503
        counted = running.metric("imago_requests_total")
        assert counted == {'{model="",status="503",task="generate"}': 3}  # no name that a caller made up is kept
    finally:
        held.may_open.set()
        running.settle()
        assert running.get("/readyz").status_code == 200
        running.close()
