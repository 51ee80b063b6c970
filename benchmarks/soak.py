"""Whether a service stays as it is: mixed requests, for minutes or days, and what its processes hold at the end.

    python -m benchmarks.soak [--minutes 30] [--workers 2] [--rate 40] [--plant-leak]

Of the requests 85 % are good ones of every kind, 10 % are of the hostile corpus in `tests/hostile`, and 5 % come from
callers who leave before their answer. Once a minute a model is swapped for another version of it. Memory is that of all
processes (PSS), every two seconds; its median over the last tenth may exceed that over the first by 32 MiB, or 3 %.
Descriptors and threads are counted before and after, each time when nobody has asked anything for a while, and must be
as many. With `--plant-leak` the server is `benchmarks.leaky`, and the soak has to find it out.
"""

import argparse
import asyncio
import itertools
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np

from app.imaging.codec import encode_png
from benchmarks.leaky import BACKEND
from benchmarks.machine import proportional
from benchmarks.server import Server, running_server
from benchmarks.swaps import processes, write_versions
from tests.hostile import test_hostile_bodies as bodies
from tests.hostile import test_hostile_messages as messages
from tests.hostile import test_hostile_tensors as tensors
from tests.hostile import test_hostile_words as words
from tests.hostile.files import catalogue

_MEBIBYTE = 2**20
_MOST_GROWTH = 32 * _MEBIBYTE
_MOST_SHARE = 0.03
_SAMPLE_SECONDS = 2.0
_SWAP_SECONDS = 60.0
_QUIET_SECONDS = 8.0
"""Longer than a refused connection is read on, and than an idle one is kept."""
_ANSWER_SECONDS = 30.0
_REST_SECONDS = 2.5
"""Half of what the service lets a connection rest: no request crosses its closing, which would look like a loss."""
_LONGEST_HOSTILE = 300_000
"""Bytes: the few longer ones would be most of the traffic."""
_SWAPPED = "cifar10-classifier"


