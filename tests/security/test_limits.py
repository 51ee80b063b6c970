"""Quotas and guesses: plain functions of a clock that the test moves."""

from dataclasses import dataclass

import pytest

from app.errors import QuotaExceeded
from app.security.keys import INFER, Caller, Limits
from app.security.limits import Accounts, Guesses, Quotas


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def caller(row: int = 0) -> Caller:
    return Caller("00000000", frozenset({INFER}), None, float("inf"), row, None)


def refused(quotas: Quotas, limits: Limits, who: Caller | None = None) -> QuotaExceeded | None:
    try:
        quotas.admit(who or caller(), limits)
    except QuotaExceeded as error:
        return error
    return None


@pytest.mark.parametrize(("rate", "at_once"), [(10.0, 10), (3.0, 3), (1.0, 1), (0.1, 1), (2.5, 2), (1000.0, 1000)])
def test_a_second_s_worth_of_requests_passes_at_once_and_no_more(rate: float, at_once: int) -> None:
    quotas = Quotas(Accounts(), 0, Clock())
    limits = Limits(requests_per_second=rate)
    passed = [refused(quotas, limits) is None for _ in range(at_once + 5)]
    assert passed == [True] * at_once + [False] * 5


@pytest.mark.parametrize("rate", [0.5, 3.0, 10.0])
def test_who_comes_back_after_the_delay_told_gets_in_and_a_little_sooner_does_not(rate: float) -> None:
    clock = Clock()
    quotas, limits = Quotas(Accounts(), 0, clock), Limits(requests_per_second=rate)
    while (error := refused(quotas, limits)) is None:
        pass
    clock.now += error.retry_after - 0.001
    assert refused(quotas, limits) is not None
    clock.now += 0.001
    assert refused(quotas, limits) is None


def test_over_a_long_time_the_rate_is_kept() -> None:
    clock = Clock()
    quotas, limits = Quotas(Accounts(), 0, clock), Limits(requests_per_second=5)
    passed = 0
    for _ in range(10_000):
        clock.now += 0.01
        passed += refused(quotas, limits) is None
    assert 500 <= passed <= 506


def test_a_rate_holds_for_all_processes_together() -> None:
    clock, accounts = Clock(), Accounts(3)
    processes = [Quotas(accounts, number, clock) for number in range(3)]
    limits = Limits(requests_per_second=6)
    assert [refused(processes[turn % 3], limits) is None for turn in range(12)] == [True] * 6 + [False] * 6


def test_requests_at_a_time_are_counted_over_all_processes_until_they_end() -> None:
    accounts = Accounts(2)
    one, other = (Quotas(accounts, number, Clock()) for number in range(2))
    limits = Limits(concurrency=2)
    assert refused(one, limits) is None
    assert refused(other, limits) is None
    assert refused(one, limits) is not None
    other.leave(caller(), limits, 0)
    assert refused(one, limits) is None
    assert one.under_way(0) == 2


def test_what_a_process_that_died_left_under_way_is_forgotten_by_its_successor() -> None:
    accounts = Accounts(2)
    one, other = (Quotas(accounts, number, Clock()) for number in range(2))
    for quotas in (one, other):
        quotas.admit(caller(3), Limits(concurrency=9))
    Quotas(accounts, 0, Clock())
    assert other.under_way(3) == 1


def test_pixels_are_paid_for_by_waiting_after_they_were_used() -> None:
    clock = Clock()
    quotas, limits = Quotas(Accounts(), 0, clock), Limits(pixels_per_second=1000)
    assert refused(quotas, limits) is None
    quotas.leave(caller(), limits, 10_000)
    error = refused(quotas, limits)
    assert error is not None
    assert error.retry_after == pytest.approx(9)
    clock.now += 9.0
    assert refused(quotas, limits) is None


def test_a_refused_request_is_not_charged() -> None:
    clock = Clock()
    quotas = Quotas(Accounts(), 0, clock)
    limits = Limits(requests_per_second=2, concurrency=1)
    assert refused(quotas, limits) is None
    assert [refused(quotas, limits) is not None for _ in range(10)] == [True] * 10
    quotas.leave(caller(), limits, 0)
    assert quotas.under_way(0) == 0
    assert refused(quotas, limits) is None


def test_each_key_has_its_own_account() -> None:
    quotas, limits = Quotas(Accounts(), 0, Clock()), Limits(requests_per_second=1)
    assert refused(quotas, limits, caller(0)) is None
    assert refused(quotas, limits, caller(0)) is not None
    assert refused(quotas, limits, caller(1)) is None


def test_an_address_may_guess_ten_times_and_then_ten_times_a_minute() -> None:
    clock = Clock()
    guesses = Guesses(Accounts(), clock)
    assert [guesses.failed("192.0.2.1") for _ in range(10)] == [0.0] * 10
    assert guesses.failed("192.0.2.1") == pytest.approx(6)
    assert guesses.failed("192.0.2.2") == 0
    clock.now += 6
    assert guesses.failed("192.0.2.1") == 0
    assert guesses.failed("192.0.2.1") == pytest.approx(6)


def test_an_address_guesses_at_all_processes_together() -> None:
    clock, accounts = Clock(), Accounts(2)
    one, other = Guesses(accounts, clock), Guesses(accounts, clock)
    assert [(one, other)[turn % 2].failed("192.0.2.1") > 0 for turn in range(12)] == [False] * 10 + [True] * 2


def test_a_network_of_ipv6_is_one_address() -> None:
    guesses = Guesses(Accounts(), Clock())
    for host in range(10):
        assert guesses.failed(f"2001:db8::{host}%eth0") == 0
    assert guesses.failed("2001:db8::ffff") > 0
    assert guesses.failed("2001:db8:0:1::1") == 0
