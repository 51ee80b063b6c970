"""Galleries in a folder of their own, and vectors to put into them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from app.galleries.galleries import Galleries
from app.galleries.records import Source, Vectors, Who

DIMENSIONS = 16
EXACT = 80
"""From how many vectors on these galleries have an index."""
ME = Who("11111111")
SOURCE = Source("tiny-embedder", 1, "0" * 64)

Open = Callable[[], Galleries]


def unit(vectors: np.ndarray) -> Vectors:
    """Rows at length 1."""
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def some(count: int, seed: int = 0) -> Vectors:
    """Random directions."""
    return unit(np.random.default_rng(seed).standard_normal((count, DIMENSIONS)))


def fill(galleries: Galleries, vectors: Vectors, name: str = "faces", prefix: str = "id") -> None:
    """An id for each vector: `id0`, `id1`, ..."""
    for number, vector in enumerate(vectors):
        galleries.put(ME, name, None, SOURCE, f"{prefix}{number}", vector[None], {"number": number})


def nearest(galleries: Galleries, vector: Vectors, count: int = 5, name: str = "faces") -> list[str]:
    """The ids nearest to one vector."""
    _, (matches,) = galleries.search(ME, name, None, SOURCE, vector[None], count)
    return [match.id for match in matches]


def exactly(vectors: Vectors, vector: Vectors, count: int = 5) -> list[str]:
    """What an exact search finds among `fill`'s ids."""
    return [f"id{number}" for number in np.argsort(-(vectors @ vector), kind="stable")[:count]]


def settled(galleries: Galleries) -> None:
    """Wait for an index that is being made."""
    if galleries._renewing is not None:
        galleries._renewing.join()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "galleries"


@pytest.fixture
def open_galleries(folder: Path) -> Iterator[Open]:
    """Opens the same folder once more, as another process would."""
    opened: list[Galleries] = []

    def another() -> Galleries:
        opened.append(Galleries(folder, max_vectors=5000, exact=EXACT))
        return opened[-1]

    yield another
    for galleries in opened:
        galleries.close()


@pytest.fixture
def galleries(open_galleries: Open) -> Galleries:
    return open_galleries()
