"""Which index galleries use, and what it costs: build time, memory, recall and rate of several libraries, and galleries
themselves.

    python -m benchmarks.galleries [--vectors 100000] [--dimensions 256] [--threads 2] [--only faiss galleries]

Vectors are made like embeddings: a thousand kinds of things in 32 directions of variation, bent into the sphere. Each
index is made and asked in a process of its own; questions come one by one, as requests do, on one thread. Libraries
that are not installed are left out: faiss-cpu (which galleries use), usearch, hnswlib.
"""

import argparse
import importlib
import importlib.util
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from app.galleries import catalogue
from app.galleries.galleries import Galleries
from app.galleries.index import Index, build
from app.galleries.records import Match, Source, Who, as_stored

T = TypeVar("T")
Floats = NDArray[np.float32]
Keys = NDArray[np.int64]
Ask = Callable[[Floats], Keys]

BEST = 10
QUESTIONS = 200
CONNECTIONS, BUILD_EFFORT, EFFORT = 16, 128, 64
"""Of the graphs: edges of a node, and how many candidates are looked at while building and asking."""


class Contender(NamedTuple):
    """One way to search: what makes a file of vectors, and what opens it."""

    library: str
    make: Callable[[Floats, Path, int], None]
    open: Callable[[Path, int], Ask]


@dataclass(frozen=True)
class Measured:
    """What one contender took."""

    build_seconds: float
    file_bytes: int
    memory_bytes: int
    """What opening it and asking all questions added to the process; pages of the file that others share count."""
    recall: float
    per_second: float


