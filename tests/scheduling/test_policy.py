"""`Lane` decides with a clock that the test holds."""

import weakref

import numpy as np
import pytest

from app.errors import DeadlineExceeded, Overloaded
from app.scheduling.policy import PATIENT, Job, Lane, Limits


def job(rows: int = 1, deadline: float = 100.0, arrived: float = 0.0, width: int = 2) -> Job:
    return Job(tensors={"x": np.zeros((rows, width))}, rows=rows, deadline=deadline, arrived=arrived)


def lane_with(*jobs: Job, **limits: float) -> Lane[Job]:
    lane: Lane[Job] = Lane(Limits(**limits))  # type: ignore[arg-type]
    for one in jobs:
        lane.add(one)
    return lane


def test_jobs_leave_in_the_order_of_their_deadlines() -> None:
    late, soon = job(deadline=9), job(deadline=3)
    assert lane_with(late, soon).take(0).batch == [soon, late]


def test_jobs_of_equal_deadline_leave_in_the_order_of_their_arrival() -> None:
    jobs = [job() for _ in range(5)]
    assert lane_with(*jobs).take(0).batch == jobs


def test_a_batch_holds_one_row_shape_and_leaves_the_other_shape_waiting() -> None:
    narrow, wide, narrow_too = job(width=2, deadline=1.5), job(width=3, deadline=2), job(width=2, deadline=3)
    lane = lane_with(narrow, wide, narrow_too)
    assert lane.take(0).batch == [narrow, narrow_too]
    assert lane.take(0).batch == [wide]


def test_a_batch_has_at_most_max_batch_size_rows() -> None:
    lane = lane_with(*(job(rows=3) for _ in range(4)), max_batch_size=8)
    assert [one.rows for one in lane.take(0).batch] == [3, 3]
    assert lane.waiting == 6
    assert lane.running == 6


def test_a_job_larger_than_a_batch_runs_alone() -> None:
    large, small = job(rows=20, deadline=1.5), job(deadline=2)
    assert lane_with(large, small, max_batch_size=8).take(0).batch == [large]


def test_two_free_sessions_share_what_waits() -> None:
    lane = lane_with(*(job() for _ in range(8)))
    assert len(lane.take(0, idle=2).batch) == 4
    assert len(lane.take(0, idle=1).batch) == 4


def test_a_job_whose_deadline_passed_is_dropped_before_it_runs() -> None:
    expired, live = job(deadline=1), job(deadline=5)
    picked = lane_with(expired, live).take(now=2)
    assert picked.expired == [expired]
    assert picked.batch == [live]


def test_a_job_whose_caller_left_is_neither_counted_nor_run() -> None:
    gone, stays = job(rows=4), job()
    lane = lane_with(gone, stays)
    assert lane.forget(gone)
    assert lane.waiting == 1
    assert lane.take(0).batch == [stays]
    assert lane.waiting == 0


def test_forgetting_a_job_that_runs_changes_no_count() -> None:
    running = job()
    lane = lane_with(running)
    lane.take(0)
    assert not lane.forget(running)
    assert (lane.waiting, lane.running) == (0, 1)


def test_an_empty_lane_gives_an_empty_batch() -> None:
    picked = lane_with().take(0)
    assert picked.batch == []
    assert picked.expired == []


def test_without_a_delay_nothing_is_held_back() -> None:
    assert lane_with(job()).hold(now=0) == 0


def test_with_a_delay_jobs_gather_until_it_passed_or_the_batch_is_full() -> None:
    lane = lane_with(job(arrived=1.0), max_queue_delay=0.5, max_batch_size=2)
    assert lane.hold(now=1.2) == pytest.approx(0.3)
    assert lane.hold(now=1.5) == 0
    lane.add(job(arrived=1.2))
    assert lane.hold(now=1.2) == 0


def test_a_first_job_is_admitted_before_anything_was_measured() -> None:
    lane = lane_with()
    lane.admit(1, deadline=1, now=0)
    assert lane.expected(1) == 0


def test_a_job_that_could_not_be_answered_before_its_deadline_is_refused() -> None:
    lane = lane_with(*(job() for _ in range(10)))
    lane.pace.learn(rows=1, seconds=0.1)
    lane.admit(1, deadline=2.0, now=0)
    with pytest.raises(Overloaded) as refused:
        lane.admit(1, deadline=1.0, now=0)
    assert refused.value.retry_after == pytest.approx(1.2)


def test_a_queue_that_would_last_too_long_refuses_whatever_the_deadline() -> None:
    lane = lane_with(*(job() for _ in range(10)), max_queue_seconds=1.0)
    lane.pace.learn(rows=1, seconds=0.1)
    with pytest.raises(Overloaded):
        lane.admit(1, deadline=100, now=0)


def test_rows_that_are_still_being_decoded_count_as_waiting() -> None:
    lane = lane_with()
    lane.pace.learn(rows=1, seconds=0.1)
    lane.admit(1, deadline=2.0, now=0, ahead=10)
    with pytest.raises(Overloaded):
        lane.admit(1, deadline=1.0, now=0, ahead=10)


def test_an_empty_queue_admits_even_when_the_model_was_slow() -> None:
    lane = lane_with(max_queue_seconds=1.0)
    lane.pace.learn(rows=1, seconds=60)
    assert lane.expected(1) > 5
    lane.admit(1, deadline=5, now=0)


def test_the_expected_wait_follows_what_batches_take() -> None:
    lane = lane_with()
    lane.pace.learn(rows=10, seconds=1.0)
    before = lane.expected(10)
    for _ in range(50):
        lane.pace.learn(rows=10, seconds=0.1)
    assert before == pytest.approx(2.0)
    assert lane.expected(10) == pytest.approx(0.2, rel=0.01)


