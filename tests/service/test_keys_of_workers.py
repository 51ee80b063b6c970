"""Keys in front of several processes: one file, one set of accounts."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.security.keys import INFER, METRICS, Limits
from benchmarks.server import running_server
from tests.api.doors import Keys
from tests.service.processes import Client, Processes, until
from tests.service.test_server import picture


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    made = Keys(tmp_path_factory.mktemp("keys") / "keys.json")
    made.add(METRICS)
    return made


@pytest.fixture(scope="module")
def both(model_root: Path, keys: Keys) -> Iterator[list[Client]]:
    """A connection to each of two workers."""
    flags = ("--workers", "2", "--keys", str(keys.path), "--log-level", "error")
    with running_server(model_root, *flags) as server:
        service = Processes(server)
        until(lambda: len(service.workers()) == 2)
        clients = service.one_client_each()
        for client in clients:
            until(lambda client=client: client.get("/readyz").json["settled"])  # type: ignore[misc]
        yield clients
        service.close_clients()


def status(client: Client, secret: str) -> int:
    return client.post("/classify", picture(1), {"X-API-Key": secret}).status


def test_every_worker_heeds_a_new_key_and_a_revoked_one(both: list[Client], keys: Keys) -> None:
    secret = keys.add(INFER)
    for client in both:
        until(lambda client=client: status(client, secret) == 200, seconds=5)  # type: ignore[misc]
    keys.revoke(secret)
    for client in both:
        until(lambda client=client: status(client, secret) in {401, 429}, seconds=5)  # type: ignore[misc]


def test_what_one_worker_let_in_counts_for_the_other(both: list[Client], keys: Keys) -> None:
    secret = keys.add(INFER, limits=Limits(requests_per_second=0.001))
    first, second = both
    until(lambda: status(first, secret) == 200, seconds=5)
    until(lambda: status(second, secret) != 401, seconds=5)
    assert status(second, secret) == 429


def test_without_a_key_every_worker_refuses(both: list[Client]) -> None:
    for client in both:
        assert client.post("/classify", picture(1)).status == 401
        assert client.get("/metrics").status == 401
        assert client.get("/livez").status == 200