def make_vectors(count: int, dimensions: int, seed: int) -> Floats:
    """Float [count, dimensions] of length 1."""
    fixed, random = np.random.default_rng(0), np.random.default_rng(seed)
    kinds = fixed.standard_normal((1000, 32), dtype=np.float32)
    first = fixed.standard_normal((32, dimensions), dtype=np.float32) / 32**0.5
    found = np.empty((count, dimensions), np.float32)
    for start in range(0, count, 50_000):
        part = found[start : start + 50_000]
        varied = kinds[random.integers(1000, size=len(part))] + 0.5 * random.standard_normal(
            (len(part), 32), np.float32
        )
        part[:] = np.tanh(varied @ first) + 0.02 * random.standard_normal(part.shape, np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return found


def truth(vectors: Floats, questions: Floats) -> Keys:
    """Row numbers [N, BEST] of the nearest vectors."""
    found = []
    for part in np.array_split(questions, max(1, len(questions) // 20)):
        scores = part @ vectors.T
        best = np.argpartition(-scores, BEST, axis=1)[:, :BEST]
        found.append(best)
    return np.concatenate(found)


def _numpy_make(vectors: Floats, path: Path, threads: int) -> None:
    with path.open("wb") as file:
        np.save(file, vectors)


def _numpy_open(path: Path, dimensions: int) -> Ask:
    vectors = np.load(path)

    def ask(question: Floats) -> Keys:
        return np.argpartition(-(vectors @ question), BEST)[:BEST]

    return ask


def _lists_make(vectors: Floats, path: Path, threads: int) -> None:
    build(path, np.arange(len(vectors)), vectors.astype("<f2"), threads)


def _lists_open(path: Path, dimensions: int) -> Ask:
    index = Index(path)
    return lambda question: index.search(question, BEST)[0]


def _faiss_graph_make(vectors: Floats, path: Path, threads: int) -> None:
    faiss: Any = importlib.import_module("faiss")
    faiss.omp_set_num_threads(threads)
    halves = faiss.ScalarQuantizer.QT_fp16
    index = faiss.IndexHNSWSQ(vectors.shape[1], halves, CONNECTIONS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = BUILD_EFFORT
    index.train(vectors[:1000])
    index.add(vectors)
    faiss.write_index(index, os.fspath(path))


def _faiss_graph_open(path: Path, dimensions: int) -> Ask:
    faiss: Any = importlib.import_module("faiss")
    faiss.omp_set_num_threads(1)
    index = faiss.read_index(os.fspath(path))
    index.hnsw.efSearch = EFFORT

    def ask(question: Floats) -> Keys:
        keys: Keys = index.search(question[np.newaxis], BEST)[1][0]
        return keys

    return ask


def _usearch_make(vectors: Floats, path: Path, threads: int) -> None:
    from usearch.index import Index as Graph

    index = Graph(ndim=vectors.shape[1], metric="ip", dtype="f16", connectivity=CONNECTIONS, expansion_add=BUILD_EFFORT)
    index.add(np.arange(len(vectors)), vectors, threads=threads)
    index.save(os.fspath(path))


def _usearch_open(path: Path, dimensions: int) -> Ask:
    from usearch.index import Index as Graph

    index = Graph(ndim=dimensions, metric="ip", dtype="f16", expansion_search=EFFORT)
    index.view(os.fspath(path))

    def ask(question: Floats) -> Keys:
        keys: Keys = index.search(question, BEST, threads=1).keys.astype(np.int64)
        return keys

    return ask


def _hnswlib_make(vectors: Floats, path: Path, threads: int) -> None:
    import hnswlib

    index = hnswlib.Index(space="ip", dim=vectors.shape[1])
    index.init_index(len(vectors), ef_construction=BUILD_EFFORT, M=CONNECTIONS)
    index.add_items(vectors, num_threads=threads)
    index.save_index(os.fspath(path))


def _hnswlib_open(path: Path, dimensions: int) -> Ask:
    import hnswlib

    index = hnswlib.Index(space="ip", dim=dimensions)
    index.load_index(os.fspath(path))
    index.set_ef(EFFORT)

    def ask(question: Floats) -> Keys:
        keys: Keys = index.knn_query(question, BEST, num_threads=1)[0][0].astype(np.int64)
        return keys

    return ask


CONTENDERS = {
    "numpy, exact": Contender("numpy", _numpy_make, _numpy_open),
    "faiss, lists, float16, mapped": Contender("faiss", _lists_make, _lists_open),
    "faiss, graph, float16": Contender("faiss", _faiss_graph_make, _faiss_graph_open),
    "usearch, graph, float16, mapped": Contender("usearch", _usearch_make, _usearch_open),
    "hnswlib, graph, float32": Contender("hnswlib", _hnswlib_make, _hnswlib_open),
}


def resident() -> int:
    """Bytes of memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def apart(work: Callable[[], T]) -> T:
    """Do some work in a process of its own, and return what it returns."""
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe(duplex=False)

    def run(end: Connection) -> None:
        end.send(work())

    child = fork.Process(target=run, args=(there,))
    child.start()
    there.close()
    found: T = here.recv()
    child.join()
    return found


def measure(contender: Contender, vectors: Floats, questions: Floats, right: Keys, threads: int) -> Measured:
    """Make an index, open it and ask it everything, each in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index"

        def make() -> float:
            begun = time.perf_counter()
            contender.make(vectors, path, threads)
            return time.perf_counter() - begun

        seconds = apart(make)
        per_second, recall, memory = apart(lambda: _asked(contender, path, questions, right))
        return Measured(seconds, path.stat().st_size, memory, recall, per_second)


def _asked(contender: Contender, path: Path, questions: Floats, right: Keys) -> tuple[float, float, int]:
    importlib.import_module(contender.library)
    before = resident()
    ask = contender.open(path, questions.shape[1])
    found = [ask(question) for question in questions]
    begun = time.perf_counter()
    for question in questions:
        ask(question)
    seconds = time.perf_counter() - begun
    hits = sum(len({*mine.tolist()} & {*theirs.tolist()}) for mine, theirs in zip(found, right, strict=True))
    return len(questions) / seconds, hits / right.size, resident() - before


def measure_galleries(vectors: Floats, questions: Floats, right: Keys) -> dict[str, str]:
    """What a gallery takes from end to end, SQLite and all: its index made, another process's first search, further
    ones, an id deleted for good."""
    who, source = Who("00000000"), Source("model", 1, "0" * 64)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        filled = Galleries(folder, len(vectors))
        with filled._database.writing() as connection:
            gallery = catalogue.create(connection, who, "all", source)
            for row, vector in enumerate(as_stored(vectors)):
                catalogue.put(connection, gallery, str(row), vector[np.newaxis], {}, len(vectors))
        indexing = _seconds(lambda: filled._upkeep.renew(gallery.number))
        other = Galleries(folder, len(vectors))
        first = _seconds(lambda: other.search(who, "all", None, source, questions[:1], BEST))
        found: list[list[Match]] = []

        def search() -> None:
            found[:] = [other.search(who, "all", None, source, one[np.newaxis], BEST)[1][0] for one in questions]

        searching = _seconds(search)
        hits = sum(
            len({int(match.id) for match in mine} & {*theirs})
            for mine, theirs in zip(found, right.tolist(), strict=True)
        )

        def delete() -> None:
            for match in found[0]:
                other.delete_entry(who, "all", None, match.id)

        deleting = _seconds(delete)
        size = sum(path.stat().st_size for path in folder.iterdir())
        for galleries in (filled, other):
            galleries.close()
    return {
        "its index is made in": f"{indexing:.1f} s",
        "its files have": f"{size / 1e6:.0f} MB",
        "the first search of a process": f"{first * 1000:.1f} ms",
        "a search": f"{searching / len(questions) * 1000:.2f} ms",
        "recall@10": f"{hits / right.size:.3f}",
        "an id deleted from all files": f"{deleting / BEST * 1000:.1f} ms",
    }


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--vectors", type=int, default=100_000)
    arguments.add_argument("--dimensions", type=int, default=256)
    arguments.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="while building")
    arguments.add_argument("--only", nargs="*", help="libraries, or galleries; without it all that are installed")
    chosen = arguments.parse_args()
    vectors = make_vectors(chosen.vectors, chosen.dimensions, 1)
    questions = make_vectors(QUESTIONS, chosen.dimensions, 2)
    right = truth(vectors, questions)
    print(
        f"{chosen.vectors:,} vectors of {chosen.dimensions} numbers, built on {chosen.threads} threads, asked on one\n"
    )
    print("| index | build | file | memory | recall@10 | questions a second |\n|---|---|---|---|---|---|")
    for name, contender in CONTENDERS.items():
        library = contender.library
        if importlib.util.find_spec(library) and library in (chosen.only or [library]):
            found = measure(contender, vectors, questions, right, chosen.threads)
            print(
                f"| {name} | {found.build_seconds:.1f} s | {found.file_bytes / 1e6:.0f} MB"
                f" | {found.memory_bytes / 1e6:.0f} MB | {found.recall:.3f} | {found.per_second:.0f} |",
                flush=True,
            )
    if "galleries" in (chosen.only or ["galleries"]):
        print("\n| a gallery of as many ids | |\n|---|---|")
        for what, took in measure_galleries(vectors, questions, right).items():
            print(f"| {what} | {took} |")


if __name__ == "__main__":
    main()
