"""Swaps under load: two versions of a model take turns while requests come at a constant rate.

    python -m benchmarks.swaps [--swaps 100] [--rate 50] [--model models/cifar10-classifier]

The labels of each version end with its number, so that an answer says by itself which version made it: it has to agree
with the answer's `version` and its header `X-Model-Version`. Requests are small pictures (the fast path), large ones
(decoded in a thread), and two pictures in one body, in turn. Memory is that of all processes of the server (PSS),
before the first swap and after the last, each time under the same load.
"""

import argparse
import asyncio
import base64
import itertools
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np

from app.imaging.codec import encode_png
from app.manifest import LABELS, digest_files, read_manifest, write_manifest
from app.repository.registry import usable
from app.repository.store import scan
from benchmarks.machine import proportional
from benchmarks.server import Server, running_server

_CASES = (("1", ""), ("2", ""), ("2", "concurrency = 1\n"))
"""Workers, and `serving.toml`: whoever chooses how many batches run at once has chosen the engine."""
_SETTLING_SECONDS = 5.0
"""Of load, before memory is read."""


@dataclass
class Seen:
    """What became of the requests and the swaps."""

    requests: int = 0
    failed: list[str] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)
    """Answers whose labels, body and header do not name one version."""
    versions: Counter[int] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    swap_seconds: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)

    def note(self, answer: httpx.Response, seconds: float) -> None:
        """Count one answer."""
        self.latencies.append(seconds)
        if answer.status_code != 200:
            self.failed.append(f"{answer.status_code} {answer.text[:200]}")
            return
        found = answer.json()
        said = {label["label"].rpartition("@")[2] for result in found["results"] for label in result["labels"]}
        if said != {str(found["version"])} or said != {answer.headers["x-model-version"]}:
            self.mixed.append(f"{said}, {found['version']}, {answer.headers['x-model-version']}")
        self.versions[found["version"]] += 1


@dataclass(frozen=True)
class Body:
    """What is posted."""

    content: bytes
    headers: dict[str, str]


def bodies() -> list[Body]:
    """A small picture, a large one, and two in one body."""
    noise = np.random.default_rng(0)
    small, large = (
        encode_png(noise.integers(0, 256, (side, side, 3), dtype=np.uint8)) for side in (32, 300)
    )  # fmt: skip
    both = json.dumps({"images": [base64.b64encode(picture).decode() for picture in (small, large)]})
    octets, text = {"Content-Type": "application/octet-stream"}, {"Content-Type": "application/json"}
    return [Body(small, octets), Body(large, octets), Body(both.encode(), text)]


class Load:
    """Requests at a constant rate from `begin` to `end`, whether or not others were answered."""

    def __init__(self, url: str, name: str, rate: float) -> None:
        self.seen = Seen()
        self._client = httpx.AsyncClient(base_url=url, timeout=30)
        self._path = f"/classify?model={name}&top_k=3"
        self._rate = rate
        self._over = asyncio.Event()

    async def run(self) -> None:
        """Send until told to end; comes back when all are answered."""
        begun, asked = time.monotonic(), []
        for number, body in enumerate(itertools.cycle(bodies())):
            delay = begun + number / self._rate - time.monotonic()
            try:
                await asyncio.wait_for(self._over.wait(), max(0.0, delay))
                break
            except TimeoutError:
                asked.append(asyncio.create_task(self._ask(body)))
        await asyncio.gather(*asked)
        await self._client.aclose()

    def end(self) -> None:
        """Send no more."""
        self._over.set()

    async def _ask(self, body: Body) -> None:
        self.seen.requests += 1
        begun = time.monotonic()
        try:
            answer = await self._client.post(self._path, content=body.content, headers=body.headers)
        except httpx.HTTPError as error:
            self.seen.failed.append(repr(error))
        else:
            self.seen.note(answer, time.monotonic() - begun)