def request(target: str, body: bytes = b"", *headers: str) -> bytes:
    """A request in bytes."""
    method = "POST" if body else "GET"
    lines = [f"{method} {target} HTTP/1.1", "host: imago", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def good_requests() -> list[bytes]:
    """One of every kind."""
    noise = np.random.default_rng(0)
    small, large = (encode_png(noise.integers(0, 256, (side, side, 3), dtype=np.uint8)) for side in (32, 200))
    head = b'--edge\r\nContent-Disposition: form-data; name="file"; filename="p"\r\n\r\n'
    form = b"".join([head, small, b"\r\n", head, large, b"\r\n--edge--\r\n"])
    return [
        request(f"/classify?model={_SWAPPED}", small),
        request(f"/classify?model={_SWAPPED}&explain=true", large),
        request(f"/classify?model={_SWAPPED}", form, "content-type: multipart/form-data; boundary=edge"),
        request("/segment", large, "accept: image/png"),
        request("/segment?mask=rle", small),
        request("/generate", b'{"count": 2, "seed": 1}'),
        request(f"/v2/models/{_SWAPPED}/infer", small, "inference-header-content-length: 0"),
        request("/models"),
        request("/metrics"),
        request("/readyz"),
    ]


def hostile_requests() -> list[bytes]:
    """The corpus, without what is very long."""
    tables = (messages.ALL, bodies.ALL, words.ALL, tensors.ALL)
    sent = [case[0] for table in tables for case in table.values()]
    sent += [request("/classify", file.data) for file in catalogue()]
    return [one for one in sent if len(one) <= _LONGEST_HOSTILE]


@dataclass
class Seen:
    """What became of the requests, and what the processes held."""

    answers: Counter[int] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    """Good requests that were neither answered with 200 nor refused, and answers to hostile ones that no caller is to
    blame for."""
    refused: int = 0
    """Good requests that came when more waited than could be answered in time (429)."""
    hostile: int = 0
    left: int = 0
    swaps: int = 0
    memory: list[int] = field(default_factory=list)
    before: "Held | None" = None
    after: "Held | None" = None

    @property
    def growth(self) -> tuple[int, int]:
        """Median bytes of the first and of the last tenth."""
        tenth = max(1, len(self.memory) // 10)
        return int(statistics.median(self.memory[:tenth])), int(statistics.median(self.memory[-tenth:]))

    @property
    def leaks(self) -> bool:
        """Whether something grew that should not."""
        first, last = self.growth
        return last - first > max(_MOST_GROWTH, _MOST_SHARE * first) or self.before != self.after


@dataclass(frozen=True)
class Held:
    """What a server's processes have open while nobody asks."""

    processes: int
    descriptors: int
    threads: int

    @classmethod
    def now(cls, pid: int) -> "Held":
        """Count."""
        pids = processes(pid)
        folders = [Path(f"/proc/{one}") for one in pids]
        open_files, threads = (sum(len(list((one / name).iterdir())) for one in folders) for name in ("fd", "task"))
        return cls(len(pids), open_files, threads)


class Load:
    """Requests to one server, as they come (Poisson)."""

    def __init__(self, url: str, rate: float, seen: Seen) -> None:
        self._address = "127.0.0.1", int(url.rpartition(":")[2])
        self._rate = rate
        self._seen = seen
        self._chance = random.Random(0)
        self._good, self._hostile = good_requests(), hostile_requests()
        self._idle: list[tuple[float, asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def run(self, seconds: float) -> None:
        """Send for so long; comes back when all are answered, and no connection is open."""
        due = time.monotonic()
        end = due + seconds
        async with asyncio.TaskGroup() as asking:
            while due < end:
                due += self._chance.expovariate(self._rate)
                await asyncio.sleep(due - time.monotonic())
                asking.create_task(self._one())
        while self._idle:
            self._idle.pop()[2].close()

    async def _one(self) -> None:
        kind = self._chance.random()
        do = self._attack if kind < 0.1 else self._leave if kind < 0.15 else self._ask
        data = self._chance.choice(self._hostile if kind < 0.1 else self._good)
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await do(data)
        except (OSError, EOFError, TimeoutError) as error:
            self._seen.failed.append(f"{data[:60]!r}: {error!r}")

    async def _ask(self, data: bytes) -> None:
        reader, writer = await self._connection()
        writer.write(data)
        status, length = await _head(reader)
        await reader.readexactly(length)
        self._idle.append((time.monotonic(), reader, writer))
        self._seen.answers[status] += 1
        if status == 429:
            self._seen.refused += 1
        elif status != 200:
            self._seen.failed.append(f"{data[:60]!r}: {status}")

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """The one that was used last, or a new one."""
        while self._idle:
            since, reader, writer = self._idle.pop()
            if time.monotonic() - since < _REST_SECONDS and not reader.at_eof():
                return reader, writer
            writer.close()
        return await asyncio.open_connection(*self._address)

    async def _attack(self, data: bytes) -> None:
        self._seen.hostile += 1
        reader, writer = await asyncio.open_connection(*self._address)
        with suppress(ConnectionError, asyncio.IncompleteReadError, TimeoutError):
            writer.write(data)
            async with asyncio.timeout(1.0):  # what is no whole request has no answer
                status, _ = await _head(reader)
                if status >= 500:
                    self._seen.failed.append(f"{data[:60]!r}: {status}")
        writer.close()

    async def _leave(self, data: bytes) -> None:
        self._seen.left += 1
        _, writer = await asyncio.open_connection(*self._address)
        writer.write(data[: self._chance.randrange(len(data)) + 1])
        await asyncio.sleep(self._chance.uniform(0, 0.01))
        writer.transport.abort()


async def _head(reader: asyncio.StreamReader) -> tuple[int, int]:
    """Status of the next answer, and the length of its body."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
    lengths = [int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:")]
    return int(first.split()[1]), lengths[0]


async def soak(server: Server, seconds: float, rate: float) -> Seen:
    """Warm up for a tenth of the time, count, send for the rest of it, and count again."""
    seen, pid = Seen(), server.process.pid
    load = Load(server.url, rate, seen)
    watching: list[asyncio.Task[None]] = []
    try:
        watching.append(asyncio.create_task(_swap(server.url, seen)))
        await load.run(seconds / 10)
        await asyncio.sleep(_QUIET_SECONDS)
        seen.before = Held.now(pid)
        watching.append(asyncio.create_task(_watch(pid, seen)))
        await load.run(seconds * 0.9)
    finally:
        for task in watching:
            task.cancel()
    await asyncio.sleep(_QUIET_SECONDS)
    seen.after = Held.now(pid)
    return seen


async def _watch(pid: int, seen: Seen) -> None:
    while True:
        seen.memory.append(proportional(processes(pid)))
        await asyncio.sleep(_SAMPLE_SECONDS)


async def _swap(url: str, seen: Seen) -> None:
    """Let the two versions of a model take turns: once at first, so that every kind of work is part of the warm-up."""
    async with httpx.AsyncClient(base_url=url, timeout=120) as admin:
        for version in itertools.cycle((1, 2)):
            policy = json.dumps({"version_policy": {"specific": {"versions": [version]}}})
            asked = {"parameters": {"config": policy}}
            (await admin.post(f"/v2/repository/models/{_SWAPPED}/load", json=asked)).raise_for_status()
            seen.swaps += 1
            await asyncio.sleep(_SWAP_SECONDS)


def write_models(source: Path, root: Path, leak: bool) -> None:
    """Copy all models, that which is swapped in two versions; with a leak that one leaks."""
    for folder in source.iterdir():
        if folder.is_dir() and folder.name != _SWAPPED:
            shutil.copytree(folder, root / folder.name)
    write_versions(source / _SWAPPED, root, f'backend = "{BACKEND}"\n' if leak else "")


def report(seen: Seen) -> str:
    """What came out, in words."""
    first, last = (bytes_ / _MEBIBYTE for bytes_ in seen.growth)
    held = "\n".join(f"  {name}: {held}" for name, held in (("before", seen.before), ("after", seen.after)))
    return (
        f"{sum(seen.answers.values())} good requests ({seen.refused} refused as too many), {seen.hostile} hostile ones,"
        f" {seen.left} callers who left,"
        f" {seen.swaps} swaps; {len(seen.failed)} failed\n"
        f"  memory {first:.0f} MiB in the first tenth, {last:.0f} MiB in the last: {last - first:+.1f} MiB,"
        f" {last / first - 1:+.1%}; most {max(seen.memory) / _MEBIBYTE:.0f} MiB\n{held}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak and print; 1 where a request failed or something grew, or where a planted leak was not found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="(default: %(default)s)")
    parser.add_argument("--workers", default="2", help="(default: %(default)s)")
    parser.add_argument("--rate", type=float, default=40.0, help="requests a second (default: %(default)s)")
    parser.add_argument("--models", type=Path, default=Path("models"), help="(default: %(default)s)")
    parser.add_argument("--plant-leak", action="store_true", help="soak a server that leaks: 0 where that is found out")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        root, cache = Path(folder) / "models", str(Path(folder) / "cache")
        write_models(chosen.models, root, chosen.plant_leak)
        flags = ["--workers", chosen.workers, "--model-control", "--cache", cache, "--log-level", "error"]
        flags += ["--keep-alive-seconds", "2", "--trial-seconds", "0"]  # a trial knows no backend of ours
        module = "benchmarks.leaky" if chosen.plant_leak else "app"
        with running_server(root, *flags, module=module) as server:
            seen = asyncio.run(soak(server, chosen.minutes * 60, chosen.rate))
    print(report(seen))
    for what in seen.failed[:10]:
        print(f"  {what}")
    if chosen.plant_leak:
        print("the leak was found out" if seen.leaks else "the leak was NOT found out")
        return 0 if seen.leaks else 1
    print("something grew" if seen.leaks else "nothing grew")
    return 1 if seen.leaks or seen.failed else 0


if __name__ == "__main__":
    sys.exit(main())
