"""Runs a session on noise: can its answers be served, and how long does a batch take? For `app.runtime.measure`."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from app.errors import InvalidModel, SessionFault
from app.runtime.base import Session
from app.tensors import Tensor, Tensors, TensorSpec

_BURST_SECONDS = 0.008
"""Quick batches are repeated for so long: starting a caller's thread takes 0.1 ms and must not count."""
_MOSTLY_WAITING = 4
"""A session whose caller worked for less than one part in four of the time waits for another device."""

Result = TypeVar("Result")


FREE_SIDE = 64
"""What a free axis is taken for where nothing says how long it will be."""


def noise(specs: Sequence[TensorSpec], rows: int, side: int = FREE_SIDE) -> Tensors:
    """Rows that any graph takes: bytes for pictures, normal floats for latents, zeros for indices; always the same.
    Free axes are `side` long."""
    random = np.random.default_rng(0)
    batch: dict[str, Tensor] = {}
    for spec in specs:
        shape = (rows, *(side if size is None else size for size in spec.shape[1:]))
        if spec.dtype == np.uint8:
            batch[spec.name] = random.integers(0, 256, shape, dtype=np.uint8)
        elif spec.dtype.kind == "f":
            batch[spec.name] = random.standard_normal(shape).astype(spec.dtype)
        else:
            batch[spec.name] = np.zeros(shape, dtype=spec.dtype)
    return batch


def check(session: Session, batch: Tensors, finite: bool = True) -> None:
    """Run a batch and look at its answers.

    Raises:
        SessionFault: as the session does.
        InvalidModel: the session fails, or an answer has not as many rows as were sent or, where it has to be, is not
            finite.
    """
    rows = len(next(iter(batch.values())))
    for name, array in _run(session, batch).items():
        if array.ndim == 0 or array.shape[0] != rows or (finite and not np.isfinite(array).all()):
            raise InvalidModel(f"Output {name!r} of {rows} rows of noise is not {rows}{' finite' * finite} rows.")


def sound(sessions: Sequence[Session], finite: bool) -> bool:
    """Whether sessions that answered noise once still do."""
    try:
        for session in sessions:
            check(session, noise(session.inputs, 1), finite)
    except (InvalidModel, SessionFault):
        return False
    return True


def seconds_per_batch(session: Session, batch: Tensors, threads: int, callers: int) -> float:
    """Seconds that a batch takes while so many callers run one after the other each.

    With one thread the caller does all the work itself, and its CPU time counts: what else runs on the machine, or two
    callers that begin on one core, then changes nothing. A session that mostly waits is timed by the clock.

    Raises:
        InvalidModel: the session fails.
    """

    def call() -> float:
        begun, worked, runs, spent = time.perf_counter(), time.thread_time(), 0, 0.0
        while spent < _BURST_SECONDS:
            _run(session, batch)
            runs, spent = runs + 1, time.perf_counter() - begun
        own = time.thread_time() - worked
        return (own if threads == 1 and own > spent / _MOSTLY_WAITING else spent) / runs

    return sum(at_once(callers, call)) / callers


def at_once(callers: int, work: Callable[[], Result]) -> list[Result]:
    """Do the work in so many threads that begin together; what one of them raises is raised here."""
    if callers == 1:
        return [work()]
    ready = threading.Barrier(callers)

    def begin(_: int) -> Result:
        ready.wait()
        return work()

    with ThreadPoolExecutor(callers, thread_name_prefix="imago-warm-up") as threads:
        return list(threads.map(begin, range(callers)))


def _run(session: Session, batch: Tensors) -> Tensors:
    try:
        return session.run(batch)
    except SessionFault:
        raise
    except Exception as error:  # backends raise classes of their own; all mean that this graph cannot be served
        raise InvalidModel(f"The graph fails on noise: {str(error)[:300]}") from error
