"""Keeps jobs: what is known of each in an SQLite file, its files in a folder of its own. Every process may ask.

Methods block for as long as a disk does: event loops call them in threads. Each opens the file anew, so that no
connection crosses a thread or a fork.
"""

import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any, Final

from app.errors import InvalidSettings, JobNotFound, ServiceError, TooManyJobs
from app.jobs.job import ARRIVING, DONE, FAILED, RUNNING, WAITING, BackgroundJob, Bounds

PICTURES: Final = "pictures.zip"
JOURNAL: Final = "journal.jsonl"
RESULTS: Final = "results.jsonl"
LOCK: Final = "jobs.lock"
"""Galleries have a file `lock`, and may be kept in the same folder."""
_FILE: Final = "jobs.sqlite3"
_VERSION: Final = 1
_COLUMNS: Final = ", ".join(field.name for field in fields(BackgroundJob))
_SCHEMA: Final = f"""
CREATE TABLE jobs (
    id TEXT PRIMARY KEY, owner TEXT, task TEXT NOT NULL, model TEXT, version ANY, options TEXT NOT NULL,
    created REAL NOT NULL, state TEXT NOT NULL, every INTEGER NOT NULL, pictures INTEGER NOT NULL,
    answered INTEGER NOT NULL, failed INTEGER NOT NULL, bytes INTEGER NOT NULL, started REAL, ended REAL, error TEXT,
    detail TEXT
) STRICT;
PRAGMA user_version = {_VERSION};
"""
_IDENTITY: Final = re.compile("[0-9a-f]{32}")
"""What names the folder of a job."""
_LOCKED_SECONDS: Final = 10.0
"""How long a write waits for those of other processes."""
_ARRIVAL_SECONDS: Final = 3 * 3600.0
"""What takes longer to come is given up: whoever took it in is gone."""


