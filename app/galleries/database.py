"""The SQLite file of all galleries: connections, transactions, and that nothing deleted is left in it."""

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from app.errors import InvalidSettings, Overloaded

_FORM: Final = 1
"""Of the tables below (`PRAGMA user_version`)."""
_PATIENCE: Final = 10.0
"""Seconds to wait for another process that writes."""
_TABLES: Final = """
CREATE TABLE galleries (
    number INTEGER PRIMARY KEY AUTOINCREMENT, owner TEXT NOT NULL, name TEXT, model TEXT NOT NULL,
    version INTEGER NOT NULL, digest TEXT NOT NULL, dimensions INTEGER NOT NULL DEFAULT 0, threshold REAL,
    entries INTEGER NOT NULL DEFAULT 0, vectors INTEGER NOT NULL DEFAULT 0, created REAL NOT NULL,
    revision INTEGER NOT NULL DEFAULT 0, epoch INTEGER NOT NULL DEFAULT 0, indexed INTEGER NOT NULL DEFAULT 0,
    recent INTEGER NOT NULL DEFAULT 0, forgotten INTEGER NOT NULL DEFAULT 0, UNIQUE (owner, name)
);
CREATE TABLE entries (
    number INTEGER PRIMARY KEY AUTOINCREMENT, gallery INTEGER NOT NULL, id TEXT NOT NULL, vectors INTEGER NOT NULL,
    metadata TEXT NOT NULL, created REAL NOT NULL, changed REAL NOT NULL, UNIQUE (gallery, id)
);
CREATE TABLE vectors (
    key INTEGER PRIMARY KEY AUTOINCREMENT, gallery INTEGER NOT NULL, entry INTEGER NOT NULL, vector BLOB NOT NULL
);
CREATE INDEX vectors_of_gallery ON vectors (gallery, key);
CREATE INDEX vectors_of_entry ON vectors (entry);
CREATE TABLE removals (
    place INTEGER PRIMARY KEY AUTOINCREMENT, gallery INTEGER NOT NULL, key INTEGER NOT NULL, pending INTEGER NOT NULL
);
CREATE INDEX removals_of_gallery ON removals (gallery, place);
CREATE INDEX pending_removals ON removals (pending) WHERE pending;
"""
"""Numbers and keys are never used twice (AUTOINCREMENT), and rise in the order in which rows were committed, so that
whoever knows all up to one finds the others behind it. A gallery without a name is being deleted."""


class Database:
    """Connections to one file, one for each thread."""

    def __init__(self, path: Path) -> None:
        """Make the file, or look whether it is one of these.

        Raises:
            InvalidSettings: it cannot be used.
        """
        self._path = path
        self._local = threading.local()
        self._opened: list[sqlite3.Connection] = []
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # SQLite gives its other files the same mode
            with lock(path.parent, wait=True):
                self._prepare()
        except (OSError, sqlite3.Error) as error:
            raise InvalidSettings(f"galleries: {path} cannot be used ({error}).") from None

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """One moment of the tables, whatever others write meanwhile."""
        connection = self._connection()
        connection.execute("BEGIN")
        try:
            yield connection
        finally:
            connection.execute("ROLLBACK")

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, after and before all others that write; on disk when it ends.

        Raises:
            Overloaded: somebody else writes for too long.
        """
        connection = self._connection()
        _begin(connection)
        try:
            yield connection
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

    def clear_log(self) -> bool:
        """Bring the write-ahead log into the file and empty it, so that no copy of what was overwritten is left in it;
        false where somebody reads what it holds for too long."""
        (busy, _, _) = self._connection().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not busy

    def close(self) -> None:
        """Close the connections of all threads, which must be done with them."""
        while self._opened:
            self._opened.pop().close()

    def _connection(self) -> sqlite3.Connection:
        found: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if found is None:
            found = self._local.connection = self._open()
        return found

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
        self._opened.append(connection)
        # What is deleted is overwritten with zeros; sorting goes to no file.
        for pragma in ("secure_delete = ON", "temp_store = MEMORY", "synchronous = FULL"):
            connection.execute(f"PRAGMA {pragma}")
        return connection

    def _prepare(self) -> None:
        connection = self._connection()
        connection.execute("PRAGMA journal_mode = WAL")
        with self.writing():
            (form,) = connection.execute("PRAGMA user_version").fetchone()
            if form == 0:
                for statement in filter(str.strip, _TABLES.split(";")):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {_FORM}")
            elif form != _FORM:
                raise InvalidSettings(f"galleries: {self._path} has the form {form}; this release knows {_FORM}.")


@contextmanager
def lock(folder: Path, wait: bool) -> Iterator[bool]:
    """Whether no other thread or process has the folder's lock until the end of this. It ends with its process."""
    import fcntl  # here and not above: serving asks for nothing of Unix

    handle = os.open(folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        got = True
    except BlockingIOError:
        got = False
    try:
        yield got
    finally:
        os.close(handle)


def _begin(connection: sqlite3.Connection) -> None:
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
            raise
        raise Overloaded(retry_after=1.0) from None
