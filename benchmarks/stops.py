"""Stops a server again and again under load, and counts what became of every request.

    python -m benchmarks.stops [--stops 50] [--workers 1,2] [--rate 200] [--drain-delay 0]

Requests come when they come (Poisson), half of them on connections that are kept and half on new ones, until the
process has ended. A request is `answered` whatever the status, `refused` where its connection was not made, and `lost`
where it was sent on an open connection and no answer came: nobody can tell whether it was done.
"""

import argparse
import asyncio
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.server import Server, running_server

_REQUEST = b"POST %b HTTP/1.1\r\nhost: imago\r\ncontent-length: %d\r\n%b\r\n%b"
_CLOSE = b"connection: close\r\n"
_WAIT = 30.0


@dataclass
class Stop:
    """What one stop did to the requests around it."""

    statuses: Counter[int] = field(default_factory=Counter)
    refused: int = 0
    lost: list[float] = field(default_factory=list)
    """When they were sent, in seconds after the signal."""
    seconds: float = 0.0
    """From the signal to the end of the process."""
    status: int = -1
    """Exit status of the process."""

    @property
    def clean(self) -> bool:
        """Whether every request that was sent was answered with 200, and the process ended well."""
        return not self.lost and set(self.statuses) <= {200} and self.status == 0


class Load:
    """Requests to one address, and what became of them."""

    def __init__(self, port: int, path: str, body: bytes, rate: float) -> None:
        self.stop = Stop()
        self.signalled = float("inf")
        self._port = port
        self._kept, self._once = (_REQUEST % (path.encode(), len(body), header, body) for header in (b"", _CLOSE))
        self._rate = rate
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def run(self, ended: asyncio.Event) -> None:
        """Send until the server has ended, then wait for what was sent."""
        chance = random.Random(0)
        due = time.monotonic()
        async with asyncio.TaskGroup() as asking:
            while not ended.is_set():
                due += chance.expovariate(self._rate)
                await asyncio.sleep(due - time.monotonic())
                asking.create_task(self._ask(kept=chance.random() < 0.5))
        for _, writer in self._idle:
            writer.close()

    async def _ask(self, kept: bool) -> None:
        try:
            reader, writer = await self._connection(kept)
        except OSError:
            self.stop.refused += 1
            return
        sent = time.monotonic()
        try:
            writer.write(self._kept if kept else self._once)
            status, last = await asyncio.wait_for(_answer(reader), _WAIT)
        except (OSError, EOFError, TimeoutError):
            self.stop.lost.append(sent - self.signalled)
            writer.close()
            return
        self.stop.statuses[status] += 1
        if last or not kept:
            writer.close()
        else:
            self._idle.append((reader, writer))

    async def _connection(self, kept: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while kept and self._idle:
            reader, writer = self._idle.pop()
            if not (reader.at_eof() or writer.is_closing()):
                return reader, writer
            writer.close()
        return await asyncio.open_connection("127.0.0.1", self._port)


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bool]:
    """Status of the next answer, and whether the server closes the connection after it."""
    lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
    (length,) = (int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:"))
    await reader.readexactly(length)
    return int(lines[0].split()[1]), b"connection: close" in lines


async def stop_under_load(
    server: Server, path: str, body: bytes, rate: float, after: float, asked: signal.Signals = signal.SIGTERM
) -> Stop:
    """Put load on a running server, stop it `after` so many seconds, and count."""
    load = Load(int(server.url.rpartition(":")[2]), path, body, rate)
    ended = asyncio.Event()
    loading = asyncio.create_task(load.run(ended))
    await asyncio.sleep(after)
    server.process.send_signal(asked)
    load.signalled = time.monotonic()
    load.stop.status = await asyncio.to_thread(server.process.wait, 120)
    load.stop.seconds = time.monotonic() - load.signalled
    ended.set()
    await loading
    return load.stop


def main(arguments: Sequence[str]) -> int:
    """Stop, count, print; 1 where a request was lost."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stops", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--stops", type=int, default=50, help="of each number of workers")
    parser.add_argument("--workers", default="1,2", help="numbers of workers, separated by commas")
    parser.add_argument("--rate", type=float, default=200.0, help="requests a second")
    parser.add_argument("--drain-delay", type=float, default=0.0, help="IMAGO_DRAIN_DELAY_SECONDS")
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--path", default="/classify")
    parser.add_argument("--picture", type=Path, default=Path("models/cifar10-generator/2/samples.png"))
    chosen = parser.parse_args(arguments)
    clean = True
    for workers in chosen.workers.split(","):
        stops = [_one(chosen, workers, number) for number in range(chosen.stops)]
        clean &= all(stop.clean for stop in stops)
        print(_line(workers, stops))
    return 0 if clean else 1


def _one(chosen: argparse.Namespace, workers: str, number: int) -> Stop:
    after = random.Random(number).uniform(0.3, 1.0)
    flags = ("--workers", workers, "--drain-delay-seconds", str(chosen.drain_delay), "--log-level", "error")
    with running_server(chosen.models, *flags) as server:
        body = chosen.picture.read_bytes()
        stop = asyncio.run(stop_under_load(server, chosen.path, body, chosen.rate, after))
    if not stop.clean:
        print(f"stop {number}: lost {[round(sent, 4) for sent in stop.lost]}, {dict(stop.statuses)}, {stop.status}")
    return stop


def _line(workers: str, stops: Sequence[Stop]) -> str:
    statuses: Counter[int] = sum((stop.statuses for stop in stops), Counter())
    seconds = sorted(stop.seconds for stop in stops)
    return (
        f"{len(stops)} stops, {workers} workers: answered {dict(statuses)}, refused {sum(s.refused for s in stops)}, "
        f"lost {sum(len(s.lost) for s in stops)}; exit statuses {dict(Counter(s.status for s in stops))}; "
        f"ended after {seconds[len(seconds) // 2]:.2f} s (median), {seconds[-1]:.2f} s (most)"
    )


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(main(sys.argv[1:]))
