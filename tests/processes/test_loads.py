"""`Loads` shows workers the queues of the engine, also from another process."""

from app.processes.loads import Loads
from tests.telemetry.forked import Forked


def test_what_the_engine_writes_down_is_what_every_worker_reads() -> None:
    loads = Loads(3)

    def engine() -> None:
        loads.write(1, waiting=5, expected=0.25, row_seconds=0.01)

    with Forked(engine) as process:
        process.finished()
        assert loads.waiting(1) == 5
        assert loads.expected(1, rows=10) == 0.35
    assert [loads.waiting(place) for place in (0, 2)] == [0, 0]
    assert loads.expected(0, rows=10) == 0


def test_an_engine_that_begins_wipes_the_queues_of_its_predecessor() -> None:
    loads = Loads(2)
    loads.write(1, waiting=5, expected=60.0, row_seconds=1.0)
    loads.clear()
    assert (loads.waiting(1), loads.expected(1, rows=3)) == (0, 0)
