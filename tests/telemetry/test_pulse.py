"""`Pulse`: several processes on one board, at the times that a test tells them."""

import os
import subprocess
import sys

import pytest

from app.telemetry.board import Board
from app.telemetry.pulse import SILENT_SECONDS, Pulse


class Service:
    """Two processes of one service, as far as their pulse goes; both have the id of the test's own."""

    def __init__(self) -> None:
        self.now = 1000.0
        segments = Board(3).segments
        self.one, self.other = (Pulse(segments, segment, lambda: self.now) for segment in segments[:2])


@pytest.fixture
def service() -> Service:
    return Service()


def test_before_the_first_beat_nothing_is_wrong(service: Service) -> None:
    assert service.one.faults() == []


def test_what_is_wrong_in_one_process_is_told_by_each(service: Service) -> None:
    service.one.beat([])
    service.other.beat(["A batch does not come back."])
    assert service.one.faults() == service.other.faults() == ["A batch does not come back."]


def test_what_is_mended_is_told_no_more(service: Service) -> None:
    service.other.beat(["wrong"])
    service.now += 1
    service.other.beat([])
    assert service.one.faults() == []
    service.now += 1
    service.other.beat(["wrong"])
    assert service.one.faults() == ["wrong"]


def test_a_process_that_does_not_turn_is_told_until_it_turns_again(service: Service) -> None:
    service.other.beat([])
    service.now += SILENT_SECONDS
    service.one.beat([])
    assert service.one.faults() == []
    service.now += 0.5
    assert service.one.faults() == [f"A process has not turned for {SILENT_SECONDS:.0f} s."]
    service.other.beat([])
    assert service.one.faults() == []


def test_a_process_that_has_ended_is_left_to_the_supervisor(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: ended.pid)
        service.other.beat(["wrong"])
    service.now += SILENT_SECONDS + 1
    assert service.one.faults() == []
