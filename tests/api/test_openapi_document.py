"""The OpenAPI document by itself: names, codes, references. `tests/service/test_openapi.py` asks a server."""

from collections.abc import Iterator
from typing import Any

import pytest

from app.api.errors import STATUS
from app.errors import CallerLeft, MethodNotAllowed, RouteNotFound
from tests.api.service import Service


@pytest.fixture(scope="module")
def document(service: Service) -> dict[str, Any]:
    found: dict[str, Any] = service.get("/openapi.json").json()
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def test_every_operation_has_a_name_of_its_own_a_summary_and_described_statuses(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(names)) == len(names)
    assert {"classify", "segment", "detect", "generate", "get_models", "get_models_name"} <= set(names)
    for _, path, operation in operations(document):
        assert operation["summary"], path
        assert all(response["description"] for response in operation["responses"].values()), path


def test_every_error_code_stands_with_its_status_and_an_example_and_every_route_tells_what_meets_all(
    document: dict[str, Any],
) -> None:
    seen: dict[str, set[int]] = {}
    for _, path, operation in operations(document):
        told = dict(problems(operation))
        for code, problem in told.items():
            assert problem.keys() >= {"type", "title", "status", "detail", "instance", "code"}
            seen.setdefault(code, set()).add(problem["status"])
        assert {"internal-error", "body-too-large", "request-timeout"} <= told.keys(), path
        public = path in ("/livez", "/readyz", "/v2/health/live", "/v2/health/ready")
        assert ("unauthenticated" in told) != public, path
    elsewhere = {RouteNotFound, MethodNotAllowed, CallerLeft}  # what is no operation, and what nobody reads
    assert {
        code: {status} for code, status in ((error.code, STATUS[error]) for error in STATUS.keys() - elsewhere)
    } == seen


def problems(operation: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for response in operation["responses"].values():
        for content in response.get("content", {}).values():
            for code, example in content.get("examples", {}).items():
                yield code, example["value"]


def test_every_header_and_shape_that_is_referred_to_exists(document: dict[str, Any]) -> None:
    def references(part: Any) -> Iterator[str]:
        if isinstance(part, dict):
            yield from (part["$ref"],) if isinstance(part.get("$ref"), str) else ()
            for inner in part.values():
                yield from references(inner)
        elif isinstance(part, list):
            for inner in part:
                yield from references(inner)

    found = set(references(document))
    assert found
    for reference in found:
        part = document
        for step in reference.removeprefix("#/").split("/"):
            part = part[step]
