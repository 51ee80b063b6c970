"""Overload: what counts as good, and what does not."""

import numpy as np

from benchmarks.arrivals import Sent
from benchmarks.overload import judged


def test_only_what_was_answered_in_time_is_good() -> None:
    status = np.array([200, 200, 200, 429, 429, 504, 0])
    latency = np.array([0.1, 0.2, 0.9, 0.01, 0.03, 0.5, np.inf])
    due, told = np.linspace(0, 1, 7), np.array([False, False, False, True, False, False, False])
    good, p99, bad, refused, with_retry_after = judged(Sent(due, np.zeros(7), latency, status, told, 0.1), 4, 0.5)
    assert good == "50.0%"  # two of four a second
    assert p99 == "886"
    assert bad == "3"  # one answered late, one expired, one without an answer
    assert (refused, with_retry_after) == ("30", "50.0%")


def test_a_load_of_which_nothing_is_refused_says_so() -> None:
    sent = Sent(np.ones(1), np.zeros(1), np.array([0.1]), np.array([200]), np.zeros(1, bool), 0.1)
    assert judged(sent, 1, 0.5)[3:] == ["-", "none refused"]
