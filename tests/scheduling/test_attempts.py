"""`Attempts`: batches that fail, in the parts in which they run after all."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from app.errors import DeviceLost, InferenceFailed, InsufficientMemory, NotReady, OutOfMemory
from app.scheduling.attempts import Attempts
from app.scheduling.tickets import Finished, Outcome, Ticket
from app.scheduling.watch import Watch
from app.tensors import BatchBuffer, Tensors

POISON = 666.0


class Session:
    """Doubles its rows; notes how many came at once, and fails as it is told."""

    def __init__(self, fail: Callable[[list[float]], Exception | None]) -> None:
        self.sizes: list[int] = []
        self._fail = fail

    def run(self, tensors: Tensors) -> Tensors:
        values = tensors["x"][:, 0].tolist()
        self.sizes.append(len(values))
        if (error := self._fail(values)) is not None:
            raise error
        return {"y": tensors["x"] * 2}


class Trial:
    """One lane's attempts, and what came of the jobs that were run."""

    def __init__(self, fail: Callable[[list[float]], Exception | None]) -> None:
        self.session = Session(fail)
        self.too_large: list[int] = []
        self.attempts = Attempts("tiny/1", lambda: 0.0, Watch(lambda: 0.0), self.too_large.append)

    def run(self, jobs: Sequence[Sequence[float]]) -> list[Outcome]:
        """Run jobs of so many rows each."""
        tickets = [
            Ticket(
                tensors={"x": np.float32(values).reshape(-1, 1)}, rows=len(values), deadline=1e9, arrived=0.0,
                deliver=lambda outcome: None,
            )
            for values in jobs
        ]  # fmt: skip
        done = self.attempts.run(self.session, tickets, 0.0, BatchBuffer(16))
        found = {id(ticket): outcome for ran in done for ticket, outcome in zip(ran.tickets, ran.outcomes, strict=True)}
        return [found[id(ticket)] for ticket in tickets]


def rows(outcome: Outcome) -> list[float]:
    assert isinstance(outcome, Finished), outcome
    return outcome.tensors["y"][:, 0].tolist()


def on_poison(values: list[float]) -> Exception | None:
    return RuntimeError("poison") if POISON in values else None


def beyond(limit: int, error: type[Exception] = OutOfMemory) -> Callable[[list[float]], Exception | None]:
    """Fails on more rows at once."""
    return lambda values: error("no memory") if len(values) > limit else None


@pytest.mark.parametrize("place", [0, 7, 15])
def test_a_poisoned_row_among_sixteen_leaves_fifteen_right_answers(place: int) -> None:
    values = [float(value) for value in range(16)]
    values[place] = POISON
    trial = Trial(on_poison)
    outcomes = trial.run([[value] for value in values])
    assert isinstance(outcomes.pop(place), InferenceFailed)
    del values[place]
    assert [rows(outcome) for outcome in outcomes] == [[2 * value] for value in values]
    assert len(trial.session.sizes) == 9  # one, and two of each half, quarter and so on


@pytest.mark.parametrize("error", [OutOfMemory, MemoryError])
def test_a_batch_without_memory_runs_in_halves_and_every_job_gets_its_rows(error: type[Exception]) -> None:
    trial = Trial(beyond(4, error))
    outcomes = trial.run([[1, 2], [3], [4, 5, 6, 7, 8], [9], [10, 11]])
    assert [rows(outcome) for outcome in outcomes] == [[2, 4], [6], [8, 10, 12, 14, 16], [18], [20, 22]]
    assert trial.session.sizes == [11, 5, 2, 3, 6, 3, 3]
    assert trial.too_large == [11, 5, 6]
    assert trial.attempts.failures == 0


def test_one_job_of_many_rows_runs_in_halves_too() -> None:
    assert rows(Trial(beyond(2)).run([[1, 2, 3, 4, 5]])[0]) == [2, 4, 6, 8, 10]


def test_a_row_that_fits_into_no_memory_fails_alone() -> None:
    def fail(values: list[float]) -> Exception | None:
        return OutOfMemory("no memory") if POISON in values else None

    outcomes = Trial(fail).run([[1], [POISON], [3]])
    assert isinstance(outcomes[1], InsufficientMemory)
    assert [rows(outcomes[place]) for place in (0, 2)] == [[2], [6]]


def test_a_lost_device_is_tried_once_and_its_callers_may_come_back() -> None:
    trial = Trial(beyond(0, DeviceLost))
    outcomes = trial.run([[1], [2], [3]])
    assert all(isinstance(outcome, NotReady) and outcome.retry_after == 5 for outcome in outcomes)
    outcomes = trial.run([[4]])
    assert isinstance(outcomes[0], NotReady)
    assert trial.session.sizes == [3]


def test_failures_are_counted_until_a_batch_runs() -> None:
    trial = Trial(on_poison)
    for _ in range(3):
        trial.run([[POISON]])
    trial.run([[POISON], [POISON]])
    assert trial.attempts.failures == 5
    trial.run([[POISON], [1]])
    assert trial.attempts.failures == 0