def test_a_finished_batch_is_no_longer_running() -> None:
    lane = lane_with(job(rows=2))
    lane.take(0)
    lane.finished(rows=2, seconds=0.1, now=1.0)
    assert lane.running == 0


def test_what_keeps_a_busy_lane_from_its_next_batch_is_expected_of_the_ones_after() -> None:
    lane = lane_with(*(job() for _ in range(20)), max_batch_size=2)
    for end in range(1, 10):  # a batch runs for 0.1 s, and one ends each second
        lane.take(end - 0.1)
        lane.finished(rows=2, seconds=0.1, now=end)
    assert lane.pace.row_seconds == pytest.approx(0.5, rel=0.2)


def test_the_time_in_which_nothing_waited_is_no_batch_s() -> None:
    lane = lane_with(job(), job(), max_batch_size=2)
    for end in (1.0, 1000.0):
        lane.take(end - 0.1)
        lane.finished(rows=2, seconds=0.1, now=end)
        lane.add(job(rows=2))
    assert lane.pace.row_seconds == pytest.approx(0.05)


def test_a_lane_says_its_state() -> None:
    lane = lane_with(job(rows=3), job(rows=5), max_batch_size=3)
    lane.take(0)
    assert repr(lane) == "<Lane: 5 waiting, 3 running>"


def test_after_a_batch_without_memory_the_next_are_half_as_large_for_a_minute() -> None:
    lane = lane_with(*(job(deadline=1e6) for _ in range(40)), max_batch_size=16)
    lane.shrink(16, now=100)
    assert len(lane.take(now=100).batch) == 8
    lane.shrink(8, now=110)
    lane.shrink(16, now=120)  # of a batch that had begun before
    assert len(lane.take(now=179).batch) == 4
    assert len(lane.take(now=180).batch) == 16


def test_a_batch_is_never_smaller_than_one_row() -> None:
    lane = lane_with(job(), job())
    lane.shrink(1, now=0)
    assert len(lane.take(now=0).batch) == 1


def patient(rows: int = 1, width: int = 2) -> Job:
    return job(rows=rows, deadline=PATIENT, width=width)


def test_jobs_that_have_time_run_when_nothing_else_waits_and_in_batches_of_their_own() -> None:
    has_time, urgent = [patient() for _ in range(3)], [job() for _ in range(2)]
    lane = lane_with(*has_time[:2], *urgent, has_time[2], max_batch_size=8)
    assert (lane.waiting, lane.patient) == (5, 3)
    assert lane.take(0).batch == urgent
    assert lane.take(0).batch == has_time
    assert (lane.waiting, lane.patient, lane.running) == (0, 0, 5)


def test_jobs_of_another_shape_go_before_those_that_have_time() -> None:
    has_time, urgent = patient(width=3), job(width=2)
    lane = lane_with(has_time, urgent)
    assert [lane.take(0).batch, lane.take(0).batch] == [[urgent], [has_time]]


def test_a_job_that_has_time_runs_when_those_before_it_have_expired_or_left() -> None:
    expired, left, has_time = job(deadline=1), job(deadline=2), patient()
    lane = lane_with(expired, left, has_time)
    lane.forget(left)
    picked = lane.take(now=5)
    assert (picked.expired, picked.batch) == ([expired], [has_time])


def test_nobody_is_refused_for_jobs_that_have_time_and_they_are_not_refused() -> None:
    alone = lane_with(max_queue_seconds=1.0)
    crowded = lane_with(*(patient() for _ in range(100)), max_queue_seconds=1.0)
    for lane in (alone, crowded):
        lane.pace.learn(1, 0.1, None)
    assert crowded.expected(1) == alone.expected(1)
    lane_with(*(patient() for _ in range(100)), max_queue_seconds=1e-9).admit(1, deadline=0.5, now=0)
    busy = lane_with(*(job() for _ in range(100)), max_queue_seconds=1.0)
    busy.pace.learn(1, 0.1, None)
    with pytest.raises(Overloaded):
        busy.admit(1, deadline=50, now=0)
    busy.admit(1, deadline=PATIENT, now=0)


def test_a_job_that_has_time_is_forgotten_as_any_other() -> None:
    one, other = patient(), patient()
    lane = lane_with(one, other)
    assert lane.forget(one)
    assert (lane.waiting, lane.patient) == (1, 1)
    assert lane.take(0).batch == [other]


def test_jobs_whose_callers_left_are_not_kept_until_their_turn_would_have_come() -> None:
    lane = lane_with(job())
    gone = [job(deadline=200.0) for _ in range(50)]
    kept = [weakref.ref(one) for one in gone]
    for one in gone:
        lane.add(one)
    for one in gone:
        assert lane.forget(one)
    del one, gone
    assert sum(ref() is not None for ref in kept) <= 1
    assert (len(lane.take(0).batch), lane.waiting) == (1, 0)
    last = job()
    lane.add(last)
    lane.forget(last)
    kept, last = [weakref.ref(last)], job(arrived=50.0)
    assert kept[0]() is None


def test_a_job_that_left_does_not_shorten_the_wait_of_those_after_it() -> None:
    for leaves_first in (True, False):
        left, new = job(arrived=0.0), job(arrived=50.0)
        lane = lane_with(left, max_queue_delay=0.5)
        if leaves_first:
            lane.forget(left)
        lane.add(new)
        lane.forget(left)
        assert lane.hold(now=50.0) == 0.5


def test_a_job_whose_deadline_passed_before_it_could_wait_is_late_and_not_refused() -> None:
    for lane in (lane_with(), lane_with(job())):
        with pytest.raises(DeadlineExceeded):
            lane.admit(1, deadline=5.0, now=5.0)
