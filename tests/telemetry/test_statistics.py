"""Statistics of versions: what several processes counted is one sum."""

from app.telemetry.board import Board
from app.telemetry.metrics import Metrics
from app.telemetry.statistics import Spent


def test_what_was_never_counted_is_nothing() -> None:
    found = Metrics().statistics.total("m", 1)
    assert (found.success, found.fail, found.batches, found.rows, found.runs, found.last) == (
        Spent(0, 0.0), Spent(0, 0.0), {}, 0, 0, 0.0,
    )  # fmt: skip


def test_all_processes_are_added_up_for_each_version() -> None:
    board = Board(3)
    processes = [Metrics(board, slot).statistics for slot in range(3)]
    for place, one in enumerate(processes):
        one.requests("m", 1).succeeded(1.0, 0.5, 0.25, 0.125, 0.0625)
        one.requests("m", 1).failed(2.0)
        one.requests("m", 2).failed(4.0)
        one.batches("m", 1).observe(1 + place % 2, 0.5)
    for one in processes:
        found = one.total("m", 1)
        assert found.success == Spent(3, 3.0)
        assert found.fail == Spent(3, 6.0)
        assert (found.decode, found.queue, found.inference, found.encode) == (
            Spent(3, 1.5), Spent(3, 0.75), Spent(3, 0.375), Spent(3, 0.1875),
        )  # fmt: skip
        assert found.batches == {1: Spent(2, 1.0), 2: Spent(1, 0.5)}
        assert (found.rows, found.runs) == (4, 3)
        assert found.last > 1.7e9
        assert one.total("m", 2).fail == Spent(3, 12.0)
        assert one.total("m", 2).batches == {}


def test_a_process_continues_what_its_predecessor_counted() -> None:
    board = Board(1)
    for _ in range(2):
        statistics = Metrics(board, 0).statistics
        statistics.requests("m", 1).failed(1.0)
        statistics.batches("m", 1).observe(4, 1.0)
    assert statistics.total("m", 1).fail == Spent(2, 2.0)
    assert statistics.total("m", 1).batches == {4: Spent(2, 2.0)}