class JobStore:
    """The jobs below one folder."""

    def __init__(self, folder: Path, bounds: Bounds, clock: Callable[[], float]) -> None:
        """Open the folder, or make it: for its owner alone, since pictures of callers lie there.

        Args:
            clock: seconds since the epoch.

        Raises:
            InvalidSettings: it cannot be used.
        """
        self.folder = folder
        self.bounds = bounds
        self._clock = clock
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._writing() as db:
                (version,) = db.execute("PRAGMA user_version").fetchone()
                if version not in (0, _VERSION):
                    raise InvalidSettings(f"jobs_dir: {folder} was written by another release: name another folder.")
                if not version:
                    for statement in filter(str.strip, _SCHEMA.split(";")):
                        db.execute(statement)
        except (OSError, sqlite3.Error) as error:
            raise InvalidSettings(f"jobs_dir: {str(folder)!r} cannot be used: {error}.") from None

    def __repr__(self) -> str:
        return f"<JobStore {self.folder}>"

    def path(self, job: BackgroundJob, name: str) -> Path:
        """Where a file of a job lies."""
        return self.folder / job.id / name

    def admit(self, job: BackgroundJob) -> None:
        """Keep a job whose pictures are about to come, in at most `job.bytes` bytes, and make its folder.

        Raises:
            TooManyJobs: there is no room for another, or not for so many bytes.
        """
        with self._writing() as db:
            count, used = db.execute("SELECT count(*), coalesce(sum(bytes), 0) FROM jobs").fetchone()
            if count >= self.bounds.kept or used + job.bytes > self.bounds.disk_bytes:
                raise TooManyJobs
            marks = ", ".join("?" * len(fields(job)))
            db.execute(f"INSERT INTO jobs ({_COLUMNS}) VALUES ({marks})", astuple(job))  # noqa: S608 - our own names
        try:
            self.path(job, "").mkdir(mode=0o700)
        except OSError:
            self.remove(job)  # else its bytes would be kept for it until it is overdue
            raise

    def arrived(self, job: BackgroundJob, pictures: int, every: bool) -> None:
        """All pictures of a job have come, and perhaps options between them: it may run."""
        size = self.path(job, PICTURES).stat().st_size
        self._change(
            job, model=job.model, version=job.version, options=job.options, state=WAITING, pictures=pictures,
            every=every, bytes=size,
        )  # fmt: skip

    def find(self, identity: str) -> BackgroundJob:
        """The job of this id, once its pictures have come. Raises `JobNotFound`."""
        found = self._select("WHERE id = ? AND state != ?", identity, ARRIVING)
        if not found:
            raise JobNotFound
        return found[0]

    def has(self, job: BackgroundJob) -> bool:
        """Whether a job is there (yet)."""
        return bool(self._select("WHERE id = ?", job.id))

    def all(self) -> list[BackgroundJob]:
        """All jobs whose pictures have come, the newest first."""
        return self._select("WHERE state != ? ORDER BY created DESC", ARRIVING)

    def unended(self) -> list[BackgroundJob]:
        """All jobs that are to be run, or to be run on, the oldest first."""
        return self._select("WHERE state IN (?, ?) ORDER BY created", WAITING, RUNNING)

    def start(self, job: BackgroundJob) -> bool:
        """It runs now; False where it was removed, or has ended since it was looked up."""
        return self._change(job, state=RUNNING, started=job.started or self._clock())

    def progress(self, job: BackgroundJob, answered: int, failed: int) -> bool:
        """It has come so far, and takes so much of the disk; False where it was removed, or has ended."""
        try:
            size = sum(self.path(job, name).stat().st_size for name in (PICTURES, JOURNAL))
        except FileNotFoundError:
            return False
        return self._change(job, answered=answered, failed=failed, bytes=size)

    def end(self, job: BackgroundJob, answered: int, failed: int, error: ServiceError | None) -> None:
        """Nothing more is done for it, unless it has ended already. Its results have been written; what they were made
        from is removed."""
        size = self.path(job, RESULTS).stat().st_size
        code, detail = (None, None) if error is None else (error.code, error.detail)
        state = DONE if error is None else FAILED
        self._change(
            job, state=state, answered=answered, failed=failed, bytes=size, ended=self._clock(), error=code,
            detail=detail,
        )  # fmt: skip
        for name in (PICTURES, JOURNAL):
            self.path(job, name).unlink(missing_ok=True)

    def spoil(self, job: BackgroundJob, error: ServiceError) -> None:
        """Its files are damaged: nothing can be done for it, if it is still there."""
        if not self.has(job):
            return
        self.path(job, RESULTS).parent.mkdir(mode=0o700, exist_ok=True)
        self.path(job, RESULTS).touch()
        self.end(job, job.answered, job.failed, error)

    def remove(self, job: BackgroundJob) -> None:
        """Forget a job and all its files; whoever runs it hears of that by `progress`."""
        with self._writing() as db:
            db.execute("DELETE FROM jobs WHERE id = ?", (job.id,))
        shutil.rmtree(self.path(job, ""), ignore_errors=True)

    def clean(self) -> None:
        """Remove what was kept for long enough, arrivals that came to nothing, and folders of jobs that are gone."""
        now = self._clock()
        overdue = "WHERE ended < ? OR (state = ? AND created < ?)"
        for job in self._select(overdue, now - self.bounds.keep_seconds, ARRIVING, now - _ARRIVAL_SECONDS):
            self.remove(job)
        # Before the jobs, which come first. What else lies here is somebody else's.
        there = [path for path in self.folder.iterdir() if _IDENTITY.fullmatch(path.name) and path.is_dir()]
        known = {job.id for job in self._select("")}
        for path in there:
            if path.name not in known:
                shutil.rmtree(path, ignore_errors=True)

    def _change(self, job: BackgroundJob, **values: object) -> bool:
        """Set some columns of a job; False where it is not there (any more), or has ended: whoever looked it up before
        that takes back nothing."""
        columns = ", ".join(f"{name} = ?" for name in values)
        with self._writing() as db:
            unended = f"UPDATE jobs SET {columns} WHERE id = ? AND ended IS NULL"  # noqa: S608 - our own names
            changed = db.execute(unended, (*values.values(), job.id))
        return changed.rowcount == 1

    def _select(self, where: str, *values: object) -> list[BackgroundJob]:
        with closing(self._connection()) as db:
            rows = db.execute(f"SELECT {_COLUMNS} FROM jobs {where}", values).fetchall()  # noqa: S608
        return [_job(row) for row in rows]

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that nobody else writes beside."""
        with closing(self._connection()) as db:
            db.execute("BEGIN IMMEDIATE")
            with db:
                yield db

    def _connection(self) -> sqlite3.Connection:
        return sqlite3.connect(self.folder / _FILE, timeout=_LOCKED_SECONDS, isolation_level=None)


def _job(row: tuple[Any, ...]) -> BackgroundJob:
    job = dict(zip((field.name for field in fields(BackgroundJob)), row, strict=True))
    return BackgroundJob(**{**job, "every": bool(job["every"])})
