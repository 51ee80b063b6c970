"""What a gallery and an entry are, and how much there may be of each."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

MAX_GALLERIES: Final = 1000
MAX_OWN_GALLERIES: Final = 100
"""Of one owner."""
MAX_VECTORS_EACH: Final = 32
"""Of one id."""
MAX_METADATA_BYTES: Final = 4096
"""Of one id, as JSON."""

ID: Final = r"[A-Za-z0-9][A-Za-z0-9._:@+-]{0,127}"

Vectors = NDArray[np.float32]
"""Float [N,D], each row of length 1."""
Halves = NDArray[np.float16]
"""The same in half precision, as they are kept: little-endian."""


@dataclass(frozen=True)
class Source:
    """Whose embeddings a gallery holds: those of another graph mean something else."""

    model: str
    version: int
    digest: str
    """SHA-256 of the graph."""


@dataclass(frozen=True)
class Who:
    """On whose behalf something is done: an owner sees its own galleries, an administrator all."""

    owner: str
    """Id of an API key; empty where nobody is asked for one."""
    admin: bool = False


@dataclass(frozen=True)
class Gallery:
    """A gallery as its row says."""

    number: int
    owner: str
    name: str
    source: Source
    dimensions: int
    """0 before its first vector."""
    threshold: float | None
    entries: int
    vectors: int
    created: float
    """Seconds since the epoch."""
    revision: int
    """Counts changes, so that whoever holds vectors sees at once that there are others."""
    epoch: int
    """Counts how often everything that is held has to be read anew: another index, or changes that are forgotten."""
    indexed: int
    """Vectors up to this key are in the index of this epoch; 0 where there is none."""
    recent: int
    """How many are behind that key."""
    forgotten: int
    """How many were removed in this epoch."""


@dataclass(frozen=True)
class Entry:
    """One id of a gallery."""

    id: str
    vectors: int
    metadata: dict[str, Any]
    created: float
    changed: float


@dataclass(frozen=True)
class Match:
    """An id, and the cosine of the angle between a vector and the nearest of the id's."""

    id: str
    score: float
    metadata: dict[str, Any]


def as_stored(vectors: Vectors) -> Halves:
    """Vectors in the precision in which they are kept: cosines change by less than 0.001."""
    return vectors.astype("<f2")


def from_stored(blobs: list[bytes], dimensions: int) -> Halves:
    """Vectors as they were kept, float16 [N,D]."""
    return np.frombuffer(b"".join(blobs), "<f2").reshape(-1, dimensions)
