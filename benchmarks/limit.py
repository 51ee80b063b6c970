"""The most that this machine could answer: decoding, inference and encoding in one process a core, without HTTP.

    python -m benchmarks.limit [--workloads tiny,cifar]

Each process works on batches as fast as it can, with one ONNX Runtime thread and nobody to wait for. Two ways are
tried, that of the peers (float arrays, normalised by numpy) and that of imago (bytes, normalised in the graph), each
in several batch sizes; the quickest counts. Its rate is measured again before and after every server, because a
shared machine is up to twice as fast in one minute as in another.
"""

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import cycle, islice, product
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import orjson

from app.imaging.codec import Decoder
from app.manifest import GRAPH, read_labels, read_manifest, read_verified
from app.runtime.ort import OrtSession
from app.tasks import Graph, build_task
from app.tensors import split, stack
from benchmarks.answers import Answer, read_imago, read_peer
from benchmarks.machine import CORES
from benchmarks.peers.shared import NETWORKS, Classifier
from benchmarks.work import Work
from benchmarks.workloads import WORKLOADS, Workload

Answerer = Callable[[int], list[bytes]]
"""Answers so many requests as one batch."""

_WARM_UP = 2
_START_SECONDS = 120.0


@dataclass(frozen=True)
class Way:
    """One way to answer a workload without HTTP."""

    code: str
    """`imago` or `peers`: whose lines prepare and answer."""
    batch: int
    draft: bool = False
    """Whether libjpeg decodes at a smaller scale; imago's code always lets it."""

    def __str__(self) -> str:
        return f"{self.code}{', draft' if self.draft else ''}, batches of {self.batch}"


def ways(workload: Workload) -> list[Way]:
    """All ways worth trying."""
    found = [Way("imago", batch) for batch in workload.batches]
    if workload.network is not None:
        drafts = (False, True) if workload.name == "12mp" else (False,)
        found += [Way("peers", batch, draft) for draft, batch in product(drafts, workload.batches)]
    return found


def measure(work: Work, workload: Workload, tried: Sequence[Way], seconds: float) -> list[float]:
    """Answers a second of each way, all processes together; each way is given so many seconds.

    Raises:
        RuntimeError: a process failed.
    """
    return in_all_processes(_rates, work, workload, tuple(tried), seconds)


def in_all_processes(rates: Callable[..., list[float]], *arguments: Any) -> list[float]:
    """The sums of the rates that a function finds in a process for each core; see `rate`."""
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(CORES)
    with ProcessPoolExecutor(CORES, mp_context=context, initializer=_join, initargs=(together,)) as pool:
        tasks = [pool.submit(rates, *arguments) for _ in range(CORES)]
        found = [task.result() for task in tasks]
    return [sum(each) for each in zip(*found, strict=True)]


def quickest(work: Work, workload: Workload, seconds: float) -> Way:
    """The way with the highest rate; each is tried twice, in turn, so that no slow moment hits one alone."""
    tried = ways(workload) * 2
    rates = measure(work, workload, tried, seconds)
    return max(zip(rates, tried, strict=True), key=lambda pair: pair[0])[1]


def right_answers(work: Work, workload: Workload) -> list[Answer]:
    """What a server may answer; a JPEG may be decoded at full scale or at a smaller one."""
    if workload.accept == "image/png":
        return [_answerer(work, workload, Way("imago", 1))(1)[0]]
    plain = (_answerer(work, workload, Way("peers", 1, draft)) for draft in (False, True))
    own = _answerer(work, workload, Way("imago", 1))
    return [*(read_peer(answer(1)[0]) for answer in plain), read_imago(own(1)[0])]


_barriers: list[Barrier] = []


def _join(together: Barrier) -> None:
    """In a new process: keep the barrier, which cannot travel with a task."""
    _barriers.append(together)


def _rates(work: Work, workload: Workload, tried: Sequence[Way], seconds: float) -> list[float]:
    """In each process: the rates of all ways, each begun together with the others."""
    return [rate(_answerer(work, workload, way), way.batch, seconds) for way in tried]


def rate(answer: Answerer, batch: int, seconds: float) -> float:
    """Answers a second of this process, begun together with the others."""
    for _ in range(_WARM_UP):
        answer(batch)
    _barriers[0].wait(_START_SECONDS)
    begun, done = time.perf_counter(), 0
    while (spent := time.perf_counter() - begun) < seconds:
        answer(batch)
        done += batch
    return done / spent


def _answerer(work: Work, workload: Workload, way: Way) -> Answerer:
    picture = work.picture(workload)
    if way.code == "imago":
        options, drawn = workload.options or {}, workload.accept == "image/png"
        return imago_answerer(work.version(workload), [picture], options, drawn)
    assert workload.network is not None
    assert picture is not None
    return _peers(work.network(workload.network), workload.network, picture, way.draft)


def _peers(file: Path, network: str, picture: bytes, draft: bool) -> Answerer:
    classifier = Classifier(NETWORKS[network], file, threads=1, draft=draft)

    def answer(batch: int) -> list[bytes]:
        return [json.dumps(row).encode() for row in classifier.answers([picture] * batch)]

    return answer


def imago_answerer(
    folder: Path, pictures: Sequence[bytes | None], given: Mapping[str, Any], as_picture: bool = False
) -> Answerer:
    """The lines that serve a request, between its body and its answer, for one picture after the other."""
    following = cycle(pictures)
    manifest = read_manifest(folder)
    session = OrtSession(read_verified(folder, manifest, GRAPH), threads=1)
    task = build_task(manifest, read_labels(folder, manifest), Graph(session.inputs, session.outputs))
    options, decoder = task.settle(task.Options.model_validate(given)), Decoder()

    def answer(batch: int) -> list[bytes]:
        sources = islice(following, batch)
        prepared = [task.prepare(None if source is None else decoder.open(source), options) for source in sources]
        outputs = session.run(stack([one.tensors for one in prepared]))
        rows = zip(split(outputs, [1] * batch), prepared, strict=True)
        if as_picture:
            return [task.draw(part, one, options) for part, one in rows]
        return [orjson.dumps({"results": task.interpret(part, one, options)}) for part, one in rows]

    return answer


def main() -> None:
    """Print every way of the chosen workloads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help="some of: %(default)s")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each way (default: %(default)s)")
    chosen = parser.parse_args()
    work = Work()
    work.prepare()
    for name in chosen.workloads.split(","):
        tried = ways(WORKLOADS[name])
        for way, rate in zip(tried, measure(work, WORKLOADS[name], tried, chosen.seconds), strict=True):
            print(f"{name:10} {way!s:30} {rate:10.1f} answers/s")


if __name__ == "__main__":
    main()
