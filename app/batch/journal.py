"""What was answered so far, on disk: one line a picture, appended as it is answered, so that a run that was killed goes
on where it stood. The first line says what the run is; a line that was cut short or is none, and what follows it, is
dropped."""

import fcntl
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import orjson

from app.batch.records import Record, is_final
from app.client import JsonObject
from app.errors import InvalidBatch

_DELAY = 0.25
"""Seconds between two writes: each gives up the interpreter's lock, and waits a tenth of a millisecond for threads that
infer to give it back."""


class JournalHeld(InvalidBatch):
    """Another process writes a journal now."""


class Journal:
    """The journal of one run, locked while it is open."""

    def __init__(self, path: Path, run: JsonObject) -> None:
        """Open the journal of a run, or begin it.

        Raises:
            InvalidBatch: it is of a run that asked something else.
            JournalHeld: another process writes it now.
            OSError: it cannot be written.
        """
        self.path = path
        self.errors: dict[str, str] = {}
        """Codes of the pictures that failed."""
        self._places: dict[str, int] = {}
        self._unwritten: list[bytes] = []
        self._due = 0.0
        self._file = path.open("a+b", buffering=0)
        try:
            self._lock()
            self._begin(run)
        except BaseException:
            self._file.close()
            raise

    @property
    def answered(self) -> int:
        """Pictures that have a result."""
        return len(self._places) - len(self.errors)

    @property
    def size(self) -> int:
        """Bytes of all lines."""
        return self._end

    def waits(self, name: str) -> bool:
        """Whether a picture is still to be answered, or worth another try."""
        return name not in self._places or not is_final(self.errors.get(name, ""))

    def append(self, records: Iterable[Record]) -> None:
        """Keep what became of some pictures; on its way to the disk a quarter of a second later at most, if others
        follow. What a process that is killed had not written yet is answered again."""
        for record in records:
            self._note(record.name, record.error, len(record.line) + 1)
            self._unwritten += [record.line, b"\n"]
        if time.monotonic() > self._due:
            self.flush()

    def flush(self) -> None:
        """Write what was kept."""
        text, self._unwritten = b"".join(self._unwritten), []
        self._due = time.monotonic() + _DELAY
        while text:
            text = text[os.write(self._file.fileno(), text) :]

    def lines(self, names: Iterable[str]) -> Iterator[bytes]:
        """The lines of these pictures, in this order, the last of each; of one that has none, none."""
        self.flush()
        with self.path.open("rb") as reading:
            for name in names:
                if (place := self._places.get(name)) is not None:
                    reading.seek(place)
                    yield reading.readline()

    def close(self) -> None:
        """Write what was kept, and give the lock back; a journal of nothing would only stand in the way of others."""
        if not self._file.closed:
            self.flush()
            if not self._places:
                self.path.unlink(missing_ok=True)
            self._file.close()

    def remove(self) -> None:
        """Nothing is left to be done."""
        self.close()
        self.path.unlink(missing_ok=True)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JournalHeld(f"Another process writes {self.path}: wait for its end, or stop it.") from None

    def _begin(self, run: JsonObject) -> None:
        head = orjson.dumps(run, option=orjson.OPT_SORT_KEYS) + b"\n"
        self._file.seek(0)
        with self.path.open("rb") as reading:
            first = reading.readline()
            if first and not head.startswith(first.removesuffix(b"\n")):
                other = first[:300].decode(errors="replace").strip()
                raise InvalidBatch(
                    f"{self.path} is of a run that asked something else ({other}): finish that one, or remove the file"
                    " to begin anew."
                )
            self._end = len(first) if first == head else 0
            if self._end:
                self._read(reading)
        self._file.truncate(self._end)
        if not self._end:
            self._unwritten.append(head)
            self._end = len(head)
            self.flush()

    def _read(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            try:
                entry = orjson.loads(line) if line.endswith(b"\n") else None
            except orjson.JSONDecodeError:  # a machine that lost its power leaves zeros for what was on its way
                entry = None
            if entry is None:
                return
            self._note(entry["file"], entry["error"]["code"] if "error" in entry else "", len(line))

    def _note(self, name: str, error: str, length: int) -> None:
        self._places[name] = self._end
        self._end += length
        if error:
            self.errors[name] = error
        else:
            self.errors.pop(name, None)
