"""What is chosen from measured times, and sessions that are opened, checked and warmed for it."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from app.errors import InvalidModel
from app.runtime import open_session
from app.runtime.base import Device
from app.runtime.function import FunctionSession
from app.runtime.measure import Split, Times, worth_more
from app.runtime.plan import _ONE_AT_A_TIME, Choices, Plan, best_rows, make_ready, share_cores
from app.tensors import Tensors, TensorSpec
from tests.make_models import make_classifier

SPEC = TensorSpec("x", np.dtype(np.float32), (None, 2))
PLAN = Plan(2, 1, 2, 4, 0.001, {1: 0.001, 2: 0.001, 4: 0.002})
MS = 0.001


class Opener:
    """Opens sessions of a function; remembers them, and the rows of every run by threads of the session."""

    def __init__(
        self,
        function: Callable[[np.ndarray], np.ndarray] = lambda x: x,
        device: Device = "cpu",
        spec: TensorSpec = SPEC,
    ) -> None:
        self.function = function
        self.device: Device = device
        self.spec = spec
        self.sessions: list[FunctionSession] = []
        self.rows: dict[int, set[int]] = {}

    def __call__(self, threads: int) -> FunctionSession:
        def run(tensors: Tensors) -> Tensors:
            self.rows.setdefault(threads, set()).add(len(tensors["x"]))
            return {"y": self.function(tensors["x"])}

        session = FunctionSession(run, (self.spec,), (self.spec,))
        session.device = self.device
        self.sessions.append(session)
        return session


@pytest.mark.parametrize(
    ("milliseconds", "rows"),
    [
        ({1: 0.10, 2: 0.11, 4: 0.13, 8: 0.18, 16: 0.30}, 16),  # the largest is the best
        ({1: 0.10, 2: 0.20, 4: 0.40, 8: 0.80}, 8),  # no better in its session, but one hop for eight rows
        ({1: 1.0, 2: 2.1, 4: 4.4, 8: 9.9}, 4),  # the hop is worth less than what eight rows cost more
        ({1: 1.0, 2: 3.0}, 1),
        ({1: 12.0, 2: 23.4}, 2),
        ({1: 12.0, 2: 24.6}, 1),  # within a hundredth the smallest
        ({1: 80.0, 2: 140.0}, 1),  # slow: within a fifth the smallest
        ({1: 80.0, 2: 120.0, 4: 236.0}, 2),  # slow and clearly better
        ({1: 80.0, 2: 140.0, 4: 180.0}, 4),
        ({1: 1000.0}, 1),
    ],
)
def test_the_batch_size_is_the_one_that_pays(milliseconds: dict[int, float], rows: int) -> None:
    assert best_rows({count: spent * MS for count, spent in milliseconds.items()}) == rows


ONE, BOTH, LONE = Split(1, 2), Split(2, 2), Split(2, 1)


@pytest.mark.parametrize(
    ("lone", "load", "lone_threads", "split"),
    [
        ({1: 80, 2: 40}, {ONE: 80, BOTH: 88, LONE: 41}, 2, ONE),  # each its own session
        ({1: 80, 2: 40}, {ONE: 80, BOTH: 81, LONE: 41}, 2, ONE),  # as good on an idle machine is not as good
        ({1: 80, 2: 40}, {ONE: 80, BOTH: 68, LONE: 41}, 2, BOTH),  # as good all the same: one session
        ({1: 80, 2: 75}, {ONE: 80, BOTH: 81, LONE: 75}, 1, ONE),  # two threads win too little alone: one session
        ({1: 80, 2: 40}, {ONE: 80, BOTH: 88, LONE: 38}, 2, ONE),  # one batch at a time is best on an idle machine only
        ({1: 80, 2: 40}, {ONE: 110, BOTH: 115, LONE: 40}, 2, LONE),  # and here it is best all the same
        ({2: 40}, {BOTH: 80, LONE: 45}, 2, BOTH),  # the operator chose two threads
    ],
)
def test_cores_are_shared_for_most_rows_a_second_with_few_sessions(
    lone: dict[int, float], load: dict[Split, float], lone_threads: int, split: Split
) -> None:
    times = Times(lone, {one: {1: seconds} for one, seconds in load.items()})
    assert share_cores(times) == (lone_threads, split)


@pytest.mark.parametrize(
    ("milliseconds", "callers", "more"),
    [
        ({1: 80}, 2, True),
        ({1: 80, 2: 166}, 2, False),
        ({1: 80, 2: 120}, 2, True),
        ({1: 1.0, 2: 2.2}, 2, True),
        ({1: 1.0, 2: 3.2}, 2, False),
        ({1: 8.0, 2: 16.2}, 2, True),
        ({1: 8.0, 2: 16.6}, 2, False),
        ({1: 80, 2: 120}, 64, False),  # 128 rows in flight, each with memory of its own
        ({1: 1.0, 2: 1.2}, 64, True),
    ],
)
def test_larger_batches_are_tried_while_they_pay(milliseconds: dict[int, float], callers: int, more: bool) -> None:
    seconds = {rows: spent * MS for rows, spent in milliseconds.items()}
    assert worth_more(callers, seconds, max(seconds)) is more


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (lambda x: np.full((len(x), 1), np.nan, np.float32), "finite"),
        (lambda x: np.zeros((len(x) + 1, 1), np.float32), r"is not 1 (finite )?rows"),
        (lambda x: np.float32(1), r"is not 1 (finite )?rows"),
        (lambda x: 1 / 0, "fails on noise: division by zero"),
        (lambda x: x if len(x) == 1 else np.zeros((1, 1)), r"of 2 rows of noise is not 2 (finite )?rows"),
    ],
)
@pytest.mark.parametrize("known", [None, Plan(1, 1, 1, 2, 1.0, {1: 1.0, 2: 2.0})], ids=["measured", "known"])
def test_a_session_whose_answers_to_noise_are_useless_is_not_served(
    answer: Callable[[np.ndarray], np.ndarray], sentence: str, known: Plan | None
) -> None:
    opener = Opener(answer)
    with pytest.raises(InvalidModel, match=sentence):
        make_ready(opener, Choices(), 2, known)
    assert all(session.closed for session in opener.sessions)


def test_a_known_plan_is_opened_and_warm_and_nothing_else_is_run() -> None:
    opener = Opener()
    ready = make_ready(opener, Choices(), 2, PLAN)
    assert ready.plan is PLAN
    assert opener.rows == {2: {1}, 1: {1, 4}}
    assert [ready.crowd, ready.lone] == opener.sessions
    assert not any(session.closed for session in opener.sessions)


def test_on_cuda_every_batch_size_is_warm() -> None:
    opener = Opener(device="cuda")
    ready = make_ready(opener, Choices(), 8, Plan(1, 1, 2, 12, 0.001, {1: 0.001, 12: 0.002}))
    assert opener.rows == {1: {1, 2, 4, 8, 12}}
    assert ready.lone is ready.crowd


def test_as_many_callers_run_at_once_as_the_plan_says() -> None:
    together = threading.Barrier(3)

    def answer(x: np.ndarray) -> np.ndarray:
        if len(x) == 4:
            together.wait(timeout=30)  # breaks, and fails the model, unless three callers meet
        return x

    make_ready(Opener(answer), Choices(), 3, Plan(1, 1, 3, 4, 0.001, {1: 0.001, 4: 0.002}))


def test_what_the_operator_fixed_is_not_measured() -> None:
    opener = Opener()
    plan = make_ready(opener, Choices(threads=3, concurrency=2, max_batch_size=6), 8).plan
    assert (plan.lone_threads, plan.threads, plan.concurrency, plan.max_batch_size) == (3, 3, 2, 6)
    assert set(opener.rows) == {3}
    assert max(opener.rows[3]) == 6
    assert {1, 6} <= set(plan.batch_seconds)


def test_the_largest_batch_that_the_operator_fixed_is_timed_even_where_smaller_ones_pay() -> None:
    done = threading.Event()

    def cubic(x: np.ndarray) -> np.ndarray:
        done.wait(0.0005 * len(x) ** 3)
        return x

    plan = make_ready(Opener(cubic), Choices(threads=1, concurrency=1, max_batch_size=9), 2).plan
    assert max(plan.batch_seconds) == plan.max_batch_size == 9
    assert 8 not in plan.batch_seconds


def test_one_core_is_given_to_one_caller_with_one_thread() -> None:
    opener = Opener()
    plan = make_ready(opener, Choices(), 1).plan
    assert (plan.lone_threads, plan.threads, plan.concurrency) == (1, 1, 1)
    assert set(opener.rows) == {1}


def test_several_cores_are_tried_with_one_thread_and_with_all() -> None:
    opener = Opener()
    plan = make_ready(opener, Choices(), 4).plan
    assert set(opener.rows) == {1, 4}
    assert plan.threads in (1, 4)
    assert plan.concurrency in (1, 4)
    assert all(seconds > 0 for seconds in plan.batch_seconds.values())
    assert max(plan.batch_seconds) == plan.max_batch_size


def test_sessions_opened_to_measure_are_closed_and_those_in_use_are_not() -> None:
    opener = Opener()
    ready = make_ready(opener, Choices(), 2)
    assert {id(session) for session in opener.sessions if not session.closed} == {id(ready.lone), id(ready.crowd)}


def test_models_that_are_loaded_at_once_are_measured_in_turn_and_warmed_together() -> None:
    alone: list[bool] = []

    def answer(x: np.ndarray) -> np.ndarray:
        alone.append(_ONE_AT_A_TIME.locked())
        return x

    make_ready(Opener(answer), Choices(), 2, PLAN)
    assert not any(alone)
    alone.clear()
    make_ready(Opener(answer), Choices(), 2)
    assert alone[0]
    assert not alone[-1]


def test_a_graph_for_one_row_at_a_time_is_served_so() -> None:
    opener = Opener(spec=TensorSpec("x", np.dtype(np.float32), (1, 2)))
    assert make_ready(opener, Choices(max_batch_size=8), 2).plan.max_batch_size == 1
    assert set().union(*opener.rows.values()) == {1}


def test_a_graph_for_another_fixed_batch_is_refused() -> None:
    opener = Opener(spec=TensorSpec("x", np.dtype(np.float32), (4, 2)))
    with pytest.raises(InvalidModel, match="batches of 4 rows only"):
        make_ready(opener, Choices(), 2)


def test_a_real_graph_is_measured_and_answers(tmp_path: Path) -> None:
    graph = (make_classifier(tmp_path) / "model.onnx").read_bytes()
    ready = make_ready(lambda threads: open_session(graph, threads=threads), Choices(), 2)
    picture = {"image": np.full((1, 8, 8, 3), 9, np.uint8)}
    for name, array in ready.lone.run(picture).items():
        np.testing.assert_allclose(array, ready.crowd.run(picture)[name], rtol=1e-6)