async def swap_under_load(
    server: Server, name: str, swaps: int, rate: float, settling: float = _SETTLING_SECONDS
) -> Seen:
    """Let versions 1 and 2 take turns, so many times, while requests come."""
    load = Load(server.url, name, rate)
    sending = asyncio.create_task(load.run())
    async with httpx.AsyncClient(base_url=server.url, timeout=120) as admin:
        await asyncio.sleep(settling)
        load.seen.memory.append(proportional(processes(server.process.pid)))
        for version in itertools.islice(itertools.cycle((1, 2)), swaps):
            begun = time.monotonic()
            policy = json.dumps({"version_policy": {"specific": {"versions": [version]}}})
            answer = await admin.post(f"/v2/repository/models/{name}/load", json={"parameters": {"config": policy}})
            answer.raise_for_status()
            load.seen.swap_seconds.append(time.monotonic() - begun)
        await asyncio.sleep(settling)
        load.seen.memory.append(proportional(processes(server.process.pid)))
    load.end()
    await sending
    return load.seen


def processes(pid: int) -> list[int]:
    """A process and all below it."""
    below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(found for child in below for found in processes(int(child)))]


def write_versions(model: Path, root: Path, serving: str) -> str:
    """Copy a model's newest version twice, as versions 1 and 2, with labels that end with their number; returns the
    model's name."""
    found = usable(scan(model.parent).get(model.name))
    source = found.version_path(found.versions[-1])
    manifest = read_manifest(source)
    for version in (1, 2):
        folder = root / manifest.name / str(version)
        shutil.copytree(source, folder)
        labels = (folder / LABELS).read_text(encoding="utf-8").splitlines()
        (folder / LABELS).write_text("".join(f"{label}@{version}\n" for label in labels), encoding="utf-8")
        write_manifest(folder, manifest.model_copy(update={"version": version, "files": digest_files(folder)}))
    (root / manifest.name / "serving.toml").write_text(serving)
    return manifest.name


def report(title: str, seen: Seen) -> Iterator[str]:
    """What came out, in words."""
    latency, swap = (
        np.percentile(np.array(times) * 1000, (50, 99, 100)) for times in (seen.latencies, seen.swap_seconds)
    )
    before, after = (memory / 2**20 for memory in seen.memory)
    share = ", ".join(f"{count} by version {version}" for version, count in sorted(seen.versions.items()))
    yield f"{title}: {len(seen.swap_seconds)} swaps, p50 {swap[0]:.0f} ms, longest {swap[2]:.0f} ms"
    yield f"  {seen.requests} requests, {len(seen.failed)} failed, {len(seen.mixed)} of mixed versions; {share}"
    yield f"  latency p50 {latency[0]:.1f} ms, p99 {latency[1]:.1f} ms"
    yield f"  memory {before:.0f} MiB before, {after:.0f} MiB after: {after / before - 1:+.1%}"
    yield from (f"  {what}" for what in (*seen.failed[:5], *seen.mixed[:5]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every case; 1 where a request failed or an answer was mixed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swaps", type=int, default=100, help="(default: %(default)s)")
    parser.add_argument("--rate", type=float, default=50, help="requests a second (default: %(default)s)")
    parser.add_argument("--model", type=Path, default=Path("models/cifar10-classifier"), help="(default: %(default)s)")
    chosen = parser.parse_args(arguments)
    bad = 0
    for workers, serving in _CASES:
        with tempfile.TemporaryDirectory() as folder:
            root, cache = Path(folder) / "models", str(Path(folder) / "cache")
            name = write_versions(chosen.model, root, serving)
            flags = ("--workers", workers, "--model-control", "--cache", cache, "--log-level", "warning")
            with running_server(root, *flags) as server:
                inline = httpx.get(f"{server.url}/models/{name}").json()["in_each_process"]
                seen = asyncio.run(swap_under_load(server, name, chosen.swaps, chosen.rate))
        where = "on the event loop" if inline else "in threads" if workers == "1" else "in the engine"
        print("\n".join(report(f"--workers {workers}, the model {where}", seen)), flush=True)
        bad += len(seen.failed) + len(seen.mixed)
    return min(bad, 1)


if __name__ == "__main__":
    sys.exit(main())
