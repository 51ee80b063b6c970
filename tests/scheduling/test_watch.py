"""`Watch`: how long a batch may run before it is given up."""

import threading

import numpy as np

from app.scheduling.watch import Watch
from app.tensors import Tensors


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def batch(size: int) -> Tensors:
    return {"x": np.zeros((1, size), np.uint8)}


def after(watch: Watch, clock: Clock, seconds: float) -> bool:
    clock.now += seconds
    return watch.overdue()


def test_a_quick_batch_may_take_half_a_minute_and_no_longer() -> None:
    clock = Clock()
    watch = Watch(clock, seconds_per_byte=0.0001)
    watch.begin(batch(100))
    assert not after(watch, clock, 30)
    assert after(watch, clock, 0.1)
    watch.end()
    assert not watch.overdue()


def test_a_slow_batch_may_take_what_was_measured_five_times_over() -> None:
    clock = Clock()
    watch = Watch(clock, seconds_per_byte=1.0)
    watch.begin(batch(100))
    assert not after(watch, clock, 529)
    assert after(watch, clock, 2)


def test_what_batches_take_is_learnt_at_once_where_they_are_slower_and_slowly_where_quicker() -> None:
    clock = Clock()
    watch = Watch(clock)
    watch.begin(batch(10))
    clock.now += 20
    watch.end()
    watch.begin(batch(20))
    assert not after(watch, clock, 229)
    assert after(watch, clock, 2)
    watch.end()
    for _ in range(50):
        watch.begin(batch(10))
        watch.end()
    watch.begin(batch(10))
    assert after(watch, clock, 31)


def test_a_large_picture_may_take_as_much_longer_as_it_is_larger() -> None:
    clock = Clock()
    watch = Watch(clock, seconds_per_byte=0.001)
    watch.begin(batch(1_000_000))
    assert not after(watch, clock, 5000)
    assert after(watch, clock, 100)


def test_batches_of_other_threads_do_not_hide_one_that_is_stuck() -> None:
    clock = Clock()
    watch = Watch(clock)
    stuck = threading.Thread(target=watch.begin, args=(batch(1),))
    stuck.start()
    stuck.join()
    clock.now += 31
    for _ in range(3):
        watch.begin(batch(1))
        watch.end()
    assert watch.overdue()
