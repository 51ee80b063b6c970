"""Numbers that several processes share: an anonymous memory map, cut into one segment for each of them.

Owns where numbers lie and how they are found again; what they mean is left to `app.telemetry.families`. The map exists
in memory only and is inherited by forking, so it has to be made before. A process killed at any moment leaves a segment
that its successor continues.
"""

import json
import logging
import mmap
import threading
from collections.abc import Mapping
from typing import Final, TypeAlias
from zlib import crc32

logger = logging.getLogger("imago.telemetry")

Labels: TypeAlias = tuple[str, ...]
Cells: TypeAlias = "memoryview[float]"

_WORD: Final = 8
_BYTES_EACH: Final = 4 * 2**20
"""Room for the series of about 1,800 models. Pages that nobody writes to cost nothing."""


class Board:
    """One segment for each process of the service, in the order of their slots."""

    def __init__(self, processes: int = 1, bytes_each: int = _BYTES_EACH) -> None:
        memory = memoryview(mmap.mmap(-1, processes * bytes_each))  # zeros, shared with every process forked from here
        self.segments = tuple(
            Segment(memory[start : start + bytes_each]) for start in range(0, len(memory), bytes_each)
        )


class Segment:
    """A log of series that one process appends to, and every process may read. Its length is a multiple of 8 bytes.

    An entry is made of 8-byte words: the key's length in bytes (upper half) and the number of cells (lower half); the
    CRC-32 of the key; the key, a JSON array of the name and the label values, padded with zeros; the cells, which are
    doubles. The first word is written last, at once, and is 0 where the log ends.

    Within the process, threads may share it: a lock guards the log, and CPython with its global lock never changes
    threads inside `cells[i] += x`. Fork from a thread that is not inside a call of this class.
    """

    def __init__(self, memory: "memoryview[int]") -> None:
        self._memory = memory
        self._words = memory.cast("Q")
        self._doubles = memory.cast("d")
        self._found: dict[str, dict[Labels, Cells]] = {}
        self._end = 0  # in words
        self._full = False
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        series = sum(map(len, self._found.values()))
        return f"<Segment: {series} series, {self._end * _WORD} of {len(self._memory)} bytes>"

    def series(self, name: str) -> Mapping[Labels, Cells]:
        """The series of this name that exist by now, whichever process made them; the cells are the shared ones."""
        with self._lock:
            self._read_on()
            return dict(self._found.get(name, {}))

    def cells(self, name: str, labels: Labels, count: int) -> Cells:
        """The cells of one series, made of zeros if there is none yet. For the process of this segment only.

        A full segment gives cells that no other process sees, and logs that once.
        """
        with self._lock:
            self._read_on()  # a predecessor in this slot may have made it
            found = self._found.get(name, {}).get(labels)
            return self._append(name, labels, count) if found is None else found

    def _append(self, name: str, labels: Labels, count: int) -> Cells:
        key = json.dumps([name, *labels]).encode()
        at, body = self._end, (self._end + 2) * _WORD
        size = (_words(len(key)) + count) * _WORD
        if body + size + _WORD > len(self._memory):
            self._report_full(name, labels)
            return memoryview(bytearray(count * _WORD)).cast("d")
        # With the zero that ends the log: a process killed right here may have left part of a longer key.
        self._memory[body : body + size + _WORD] = key.ljust(size + _WORD, b"\0")
        self._words[at + 1] = crc32(key)
        self._words[at] = len(key) << 32 | count
        self._read_on()
        return self._found[name][labels]

    def _read_on(self) -> None:
        """Note the entries that were appended since the last time."""
        while word := self._words[self._end]:
            length, count = word >> 32, word & 0xFFFFFFFF
            start = (self._end + 2) * _WORD
            key = bytes(self._memory[start : start + length])
            if crc32(key) != self._words[self._end + 1]:
                return  # a processor may show another's writes in any order (ARM does): all of it is here next time
            name, *labels = json.loads(key)
            first = self._end + 2 + _words(length)
            self._found.setdefault(name, {})[tuple(labels)] = self._doubles[first : first + count]
            self._end = first + count

    def _report_full(self, name: str, labels: Labels) -> None:
        if not self._full:
            logger.error("no room for the metric %s%r: it and further new series are left out", name, labels)
        self._full = True


def _words(size: int) -> int:
    return -(-size // _WORD)
