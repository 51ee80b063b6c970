"""A service that takes jobs, and zips to send it."""

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from app.settings import Settings
from tests.api.service import Service
from tests.batch.pictures import plain
from tests.processes.scenario import until

GATHERING = "concurrency = 1\nmax_batch_size = 4\nmax_queue_delay_ms = 10000\n"
"""Batches of four, for which the last ones wait longer than any test: of ten pictures eight are answered."""
ZIP = {"content-type": "application/zip"}
Json = dict[str, Any]


def box(files: Mapping[str, bytes], packing: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip of these files."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", packing) as packed:
        for name, data in files.items():
            packed.writestr(name, data)
    return held.getvalue()


def reds(count: int) -> bytes:
    """A zip of so many red pictures."""
    return box({f"{number:03}.png": plain("red") for number in range(count)})


class Office:
    """A running service, and a caller who leaves jobs there."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def leave(self, body: Any, query: str = "task=classify", secret: str = "", **rest: Any) -> Json:
        """Leave a job that is taken in: its status."""
        answer = self.service.post(f"/jobs?{query}", body, headers=ZIP | bearer(secret), **rest)
        assert answer.status_code == 202, answer.text
        status: Json = answer.json()
        assert answer.headers["location"] == f"/jobs/{status['id']}"
        return status

    def refused(self, body: Any = b"", query: str = "task=classify", **rest: Any) -> tuple[int, str]:
        """Status and code of a job that is not taken in."""
        answer = self.service.post(f"/jobs?{query}", body, **({"headers": ZIP} | rest))
        return answer.status_code, answer.json()["code"]

    def status(self, job: Json, secret: str = "") -> Json:
        answer = self.service.get(f"/jobs/{job['id']}", headers=bearer(secret))
        assert answer.status_code == 200, answer.text
        found: Json = answer.json()
        return found

    def reach(self, job: Json, secret: str = "", **wanted: Any) -> Json:
        """Let the service run until the job's status is so."""
        client = self.service._client

        async def reached() -> Json:
            while True:
                found: Json = (await client.get(f"/jobs/{job['id']}", headers=bearer(secret))).json()
                if wanted.items() <= found.items():
                    return found

        return self.service.run(reached())

    def results(self, job: Json, secret: str = "") -> list[Json]:
        answer = self.service.get(f"/jobs/{job['id']}/results", headers=bearer(secret))
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/jsonl"), answer.text
        return [json.loads(line) for line in answer.text.splitlines()]

    def wait_until_nothing_waits(self, model: str = "tiny-classifier") -> None:
        """Let the service run until no row waits for this model."""
        lane = self.service.registry.get(None, model).jobs.lane
        self.service.run(until(lambda: lane.waiting == 0))


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"} if secret else {}


@contextmanager
def office(models: Path, folder: Path, **settings: Any) -> Iterator[Office]:
    service = Service(Settings(models=models, jobs_dir=folder, device="cpu", threads=1, **settings))
    try:
        yield Office(service)
    finally:
        service.close()


def best(line: Json) -> str:
    """What a line comes to: the best label, or the code of its error."""
    return str(line["error"]["code"] if "error" in line else line["result"]["labels"][0]["label"])
