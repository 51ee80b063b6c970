"""Warm-up: run a session on noise before anybody waits for it, and measure which batch sizes pay."""

import time
from collections.abc import Mapping, Sequence

import numpy as np

from app.errors import InvalidModel
from app.runtime.base import Session
from app.tensors import Tensor, Tensors, TensorSpec

_REPEATS = 3
_REPEAT_SECONDS = 0.1
"""A size is timed three times, or until this much time has gone into it; its quickest run counts."""
_HOPELESS = 1.5
"""A row that takes so many times what the best took says that larger batches only cost memory: caches are full."""
_AS_GOOD = 1.25
"""Within a quarter of the best time per row the larger batch is preferred: shared machines are not timed more exactly,
and fewer runs save the hops to a thread and back that are not in it."""


def warm_up(session: Session, max_rows: int, thrifty: bool = False) -> dict[int, float]:
    """Run batches of 1, 2, 4, ... `max_rows` rows of noise; return the seconds that each size took.

    A `thrifty` warm-up ends at the first size that clearly does not pay.

    Raises:
        InvalidModel: the session fails, or an answer is not finite or has not as many rows as were sent.
    """
    random = np.random.default_rng(0)
    _check(session, _noise(session.inputs, 1, random), 1)
    seconds: dict[int, float] = {}
    for rows in sorted({1 << power for power in range(max_rows.bit_length())} | {max_rows}):
        batch = _noise(session.inputs, rows, random)
        seconds[rows] = _quickest(session, batch, rows)
        best = min(spent / count for count, spent in seconds.items())
        if thrifty and seconds[rows] / rows > _HOPELESS * best:
            break
    return seconds


def best_batch(seconds: Mapping[int, float]) -> int:
    """The largest batch size whose rows take about as little time as those of any."""
    best = min(spent / rows for rows, spent in seconds.items())
    return max(rows for rows, spent in seconds.items() if spent / rows <= _AS_GOOD * best)


def _quickest(session: Session, batch: Tensors, rows: int) -> float:
    spent: list[float] = []
    while not spent or (len(spent) < _REPEATS and sum(spent) < _REPEAT_SECONDS):
        begun = time.perf_counter()
        _check(session, batch, rows)
        spent.append(time.perf_counter() - begun)
    return min(spent)


def _check(session: Session, batch: Tensors, rows: int) -> None:
    """Run a batch and look at its answers."""
    try:
        outputs = session.run(batch)
    except Exception as error:  # backends raise classes of their own; all mean that this graph cannot be served
        raise InvalidModel(f"The graph fails on noise: {str(error)[:300]}") from error
    for name, array in outputs.items():
        if array.shape[0] != rows or not np.isfinite(array).all():
            raise InvalidModel(f"Output {name!r} of {rows} rows of noise is not {rows} finite rows.")


def _noise(specs: Sequence[TensorSpec], rows: int, random: np.random.Generator) -> Tensors:
    """Rows that any graph takes: bytes for pictures, normal floats for latents, zeros for indices."""
    batch: dict[str, Tensor] = {}
    for spec in specs:
        shape = (rows, *(64 if size is None else size for size in spec.shape[1:]))
        if spec.dtype == np.uint8:
            batch[spec.name] = random.integers(0, 256, shape, dtype=np.uint8)
        elif spec.dtype.kind == "f":
            batch[spec.name] = random.standard_normal(shape).astype(spec.dtype)
        else:
            batch[spec.name] = np.zeros(shape, dtype=spec.dtype)
    return batch
