"""Index files: inverted lists of vectors in half precision (faiss), mapped into memory, so that processes share them.

The one home of faiss, which is optional. Nearest neighbours are looked for in the few lists whose centres are nearest
(IVF: Sivic and Zisserman 2003; Jegou et al. 2011, section IV), exactly within these. A graph (HNSW) takes longer to
build, and cannot forget a vector without being built anew: `benchmarks.galleries` compares them.
"""

import importlib.util
import os
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from app.galleries.records import Halves, Vectors

_LEARNED_FROM: Final = 64
"""Vectors for each list of which its centre is learned."""
_LISTS: Final = 4.0
"""Lists for the square root of the number of vectors (the authors of faiss advise 4 to 16 times it)."""
_PROBED: Final = 24
"""Lists that are looked through: `benchmarks.galleries` shows what that finds and costs."""
_AT_ONCE: Final = 20_000
_NONE: Final = -1
"""Key of a row that was overwritten."""

Keys = NDArray[np.int64]


def available() -> bool:
    """Whether faiss is installed (`pip install 'imago[galleries]'`)."""
    return importlib.util.find_spec("faiss") is not None


class Index:
    """One index file, open."""

    def __init__(self, path: Path) -> None:
        """Map a file into memory.

        Raises:
            RuntimeError: it is missing, or cut short.
        """
        faiss = _faiss(1)
        self._parameters = faiss.SearchParametersIVF(nprobe=_PROBED)
        self._index = faiss.read_index(os.fspath(path), faiss.IO_FLAG_MMAP)
        # Threads that read ahead, made for each question, take longer than what they read.
        faiss.downcast_InvertedLists(self._index.invlists).prefetch_nthread = 0

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def search(self, vector: Vectors, count: int) -> tuple[Keys, Vectors]:
        """Keys and cosines of the vectors nearest to float [D], at most so many, nearest first."""
        _faiss(1)
        scores, keys = self._index.search(vector[np.newaxis], min(count, len(self)), params=self._parameters)
        there = keys[0] != _NONE
        return keys[0][there], scores[0][there]


def build(path: Path, keys: Keys, vectors: Halves, threads: int) -> None:
    """Write an index of float16 [N,D], each with its key."""
    faiss = _faiss(threads)
    count, dimensions = vectors.shape
    lists = max(1, min(int(_LISTS * count**0.5), count // _LEARNED_FROM))
    index = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(dimensions), dimensions, lists, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT,
        False,
    )  # fmt: skip
    index.cp.max_points_per_centroid, index.cp.min_points_per_centroid = _LEARNED_FROM, 1
    sample = np.random.default_rng(0).permutation(count)[: lists * _LEARNED_FROM]
    index.train(np.ascontiguousarray(vectors[np.sort(sample)], np.float32))
    for start in range(0, count, _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        index.add_with_ids(np.ascontiguousarray(vectors[part], np.float32), np.ascontiguousarray(keys[part]))
    faiss.write_index(index, os.fspath(path))
    _faiss(1)


def forget(path: Path, keys: Keys) -> None:
    """Overwrite vectors in a file, on disk when it ends; whoever has the file open sees zeros in their place, which are
    nearest to nothing. Keys that are not in it are left out.

    Raises:
        RuntimeError: it is missing, or cut short.
    """
    faiss = _faiss(1)
    index = faiss.read_index(os.fspath(path), faiss.IO_FLAG_MMAP)
    lists = faiss.downcast_InvertedLists(index.invlists)
    with path.open("r+b", buffering=0) as file:
        for number in range(lists.nlist):
            place = lists.lists.at(number)
            for row in np.flatnonzero(np.isin(_keys(lists, number), keys)).tolist():
                # A list is a block of codes, then one of keys, each with room for `capacity` rows.
                file.seek(place.offset + row * lists.code_size)
                file.write(bytes(lists.code_size))
                file.seek(place.offset + place.capacity * lists.code_size + row * 8)
                file.write(np.int64(_NONE).tobytes())
        os.fsync(file.fileno())


def _keys(lists: Any, number: int) -> Keys:
    size = lists.list_size(number)
    keys: Keys = _faiss(1).rev_swig_ptr(lists.get_ids(number), size) if size else np.empty(0, np.int64)
    return keys


def _faiss(threads: int) -> Any:
    """The library, for calls of this thread with so many threads of its own. Importing it takes a while, which nobody
    pays for who has no large gallery."""
    import faiss

    faiss.omp_set_num_threads(threads)
    return faiss
