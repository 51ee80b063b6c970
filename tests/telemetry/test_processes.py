"""What the kernel tells of several real processes, added up."""

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import ProcessCollector

from app.telemetry.board import Board
from app.telemetry.processes import Processes
from tests.telemetry.forked import Forked

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc")
MIB = 2**20


def values(processes: Processes | ProcessCollector) -> dict[str, float]:
    return {sample.name: sample.value for metric in processes.collect() for sample in metric.samples}


def in_slot(board: Board, slot: int, work: Callable[[], object] = lambda: None) -> Callable[[], None]:
    """For a forked process: take the slot, then work."""

    def take() -> None:
        Processes(board.segments, board.segments[slot])
        work()

    return take


def spin(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_one_process_has_the_values_of_the_library() -> None:
    board = Board()
    found = values(Processes(board.segments, board.segments[0]))
    alone = values(ProcessCollector(registry=None))
    assert found.keys() == alone.keys()
    steady = ("process_start_time_seconds", "process_open_fds", "process_max_fds")
    assert [found[name] for name in steady] == [alone[name] for name in steady]
    assert found["process_cpu_seconds_total"] == pytest.approx(alone["process_cpu_seconds_total"], abs=0.5)
    assert found["process_resident_memory_bytes"] == pytest.approx(alone["process_resident_memory_bytes"], rel=0.2)


def test_memory_and_files_of_all_processes_add_up() -> None:
    board = Board(2)
    kept: list[object] = []
    here = Processes(board.segments, board.segments[0])
    alone = values(here)

    def hold() -> None:
        kept.append(bytearray(os.urandom(MIB)) * 64)
        kept.extend(os.open("/dev/null", os.O_RDONLY) for _ in range(40))

    with Forked(in_slot(board, 1, hold)) as child:
        child.finished()
        both = values(here)
        other = values(ProcessCollector(pid=lambda: child.pid, registry=None))
    for name in ("process_resident_memory_bytes", "process_virtual_memory_bytes"):
        assert other[name] > 64 * MIB
        assert both[name] == pytest.approx(alone[name] + other[name], rel=0.1)
    assert other["process_open_fds"] >= 40
    assert both["process_open_fds"] == pytest.approx(alone["process_open_fds"] + other["process_open_fds"], abs=5)
    assert both["process_max_fds"] == 2 * resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert (
        both["process_start_time_seconds"] == alone["process_start_time_seconds"] < other["process_start_time_seconds"]
    )


def test_memory_of_an_ended_process_is_gone_and_its_processor_time_is_not() -> None:
    board = Board(2)
    here = Processes(board.segments, board.segments[0])
    spent = [values(here)["process_cpu_seconds_total"]]
    for _ in range(3):
        with Forked(in_slot(board, 1, lambda: spin(0.2))) as child:
            child.finished()
            living = values(here)
        ended = values(here)
        assert living["process_cpu_seconds_total"] >= spent[-1] + 0.15
        assert ended["process_cpu_seconds_total"] >= living["process_cpu_seconds_total"]
        assert ended["process_max_fds"] == living["process_max_fds"] / 2
        spent.append(ended["process_cpu_seconds_total"])
    # Three times 0.2 seconds, and not each of them once more with every successor.
    assert spent[-1] < spent[0] + 1.5


def test_processor_time_never_falls_while_processes_come_and_go() -> None:
    board = Board(2)
    here = Processes(board.segments, board.segments[0])
    spent = [0.0]
    for _ in range(5):
        with Forked(in_slot(board, 1, lambda: spin(0.05))) as child:
            while len(spent) % 40:
                spent.append(values(here)["process_cpu_seconds_total"])
            child.finished()
            spent.append(values(here)["process_cpu_seconds_total"])
        spent.append(values(here)["process_cpu_seconds_total"])
    assert spent == sorted(spent)


def test_nothing_is_told_where_there_is_no_proc(tmp_path: Path) -> None:
    board = Board()
    assert values(Processes(board.segments, board.segments[0], proc=str(tmp_path))) == {}
