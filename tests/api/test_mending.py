"""Sessions that break while they serve: opened anew, or told in readiness; in liveness where only a restart helps."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.errors import InvalidModel
from app.runtime import BACKENDS
from app.runtime.function import FunctionSession
from app.settings import Settings
from app.tensors import Tensors, TensorSpec
from tests.api.service import Service
from tests.imaging.pictures import save
from tests.make_models import make_classifier

PICTURE = save(np.full((8, 8, 3), 10, np.uint8))
POISON = save(np.full((8, 8, 3), 255, np.uint8))
LOST = "CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; hostname=h ; expr=cudaStreamSynchronize(s)"


class Fragile:
    """A backend whose sessions break when they are told, and may be opened anew, or not."""

    def __init__(self) -> None:
        self.opened = 0
        self.broken = 0
        """Sessions opened up to this one fail with `error`."""
        self.error: Callable[[], Exception] = lambda: RuntimeError("broken")
        self.opens = True

    def open(self, graph: bytes, device: str, threads: int, files: Mapping[str, bytes]) -> FunctionSession:
        if not self.opens:
            raise InvalidModel("There is no opening it.")
        self.opened += 1
        number = self.opened

        def run(tensors: Tensors) -> Tensors:
            if number <= self.broken or (tensors["image"] == 255).all():
                raise self.error()
            return {"probabilities": np.full((len(tensors["image"]), 3), number, np.float32)}

        image = TensorSpec("image", np.dtype("u1"), (None, 8, 8, 3))
        return FunctionSession(run, (image,), (TensorSpec("probabilities", np.dtype("f4"), (None, 3)),))

    def break_all(self) -> None:
        self.broken = self.opened


@pytest.fixture
def fragile(monkeypatch: pytest.MonkeyPatch) -> Fragile:
    backend = Fragile()
    monkeypatch.setitem(BACKENDS, "fragile", backend.open)  # type: ignore[arg-type]
    return backend


@pytest.fixture(params=["", "concurrency = 1\n"], ids=["on the loop", "in a thread"])
def service(fragile: Fragile, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Service]:
    """One model whose sessions may break, and a sound one."""
    make_classifier(tmp_path, "fragile")
    make_classifier(tmp_path, "sound")
    (tmp_path / "fragile" / "serving.toml").write_text(f'backend = "fragile"\nthreads = 1\n{request.param}')
    running = Service(Settings(models=tmp_path, device="cpu", threads=1, cache=None))
    yield running
    running.close()


def ask(service: Service, picture: bytes = PICTURE) -> Any:
    return service.post("/classify?model=fragile", picture)


def by_whom(service: Service) -> int:
    """The number of the session that answers."""
    return int(ask(service).json()["results"][0]["labels"][0]["probability"])


def until(service: Service, condition: Callable[[], bool]) -> None:
    """Let the service look after itself, which it does once a second."""

    async def wait() -> None:
        while not condition():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.01)

    service.run(wait())


def fail(service: Service, picture: bytes = PICTURE) -> None:
    """So often that the sessions may be to blame."""
    for _ in range(3):
        answer = ask(service, picture)
        assert (answer.status_code, answer.json()["code"]) == (500, "inference-failed")


def test_sessions_that_fail_on_everything_are_opened_anew(service: Service, fragile: Fragile) -> None:
    before = by_whom(service)
    fragile.break_all()
    fail(service)
    jobs = service.registry.get("classify", "fragile").jobs
    until(service, lambda: not jobs.failing)
    assert by_whom(service) > before
    assert service.get("/readyz").json()["failed"] == {}


def test_poisoned_pictures_open_nothing_anew(service: Service, fragile: Fragile) -> None:
    opened, number = fragile.opened, by_whom(service)
    fail(service, POISON)
    jobs = service.registry.get("classify", "fragile").jobs
    until(service, lambda: not jobs.failing)
    assert (fragile.opened, by_whom(service)) == (opened, number)


def test_a_version_that_cannot_be_mended_is_broken_and_the_others_serve(service: Service, fragile: Fragile) -> None:
    fragile.break_all()
    fragile.opens = False
    fail(service)
    until(service, lambda: service.registry.describe("fragile")[0].state == "failed")
    ready = service.get("/readyz")
    assert ready.status_code == 200
    assert "could not be opened again: There is no opening it." in ready.json()["failed"]["fragile/1"]
    assert service.get("/models/fragile").json()["state"] == "failed"
    assert "There is no opening it." in service.get("/models/fragile").json()["reason"]
    assert ask(service).status_code == 503
    assert service.post("/classify?model=sound", PICTURE).status_code == 200
    assert service.get("/livez").status_code == 200


def test_a_lost_device_is_told_in_readiness_and_in_liveness_for_ever(service: Service, fragile: Fragile) -> None:
    fragile.break_all()
    fragile.error = lambda: RuntimeError(LOST)
    for _ in range(2):
        answer = ask(service)
        assert (answer.status_code, answer.json()["code"]) == (503, "not-ready")
        assert "retry-after" in answer.headers
    until(service, lambda: service.registry.describe("fragile")[0].state == "failed")
    assert "restarted" in service.get("/readyz").json()["failed"]["fragile/1"]
    live = service.get("/livez")
    assert (live.status_code, live.json()["faults"]) == (503, ["A device was lost."])
    fragile.broken = 0
    until(service, lambda: True)
    assert service.get("/livez").status_code == 503
    assert service.post("/classify?model=sound", PICTURE).status_code == 200
