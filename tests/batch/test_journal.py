"""What was answered so far survives the process that wrote it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import orjson
import pytest

from app.batch.journal import Journal
from app.batch.records import Record, answered, failed
from app.errors import CorruptImage, InternalError, InvalidBatch

RUN = {"task": "classify", "source": "pictures", "options": {}}


def records(*names: str) -> list[Record]:
    return [answered(name, "tiny", 1, {"labels": [], "of": name}) for name in names]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Journal]]:
    """Opens the journal of the test, and closes it in the end."""
    with ExitStack() as stack:

        def open_it(**other: object) -> Journal:
            journal = Journal(tmp_path / "journal", {**RUN, **other})
            stack.callback(journal.close)
            return journal

        yield open_it


def kept(journal: Journal, *names: str) -> list[str]:
    return [orjson.loads(line)["file"] for line in journal.lines(names)]


def test_a_journal_opened_again_knows_what_was_answered(opened: Callable[..., Journal], tmp_path: Path) -> None:
    journal = opened()
    journal.append(records("a", "c"))
    journal.close()
    again = opened()
    assert [again.waits(name) for name in "abc"] == [False, True, False]
    again.append(records("b"))
    assert kept(again, "c", "b", "a", "d") == ["c", "b", "a"]


def test_a_line_that_was_cut_short_is_dropped_and_answered_again(
    opened: Callable[..., Journal], tmp_path: Path
) -> None:
    path = tmp_path / "journal"
    journal = opened()
    journal.append(records("a", "b"))
    journal.close()
    path.write_bytes(path.read_bytes()[:-5])
    again = opened()
    assert [again.waits(name) for name in "ab"] == [False, True]
    again.append(records("b", "c"))
    again.close()
    assert [orjson.loads(line)["file"] for line in path.read_bytes().splitlines()[1:]] == ["a", "b", "c"]


def test_a_line_that_is_none_is_dropped_with_what_follows_and_answered_again(
    opened: Callable[..., Journal], tmp_path: Path
) -> None:
    path = tmp_path / "journal"
    journal = opened()
    journal.append(records("a", "b", "c"))
    journal.close()
    head, first, second, third = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(head + first + bytes(len(second) - 1) + b"\n" + third)
    again = opened()
    assert [again.waits(name) for name in "abc"] == [False, True, True]
    again.append(records("b", "c"))
    assert kept(again, "c", "b", "a") == ["c", "b", "a"]


@pytest.mark.parametrize("length", [0, 1, 20])
def test_one_that_was_killed_in_its_first_line_begins_anew(
    opened: Callable[..., Journal], tmp_path: Path, length: int
) -> None:
    path = tmp_path / "journal"
    killed = opened()
    whole = path.read_bytes()
    killed.close()
    path.write_bytes(whole[:length])
    opened()
    assert path.read_bytes() == whole


def test_a_run_that_answered_nothing_is_in_nobody_s_way(opened: Callable[..., Journal]) -> None:
    opened(model="misspelt").close()
    assert opened(model="right").waits("a")


def test_the_journal_of_a_run_that_asked_something_else_is_refused_and_kept(
    opened: Callable[..., Journal], tmp_path: Path
) -> None:
    journal = opened()
    journal.append(records("a"))
    journal.close()
    before = journal.path.read_bytes()
    with pytest.raises(InvalidBatch, match="asked something else"):
        opened(options={"top_k": 1})
    assert journal.path.read_bytes() == before


def test_two_runs_do_not_write_one_journal(opened: Callable[..., Journal], tmp_path: Path) -> None:
    journal = opened()
    with pytest.raises(InvalidBatch, match="Another process writes"):
        opened()
    journal.close()
    opened().remove()
    assert not journal.path.exists()


def test_a_picture_that_failed_is_tried_again_only_where_that_may_help(
    opened: Callable[..., Journal], tmp_path: Path
) -> None:
    journal = opened()
    journal.append([failed("broken", CorruptImage("It is damaged.")), failed("unlucky", InternalError())])
    journal.close()
    again = opened()
    assert again.errors == {"broken": "corrupt-image", "unlucky": "internal-error"}
    assert [again.waits(name) for name in ("broken", "unlucky")] == [False, True]
    again.append(records("unlucky"))
    assert again.errors == {"broken": "corrupt-image"}
    assert [orjson.loads(line).keys() for line in again.lines(["unlucky"])] == [{"file", "model", "version", "result"}]
