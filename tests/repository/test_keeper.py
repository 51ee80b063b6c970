"""`Keeper` looks after a registry; what it finds is told in liveness, and once in the log."""

import asyncio
from pathlib import Path

import pytest

from app.repository.keeper import Keeper
from tests.processes.engines import engine


def test_a_batch_that_does_not_come_back_is_told_in_liveness_and_once_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with engine(tmp_path) as (house, (caller,)):
            keeper = Keeper(house.registry, house.metrics.pulse.beat)
            keeper.look()
            assert house.metrics.pulse.faults() == []
            house.hold()
            stuck = caller.run(7)
            await asyncio.to_thread(house.gate.entered.wait, 10)
            house.now += 31
            for _ in range(3):
                keeper.look()
            assert house.metrics.pulse.faults() == ["A batch does not come back."]
            (line,) = [record.getMessage() for record in caplog.records if record.levelname == "CRITICAL"]
            assert line.startswith("tiny-classifier/1: A batch does not come back.")
            house.gate.opened.set()
            await stuck
            keeper.look()
            assert house.metrics.pulse.faults() == []

    asyncio.run(scenario())
