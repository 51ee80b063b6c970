"""What is kept of jobs, for how long, and what is removed."""

from dataclasses import replace
from pathlib import Path

import pytest

from app.errors import InvalidSettings, JobNotFound, NotReady, TooManyJobs
from app.jobs.job import BackgroundJob, Bounds
from app.jobs.store import JOURNAL, PICTURES, RESULTS, JobStore

BOUNDS = Bounds(pictures=9, bytes=100, kept=3, disk_bytes=250, keep_seconds=60)


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def opened(folder: Path, clock: Clock | None = None) -> JobStore:
    return JobStore(folder, BOUNDS, clock or Clock())


def job(identity: str, clock: Clock | None = None, size: int = 50) -> BackgroundJob:
    created = (clock or Clock()).now
    return BackgroundJob(identity, None, "classify", "tiny", None, "{}", created, bytes=size)


def arrived(store: JobStore, identity: str, clock: Clock | None = None) -> BackgroundJob:
    """A job whose pictures have come."""
    store.admit(job(identity, clock))
    store.path(job(identity), PICTURES).write_bytes(bytes(40))
    store.arrived(job(identity), pictures=4, every=False)
    return store.find(identity)


def ended(store: JobStore, identity: str) -> BackgroundJob:
    found = arrived(store, identity)
    store.start(found)
    for name, size in ((RESULTS, 70), (JOURNAL, 90)):
        store.path(found, name).write_bytes(bytes(size))
    store.end(found, 3, 1, None)
    return store.find(identity)


def test_a_job_goes_its_way_and_its_files_with_it(tmp_path: Path) -> None:
    store = opened(tmp_path / "jobs")
    assert (tmp_path / "jobs").stat().st_mode & 0o77 == 0
    store.admit(job("one"))
    with pytest.raises(JobNotFound):
        store.find("one")
    assert store.unended() == []
    store.remove(job("one"))
    found = arrived(store, "one")
    assert (found.state, found.pictures, found.bytes) == ("waiting", 4, 40)
    assert store.start(found)
    store.path(found, JOURNAL).write_bytes(bytes(30))
    assert store.progress(found, 1, 0)
    assert store.find("one").bytes == 40 + 30
    assert [(one.state, one.answered) for one in store.unended()] == [("running", 1)]
    done = ended(store, "two")
    assert (done.state, done.answered, done.failed, done.bytes) == ("done", 3, 1, 70)
    assert [path.name for path in store.path(done, "").iterdir()] == [RESULTS]
    assert [one.id for one in store.unended()] == ["one"]


def test_a_job_that_fails_says_why(tmp_path: Path) -> None:
    store = opened(tmp_path)
    found = arrived(store, "one")
    store.path(found, RESULTS).write_bytes(b"")
    store.end(found, 0, 0, NotReady("Model 'x' cannot answer."))
    failed = store.find("one")
    assert (failed.state, failed.error, failed.detail) == ("failed", "not-ready", "Model 'x' cannot answer.")


def test_what_is_kept_survives_a_restart(tmp_path: Path) -> None:
    done = ended(opened(tmp_path), "one")
    assert opened(tmp_path).find("one") == done


def test_there_is_room_for_so_many_jobs_and_bytes_however_many_processes_take_them_in(tmp_path: Path) -> None:
    one, other = opened(tmp_path), opened(tmp_path)
    one.admit(job("a", size=100))
    other.admit(job("b", size=100))
    with pytest.raises(TooManyJobs):
        one.admit(job("c", size=100))
    one.admit(job("c", size=50))
    with pytest.raises(TooManyJobs):
        other.admit(job("d", size=0))


def test_a_job_that_was_removed_is_told_to_whoever_runs_it(tmp_path: Path) -> None:
    store = opened(tmp_path)
    found = arrived(store, "one")
    store.remove(found)
    assert not store.progress(found, 1, 0)
    assert not store.start(found)
    assert not store.path(found, "").exists()


def test_cleaning_removes_what_is_over_and_nothing_else(tmp_path: Path) -> None:
    clock = Clock()
    store = opened(tmp_path, clock)
    kept = [ended(store, "old"), arrived(store, "waiting", clock)]
    store.admit(job("broken", clock))
    for name in ("0123456789abcdef" * 2, "models", "lost+found"):
        (tmp_path / name).mkdir()
    clock.now += 59
    store.clean()
    assert {one.id for one in store.all()} == {one.id for one in kept}
    others = {"models", "lost+found"}
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"old", "waiting", "broken", *others}
    clock.now += 3 * 3600
    store.clean()
    assert [one.id for one in store.all()] == ["waiting"]
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"waiting", *others}


def test_a_job_that_has_ended_is_neither_started_nor_ended_again_by_who_looked_it_up_before(tmp_path: Path) -> None:
    store = opened(tmp_path)
    done = ended(store, "one")
    before = replace(done, state="running", ended=None, answered=2)
    assert not store.start(before)
    assert not store.progress(before, 2, 0)
    store.spoil(before, NotReady("Its files are damaged."))
    assert store.find("one") == done
    assert len(store.path(done, RESULTS).read_bytes()) == 70


def test_a_job_for_which_there_can_be_no_folder_takes_no_room(tmp_path: Path) -> None:
    store = opened(tmp_path)
    (tmp_path / "one").write_bytes(b"")
    with pytest.raises(FileExistsError):
        store.admit(job("one", size=250))
    store.admit(job("two", size=250))


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidSettings, match="file"):
        opened(tmp_path / "file")
    (tmp_path / "jobs.sqlite3").write_bytes(b"no database at all, and long enough to be read as one" * 20)
    with pytest.raises(InvalidSettings, match="not a database"):
        opened(tmp_path)


def test_a_folder_of_another_release_is_left_alone(tmp_path: Path) -> None:
    store = opened(tmp_path)
    with store._writing() as db:
        db.execute("PRAGMA user_version = 7")
    with pytest.raises(InvalidSettings, match="another release"):
        opened(tmp_path)


def test_options_that_came_with_the_pictures_count(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.admit(job("one"))
    store.path(job("one"), PICTURES).write_bytes(b"")
    store.arrived(replace(job("one"), model="other", version="stable", options='{"top_k":1}'), 1, every=True)
    found = store.find("one")
    assert (found.model, found.version, found.options, found.every) == ("other", "stable", '{"top_k":1}', True)
