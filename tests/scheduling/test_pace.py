"""`Pace` says what rows take, from what batches took."""

import pytest

from app.scheduling.pace import Pace

MEASURED = {1: 0.010, 4: 0.016, 16: 0.032}


def test_before_any_batch_a_row_takes_what_was_measured_in_the_largest() -> None:
    assert Pace(16, 1, MEASURED).row_seconds == pytest.approx(0.002)
    assert Pace(16, 2, MEASURED).row_seconds == pytest.approx(0.001)


def test_where_nothing_was_measured_the_first_batch_says_all() -> None:
    pace = Pace(16, 1)
    assert pace.row_seconds == 0
    pace.learn(rows=10, seconds=1.0)
    assert pace.row_seconds == pytest.approx(0.1)


def test_single_rows_that_take_their_usual_time_do_not_make_full_batches_look_slow() -> None:
    pace = Pace(16, 1, MEASURED)
    for _ in range(50):
        pace.learn(rows=1, seconds=0.010)
    assert pace.row_seconds == pytest.approx(0.002)


@pytest.mark.parametrize(("rows", "usual"), [(1, 0.010), (2, 0.012), (4, 0.016), (10, 0.024), (16, 0.032)])
def test_a_batch_that_takes_twice_its_usual_time_says_so_of_all(rows: int, usual: float) -> None:
    pace = Pace(16, 1, MEASURED)
    for _ in range(50):
        pace.learn(rows, 2 * usual)
    assert pace.row_seconds == pytest.approx(0.004, rel=1e-3)


def test_while_rows_wait_the_time_between_two_ends_counts() -> None:
    pace = Pace(16, 2, MEASURED)
    for _ in range(50):
        pace.learn(16, seconds=0.032, busy_seconds=0.048)
    assert pace.row_seconds == pytest.approx(0.003, rel=1e-3)  # 16 rows in 48 ms, though each of two ran for 32


def test_a_job_that_has_more_rows_than_a_batch_counts_by_its_rows() -> None:
    pace = Pace(16, 1, MEASURED)
    for _ in range(50):
        pace.learn(rows=32, seconds=0.064)
    assert pace.row_seconds == pytest.approx(0.002)


def test_a_slow_batch_is_expected_again_at_once_and_forgotten_by_and_by() -> None:
    pace = Pace(4, 1)
    pace.learn(4, 0.1)
    pace.learn(4, 1.0)
    assert pace.batch_seconds == 1.0
    for _ in range(50):
        pace.learn(4, 0.1)
    assert pace.batch_seconds == pytest.approx(0.1, rel=1e-3)


def test_a_batch_size_beyond_what_was_measured_costs_by_its_rows() -> None:
    assert Pace(8, 1, {1: 0.01, 4: 0.02}).row_seconds == pytest.approx(0.005)
