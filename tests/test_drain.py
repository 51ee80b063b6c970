"""`Drain` at the times that a test tells it."""

from app.drain import Drain


def test_a_drain_is_over_after_its_delay() -> None:
    now = [100.0]
    drain = Drain(lambda: now[0])
    assert repr(drain) == "<Drain: not begun>"
    assert not drain.over
    drain.begin(5)
    now[0] = 104.9
    assert repr(drain) == "<Drain: begun>"
    now[0] = 105.0
    assert repr(drain) == "<Drain: over>"


def test_who_asks_again_may_end_it_sooner_and_never_later() -> None:
    now = [0.0]
    drain = Drain(lambda: now[0])
    drain.begin(5)
    drain.begin(60)
    now[0] = 1.0
    assert not drain.over
    drain.begin(0)
    assert drain.over
