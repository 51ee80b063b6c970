"""How long a service takes to refuse a picture that would be too much, and what memory that costs.

    python -m benchmarks.bombs [--times 20] [--workers 1]

Files of a few bytes that announce billions of pixels, in every format; texts that inflate; scans and segments without
end: those of `tests/hostile`. Each is sent several times. Time is from the first byte sent to the last one of the
answer, memory the most that was resident in all processes above what was so before. Prints a Markdown table; 1 where
one took longer than 50 ms or more than 16 MiB, or was not refused.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from app.settings import FORMATS
from benchmarks.report import table
from benchmarks.server import running_server
from tests.api.connection import request
from tests.hostile.asking import MEBIBYTE, Watched, ask, good_request
from tests.hostile.damaged import DAMAGED, ROW
from tests.hostile.files import BOMBS, TEXTS
from tests.imaging.pictures import png

_MOST_SECONDS = 0.05
_MOST_BYTES = 16 * MEBIBYTE
_COLUMNS = ("file", "bytes", "answer", "median, ms", "most, ms", "memory, MiB")


def files() -> Iterator[tuple[str, bytes]]:
    """What is sent, by name."""
    yield from BOMBS.items()
    for what, extra in TEXTS.items():
        if "inflates" in what or what == "many":
            yield f"png with texts, {what}", png(4, 1, rows=ROW, extra=extra)
    for what, data in DAMAGED["jpeg"].items():
        if what.startswith("endless"):
            yield f"jpeg of {what}", data


def measure(watched: Watched, data: bytes, times: int) -> tuple[str, list[float], int]:
    """The answer, seconds of each time in order, and bytes."""
    seconds, most, told = [], 0, "nothing"
    for _ in range(times):
        watched.watch_memory()
        before = watched.memory()
        begun = time.perf_counter()
        reply = ask(watched.url, request(data))
        seconds.append(time.perf_counter() - begun)
        most = max(most, watched.peak() - before)
        told = told if reply is None else reply.told
    return told, sorted(seconds), most


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20, help="(default: %(default)s)")
    parser.add_argument("--workers", default="1", help="(default: %(default)s)")
    parser.add_argument("--models", type=Path, default=Path("models"), help="(default: %(default)s)")
    chosen = parser.parse_args()
    rows, bad = [], 0
    flags = ("--formats", ",".join(FORMATS), "--workers", chosen.workers, "--log-level", "error")
    with running_server(chosen.models, *flags) as server:
        watched = Watched(server, good_request())
        for what, data in files():
            told, seconds, most = measure(watched, data, chosen.times)
            bad += seconds[-1] > _MOST_SECONDS or most > _MOST_BYTES or not told.startswith("4")
            milliseconds = [f"{1000 * one:.1f}" for one in (seconds[len(seconds) // 2], seconds[-1])]
            rows.append([what, str(len(data)), told, *milliseconds, f"{most / MEBIBYTE:.1f}"])
        watched.check_unharmed()
    print(table(_COLUMNS, rows))
    return min(bad, 1)


if __name__ == "__main__":
    sys.exit(main())
