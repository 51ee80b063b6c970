"""A shadow is compared with the version that answers, and never waited for."""

import asyncio
import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.imaging.codec import encode_png
from app.manifest import Manifest
from app.runtime.function import FunctionSession
from app.scheduling.batcher import Batcher, Sessions
from app.scheduling.policy import Lane
from app.servable import Servable, build, open_servable
from app.serving import ServingConfig
from app.tasks.classify import ClassifyOptions
from app.tensors import Tensors
from tests.make_models import make_versions
from tests.processes.engines import INPUTS, OUTPUTS, RUNNING
from tests.processes.scenario import until
from tests.repository.house import NAME, House, scenario

RED = encode_png(np.full((8, 8, 3), (250, 9, 9), np.uint8))
FOREVER = 1e12


async def predict(house: House) -> Any:
    servable = house.registry.get("classify", NAME)
    return (await servable.predict(RED, ClassifyOptions(), FOREVER)).answer


def begin(house: House) -> None:
    """The fast path's way."""
    house.registry.get("classify", NAME).begin(RED, ClassifyOptions(), FOREVER, lambda outcome: None)


def counted(house: House, outcome: str) -> float:
    labels = {"task": "classify", "model": NAME, "outcome": outcome}
    return house.metrics.registry.get_sample_value("imago_shadow_total", labels) or 0.0


def agreement(house: House) -> tuple[float, float]:
    """How many calls were compared, and the sum of their shares."""
    found = (
        house.metrics.registry.get_sample_value(f"imago_shadow_agreement_{what}", {"task": "classify", "model": NAME})
        for what in ("count", "sum")
    )
    count, total = (value or 0.0 for value in found)
    return count, total


@pytest.mark.parametrize(
    ("second", "expected"),
    [({}, 1.0), ({"labels": ("blue", "red", "green")}, 0.0), ({"size": 16}, 1.0)],
    ids=["the same", "other labels", "another size"],
)
def test_how_a_shadow_agrees_is_counted(tmp_path: Path, second: dict[str, Any], expected: float) -> None:
    make_versions(tmp_path, "aliases = { stable = 1 }\nshadow = { version = 2 }\n", **second)

    async def play(house: House) -> None:
        for call in range(1, 6):
            if call % 2:
                assert (await predict(house))[0]["labels"][0]["label"] == "red"
            else:
                begin(house)
            await until(lambda call=call: counted(house, "compared") == call)
        assert agreement(house) == (5, 5 * expected)
        assert (counted(house, "dropped"), counted(house, "failed")) == (0, 0)

    scenario(tmp_path, play)


def test_what_is_asked_of_the_shadow_itself_is_compared_with_nothing(tmp_path: Path) -> None:
    make_versions(tmp_path, "aliases = { stable = 1 }\nshadow = { version = 2 }\n")

    async def play(house: House) -> None:
        shadow = house.registry.get("classify", NAME, 2)
        assert not shadow.inline  # or callers of other versions would wait for it
        await shadow.predict(RED, ClassifyOptions(), FOREVER)
        await predict(house)
        await until(lambda: counted(house, "compared") == 1)
        assert shadow.mirror is None

    scenario(tmp_path, play)


def test_a_shadow_gets_its_share(tmp_path: Path) -> None:
    make_versions(tmp_path, "aliases = { stable = 1 }\nshadow = { version = 2, percent = 25 }\n")

    async def play(house: House) -> None:
        for call in range(1, 101):
            begin(house)
            await until(lambda call=call: house.registry.get("classify", NAME).waiting() == 0)
            await until(lambda: not house.registry.get("classify", NAME).mirror.busy)
        compared, count, share = counted(house, "compared"), 100, 0.25
        assert abs(compared - share * count) < 4 * math.sqrt(count * share * (1 - share))

    scenario(tmp_path, play)


class Shadow:
    """The session of version 2: waits until it is let go on, and fails if it is told to."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.broken = False
        self.calls = 0

    def __call__(self, tensors: Tensors) -> Tensors:
        self.calls += 1
        assert self.go_on.wait(10)
        if self.broken:
            raise RuntimeError("broken")
        return {"probabilities": tensors["image"][:, 0, 0].astype(np.float32)}

    def prepare(self, house: House) -> None:
        async def open_it(folder: Path, manifest: Manifest, serving: ServingConfig) -> Servable:
            if manifest.version == 1:
                return await open_servable(folder, manifest, serving, house.resources)
            metrics = house.metrics.of(manifest.task, manifest.name, manifest.version)
            batcher = Batcher("shadow", Sessions(FunctionSession(self, INPUTS, OUTPUTS)), Lane(), metrics)
            return build(folder, manifest, RUNNING, batcher, house.resources)

        house.opener = open_it


def test_nobody_waits_for_a_shadow_and_what_it_cannot_take_is_dropped(tmp_path: Path) -> None:
    make_versions(tmp_path, "aliases = { stable = 1 }\nshadow = { version = 2 }\n")
    shadow = Shadow()

    async def play(house: House) -> None:
        for _ in range(20):
            await predict(house)
        assert counted(house, "dropped") == 19
        shadow.go_on.set()
        await until(lambda: counted(house, "compared") == 1)
        assert shadow.calls == 1

    scenario(tmp_path, play, prepare=shadow.prepare)


def test_a_shadow_that_fails_fails_no_caller(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_versions(tmp_path, "aliases = { stable = 1 }\nshadow = { version = 2 }\n")
    shadow = Shadow()
    shadow.broken = True
    shadow.go_on.set()

    async def play(house: House) -> None:
        assert (await predict(house))[0]["labels"][0]["label"] == "red"
        await until(lambda: counted(house, "failed") == 1)
        assert agreement(house) == (0, 0)

    scenario(tmp_path, play, prepare=shadow.prepare)


def test_a_shadow_that_is_unloaded_ends_what_it_compares_and_is_asked_no_more(tmp_path: Path) -> None:
    make_versions(tmp_path, "aliases = { stable = 1 }\nshadow = { version = 2 }\n")
    shadow = Shadow()

    async def play(house: House) -> None:
        await predict(house)
        await until(lambda: shadow.calls == 1)
        house.choose("versions = [1]\n")
        await house.manager.load(NAME)
        assert house.states == {2: "unloading", 1: "ready"}
        await predict(house)
        shadow.go_on.set()
        await house.ended()
        assert counted(house, "compared") == 1
        assert shadow.calls == 1

    scenario(tmp_path, play, prepare=shadow.prepare)


def test_a_load_of_other_traffic_keeps_comparing_where_nothing_changed(tmp_path: Path) -> None:
    make_versions(tmp_path, "aliases = { stable = 1 }\nshadow = { version = 2 }\n", count=3)

    async def play(house: House) -> None:
        mirror = house.registry.get("classify", NAME).mirror
        house.choose("aliases = { stable = 1, other = 3 }\nshadow = { version = 2 }\n")
        await house.manager.load(NAME)
        assert house.registry.get("classify", NAME).mirror is mirror
        house.choose("aliases = { stable = 1 }\n")
        await house.manager.load(NAME)
        await asyncio.sleep(0)
        assert house.registry.get("classify", NAME).mirror is None

    scenario(tmp_path, play)
