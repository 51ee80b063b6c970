"""The shared memory below the metrics: processes that write, read, and are killed while they do."""

import itertools
import logging
import sys
import threading
from collections.abc import Iterator

import pytest

from app.telemetry.board import Board, Segment
from tests.telemetry.forked import Forked


@pytest.fixture
def quick_switches() -> Iterator[None]:
    """Threads take turns as often as the interpreter lets them."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


def published(memory: bytearray, *names: str) -> int:
    """Append a series of one cell for each name; the first byte that is free after them."""
    segment = Segment(memoryview(memory))
    for name in names:
        segment.cells(name, (), 1)[0] = 1.0
    return max(place for place, byte in enumerate(memory) if byte) + 1


def test_a_series_is_found_again_by_its_name_and_labels() -> None:
    (segment,) = Board().segments
    first = segment.cells("seconds", ("classify", "a"), 3)
    first[2] = 0.5
    segment.cells("seconds", ("classify", "b"), 3)[2] = 7.0
    assert segment.cells("seconds", ("classify", "a"), 3)[2] == 0.5
    assert {labels: [*cells] for labels, cells in segment.series("seconds").items()} == {
        ("classify", "a"): [0.0, 0.0, 0.5],
        ("classify", "b"): [0.0, 0.0, 7.0],
    }
    assert segment.series("other") == {}


@pytest.mark.parametrize("label", ["", 'say "cheese"\n', "Übergröße 画像", "\0", "x" * 70_000])
def test_any_text_can_be_a_label(label: str) -> None:
    (segment,) = Board().segments
    segment.cells("name", (label, label), 1)[0] = 2.0
    ((found, cells),) = segment.series("name").items()
    assert (found, [*cells]) == ((label, label), [2.0])


def test_segments_keep_their_series_apart() -> None:
    first, second = Board(2).segments
    first.cells("total", (), 1)[0] = 1.0
    second.cells("total", (), 1)[0] = 2.0
    assert [[*segment.series("total")[()]] for segment in (first, second)] == [[1.0], [2.0]]


def test_what_a_forked_process_writes_is_read_here() -> None:
    board = Board(2)

    def write() -> None:
        board.segments[1].cells("total", ("forked",), 2)[1] = 3.5

    with Forked(write) as child:
        child.finished()
        assert [*board.segments[1].series("total")["forked",]] == [0.0, 3.5]
        board.segments[1].series("total")["forked",][0] = 1.0  # and it outlives the process
    assert [*board.segments[1].series("total")["forked",]] == [1.0, 3.5]


def test_a_process_reads_whole_series_while_another_appends() -> None:
    """Each is numbered twice, in its label and in its cells' count, so that a torn one would show."""
    board = Board(2, bytes_each=2**26)  # the appending goes on until enough was read in between

    def append() -> None:
        for number in itertools.count():
            board.segments[1].cells("series", (str(number), "x" * (number % 50)), 1 + number % 7)[0] += 1.0

    sizes = [0]
    with Forked(append) as child:
        while len(set(sizes)) < 20:
            assert child.alive
            found = board.segments[1].series("series")
            for number, (labels, cells) in enumerate(itertools.islice(found.items(), sizes[-1], None), sizes[-1]):
                assert labels == (str(number), "x" * (number % 50))
                assert len(cells) == 1 + number % 7
            sizes.append(len(found))
    assert sizes == sorted(sizes)
    assert all(cells[0] == 1.0 for cells in [*found.values()][: sizes[-1] - 1])  # the last may not have been added to


def test_a_slot_outlives_processes_killed_while_they_append() -> None:
    board, counts = Board(2), [0]

    def append() -> None:
        total = board.segments[1].cells("total", (), 1)
        begun = len(board.segments[1].series("series"))
        for number in range(begun, begun + 2000):
            board.segments[1].cells("series", (str(number),), 1)[0] = float(number)
            total[0] += 1.0

    for _ in range(10):
        with Forked(append) as child:
            while len(board.segments[1].series("series")) <= counts[-1] + 20:
                assert child.alive
        counts.append(len(board.segments[1].series("series")))
    found = board.segments[1].series("series")
    assert [*found] == [(str(number),) for number in range(len(found))]
    # The killed ones got no further than one series whose value, and one whose count, they did not write.
    assert sum(cells[0] != number for number, cells in enumerate(found.values())) <= 10
    assert len(found) - 10 <= board.segments[1].series("total")[()][0] <= len(found)


def test_what_a_killed_process_had_not_published_is_overwritten() -> None:
    memory = bytearray(1024)
    end = published(memory, "first")
    memory[end + 16 : end + 400] = b"\xff" * 384  # the body of a longer entry, without its first words
    survivor = Segment(memoryview(memory))
    assert [*survivor.cells("second", (), 2)] == [0.0, 0.0]
    assert [*survivor.cells("third", (), 1)] == [0.0]
    reader = Segment(memoryview(memory))
    assert [len(reader.series(name)) for name in ("first", "second", "third")] == [1, 1, 1]


def test_an_entry_that_is_not_visible_as_a_whole_is_read_the_next_time() -> None:
    memory = bytearray(1024)
    published(memory, "early", "late")
    at = memory.index(b'["late"]')
    memory[at : at + 8] = bytes(8)
    reader = Segment(memoryview(memory))
    assert (len(reader.series("early")), len(reader.series("late"))) == (1, 0)
    memory[at : at + 8] = b'["late"]'
    assert [*reader.series("late")[()]] == [1.0]


def test_a_full_segment_leaves_out_new_series_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    (segment,) = Board(bytes_each=256).segments
    kept = segment.cells("kept", (), 4)
    with caplog.at_level(logging.ERROR, "imago.telemetry"):
        for number in range(20):
            segment.cells("more", (str(number),), 4)[3] += 1.0
    assert 0 < len(segment.series("more")) < 20
    assert [record.getMessage() for record in caplog.records] == [
        "no room for the metric more('3',): it and further new series are left out"
    ]
    kept[0] = 5.0
    assert segment.series("kept")[()][0] == 5.0


def test_a_segment_is_used_to_its_last_byte() -> None:
    """An entry of 32 bytes (first words, key, cell), another, and the word that ends the log."""
    (exact,), (short,) = Board(bytes_each=72).segments, Board(bytes_each=64).segments
    for segment in (exact, short):
        for name in ("aaaa", "bbbb"):
            segment.cells(name, (), 1)
    assert len(exact.series("bbbb")) == 1
    assert len(short.series("bbbb")) == 0


def test_threads_lose_neither_series_nor_additions(quick_switches: None) -> None:
    (segment,) = Board().segments
    start = threading.Barrier(4)

    def count() -> None:
        start.wait()
        for number in range(10_000):
            segment.cells("total", (str(number % 25),), 1)[0] += 1.0

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = segment.series("total")
    assert sum(cells[0] for cells in found.values()) == 40_000
    assert len(found) == 25


def test_a_segment_says_how_full_it_is() -> None:
    (segment,) = Board(bytes_each=4096).segments
    segment.cells("aaaa", (), 1)
    assert repr(segment) == "<Segment: 1 series, 32 of 4096 bytes>"
