"""`Loads` shows every worker what waits for the engine, whoever sent it."""

import pytest

from app.processes.loads import Load, Loads
from tests.telemetry.forked import Forked


def test_what_one_worker_sends_and_the_engine_measures_is_what_every_worker_expects() -> None:
    loads = Loads(workers=2, models=3)

    def others() -> None:
        loads.learn(1, row_seconds=0.01, batch_seconds=0.2)
        Load(loads, 0, 1).add(5)

    with Forked(others) as process:
        process.finished()
    mine = Load(loads, 1, 1)
    mine.add(3)
    assert mine.waiting() == 8
    assert mine.expected(rows=2) == pytest.approx(0.3)
    mine.add(-3)
    assert mine.waiting() == 5
    assert [loads.waiting(place) for place in (0, 2)] == [0, 0]
    assert loads.expected(0, rows=10) == 0


def test_an_engine_that_begins_has_measured_nothing() -> None:
    loads = Loads(workers=1, models=2)
    loads.learn(1, row_seconds=1.0, batch_seconds=1.0)
    loads.begin()
    assert loads.expected(1, rows=3) == 0


def test_a_worker_that_begins_has_sent_nothing() -> None:
    loads = Loads(workers=2, models=2)
    for worker in (0, 1):
        for place in (0, 1):
            loads.add(worker, place, 1 + worker)
    loads.begin_worker(1)
    assert [loads.waiting(place) for place in (0, 1)] == [1, 1]
