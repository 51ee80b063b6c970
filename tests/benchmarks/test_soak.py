"""`benchmarks.soak` says what grew, and sends what it says it sends."""

import httptools
import pytest

from benchmarks.soak import Held, Seen, good_requests, hostile_requests

MEBIBYTE = 2**20
HELD = Held(processes=4, descriptors=90, threads=20)


def soaked(first: float, last: float, before: Held = HELD, after: Held = HELD) -> Seen:
    """A hundred samples that go from one number of mebibytes to another."""
    memory = [int(MEBIBYTE * (first + (last - first) * number / 99)) for number in range(100)]
    return Seen(memory=memory, before=before, after=after)


@pytest.mark.parametrize(
    ("first", "last", "leaks"), [(500, 500, False), (500, 530, False), (500, 550, True), (500, 100, False),
                                 (4000, 4100, False), (4000, 4200, True)],
)  # fmt: skip
def test_memory_may_grow_by_32_mebibytes_or_by_three_hundredths(first: float, last: float, leaks: bool) -> None:
    assert soaked(first, last).leaks == leaks


def test_a_single_high_reading_is_no_growth() -> None:
    seen = soaked(500, 500)
    seen.memory[-3] *= 4
    assert not seen.leaks


@pytest.mark.parametrize("after", [Held(4, 91, 20), Held(4, 90, 21), Held(5, 90, 20)])
def test_one_descriptor_thread_or_process_more_is_too_many(after: Held) -> None:
    assert soaked(500, 500, after=after).leaks


def test_good_requests_are_whole_and_the_hostile_ones_are_many() -> None:
    class Ends:
        whole = 0

        def on_message_complete(self) -> None:
            self.whole += 1

    ends = Ends()
    for one in good_requests():
        httptools.HttpRequestParser(ends).feed_data(one)
    assert ends.whole == len(good_requests())
    assert len(hostile_requests()) > 1000
