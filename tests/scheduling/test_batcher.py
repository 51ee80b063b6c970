"""`Batcher` carries jobs to sessions whose pace the test decides: a session runs when its gate opens."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from app.errors import DeadlineExceeded, DeviceLost, InferenceFailed, NotReady, Overloaded
from app.scheduling.batcher import Batcher, Finished, Runs, Sessions, Ticket
from app.scheduling.policy import Lane, Limits, Picked
from app.telemetry.logs import request_id
from app.telemetry.metrics import Metrics
from app.tensors import Tensors

POISON = 666.0
DEFAULT = Limits()


class GatedSession:
    """Doubles its rows; waits for its gate, notes every batch, and fails on poison."""

    def __init__(self, open_gate: bool = True) -> None:
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.batches: list[list[float]] = []
        if open_gate:
            self.gate.set()

    def run(self, tensors: Tensors) -> Tensors:
        self.entered.set()
        assert self.gate.wait(10)
        values = tensors["x"][:, 0].tolist()
        self.batches.append(values)
        if POISON in values:
            raise RuntimeError("poison")
        return {"y": tensors["x"] * 2}


@asynccontextmanager
async def batcher_of(
    session: Runs, limits: Limits = DEFAULT, clock: Callable[[], float] = time.monotonic, **how: Any
) -> AsyncIterator[Batcher]:
    lane: Lane[Ticket] = Lane(limits)
    sessions = Sessions(session, **how)
    batcher = Batcher("tiny/1", sessions, lane, Metrics().of("classify", "tiny", 1), clock)
    try:
        yield batcher
    finally:
        for one in (session, sessions.lone):
            if isinstance(one, GatedSession):
                one.gate.set()
        await batcher.close()


def submit(batcher: Batcher, value: float, deadline: float = 1e12, width: int = 1) -> asyncio.Task[Finished]:
    tensors = {"x": np.full((1, width), value, dtype=np.float32)}
    return asyncio.ensure_future(batcher.submit(tensors, 1, deadline))


async def entered(session: GatedSession) -> None:
    assert await asyncio.to_thread(session.entered.wait, 10)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await scenario()

    asyncio.run(bounded())


def test_each_caller_gets_its_own_rows() -> None:
    async def scenario() -> None:
        async with batcher_of(GatedSession()) as batcher:
            done = await asyncio.gather(*(submit(batcher, value) for value in range(40)))
        assert [float(one.tensors["y"][0, 0]) for one in done] == [2 * value for value in range(40)]

    run(scenario)


def test_jobs_gather_while_the_session_runs_and_leave_together() -> None:
    async def scenario() -> None:
        session = GatedSession(open_gate=False)
        async with batcher_of(session, limits=Limits(max_batch_size=4)) as batcher:
            first = submit(batcher, 0)
            await entered(session)
            others = [submit(batcher, value) for value in range(1, 7)]
            await asyncio.sleep(0)
            assert repr(batcher) == "<Batcher tiny/1: 6 waiting, 1 running>"
            session.gate.set()
            await asyncio.gather(first, *others)
        assert session.batches == [[0], [1, 2, 3, 4], [5, 6]]

    run(scenario)


def test_jobs_of_different_shapes_are_never_in_one_batch() -> None:
    async def scenario() -> None:
        session = GatedSession(open_gate=False)
        async with batcher_of(session) as batcher:
            first = submit(batcher, 0)
            await entered(session)
            others = [submit(batcher, value, width=1 + value % 2) for value in range(1, 5)]
            await asyncio.sleep(0)
            session.gate.set()
            await asyncio.gather(first, *others)
        assert session.batches == [[0], [1, 3], [2, 4]]

    run(scenario)


def test_cancelled_caller_leaves_its_neighbours_whole() -> None:
    async def scenario() -> None:
        session = GatedSession(open_gate=False)
        async with batcher_of(session) as batcher:
            first = submit(batcher, 0)
            await entered(session)
            leaving, staying = submit(batcher, 1), submit(batcher, 2)
            await asyncio.sleep(0)
            leaving.cancel()
            await asyncio.wait([leaving])
            assert batcher.lane.waiting == 1
            session.gate.set()
            assert float((await staying).tensors["y"][0, 0]) == 4
            await first
        assert leaving.cancelled()
        assert session.batches == [[0], [2]]

    run(scenario)


def test_a_caller_who_leaves_while_its_batch_runs_does_not_disturb_it() -> None:
    async def scenario() -> None:
        session = GatedSession(open_gate=False)
        async with batcher_of(session) as batcher:
            leaving, staying = submit(batcher, 1), submit(batcher, 2)
            await entered(session)
            leaving.cancel()
            await asyncio.wait([leaving])
            session.gate.set()
            assert float((await staying).tensors["y"][0, 0]) == 4
            assert (await submit(batcher, 3)).tensors["y"][0, 0] == 6

    run(scenario)


def test_a_poisoned_job_fails_alone() -> None:
    async def scenario() -> None:
        session = GatedSession(open_gate=False)
        async with batcher_of(session) as batcher:
            first = submit(batcher, 0)
            await entered(session)
            others = [submit(batcher, value) for value in (1, 2, POISON, 4, 5)]
            await asyncio.sleep(0)
            session.gate.set()
            outcomes = await asyncio.gather(first, *others, return_exceptions=True)
        failed = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert [type(error) for error in failed] == [InferenceFailed]
        assert isinstance(outcomes[3], InferenceFailed)

    run(scenario)


def test_the_reason_of_a_failure_is_not_told_to_the_caller() -> None:
    async def scenario() -> None:
        async with batcher_of(GatedSession()) as batcher:
            with pytest.raises(InferenceFailed) as failure:
                await submit(batcher, POISON)
        assert "poison" not in failure.value.detail

    run(scenario)


class ForgetfulSession:
    """Gives back one row less than it took."""

    def run(self, tensors: Tensors) -> Tensors:
        return {"y": tensors["x"][1:]}


def test_a_failure_is_logged_under_the_id_of_its_request() -> None:
    seen: list[str] = []

    class Noting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "failed on one job" in record.getMessage():
                seen.append(request_id.get())

    async def scenario() -> None:
        async with batcher_of(GatedSession()) as batcher:
            token = request_id.set("its-own")
            poisoned = submit(batcher, POISON)
            request_id.reset(token)
            with pytest.raises(InferenceFailed):
                await poisoned

    handler, logger = Noting(), logging.getLogger("imago.scheduling")
    logger.addHandler(handler)
    try:
        run(scenario)
    finally:
        logger.removeHandler(handler)
    assert seen == ["its-own"]


def test_a_session_that_loses_rows_fails_every_job_and_mixes_none_up() -> None:
    async def scenario() -> None:
        async with batcher_of(ForgetfulSession()) as batcher:
            outcomes = await asyncio.gather(*(submit(batcher, value) for value in range(4)), return_exceptions=True)
        assert all(isinstance(outcome, InferenceFailed) for outcome in outcomes)

    run(scenario)


def test_a_deadline_that_passes_in_the_queue_is_answered_and_not_run() -> None:
    async def scenario() -> None:
        now = [0.0]
        session = GatedSession(open_gate=False)
        async with batcher_of(session, clock=lambda: now[0]) as batcher:
            first = submit(batcher, 0)
            await entered(session)
            waiting = submit(batcher, 1, deadline=5)
            await asyncio.sleep(0)
            now[0] = 6
            session.gate.set()
            await first
            with pytest.raises(DeadlineExceeded):
                await waiting
        assert session.batches == [[0]]

    run(scenario)


def test_a_queue_that_is_too_long_refuses_at_once_and_keeps_those_who_wait() -> None:
    async def scenario() -> None:
        session = GatedSession(open_gate=False)
        async with batcher_of(session, limits=Limits(max_queue_seconds=1)) as batcher:
            batcher.lane.pace.learn(rows=1, seconds=0.4)
            first = submit(batcher, 0)
            await entered(session)
            waiting = submit(batcher, 1)
            await asyncio.sleep(0)
            with pytest.raises(Overloaded):
                await submit(batcher, 2)
            session.gate.set()
            await asyncio.gather(first, waiting)

    run(scenario)


def test_two_batches_run_side_by_side_and_share_what_waits() -> None:
    async def scenario() -> None:
        both = threading.Barrier(2)

        class Meeting(GatedSession):
            def run(self, tensors: Tensors) -> Tensors:
                both.wait(10)
                return super().run(tensors)

        session = Meeting()
        async with batcher_of(session, concurrency=2) as batcher:
            await asyncio.gather(*(submit(batcher, value) for value in range(4)))
        assert sorted(map(len, session.batches)) == [2, 2]

    run(scenario)


def test_a_job_that_is_alone_runs_on_the_session_made_for_it() -> None:
    async def scenario() -> None:
        crowd, lone = GatedSession(), GatedSession(open_gate=False)
        async with batcher_of(crowd, lone=lone, concurrency=2) as batcher:
            first = submit(batcher, 0)
            await entered(lone)
            await submit(batcher, 1)
            lone.gate.set()
            await first
            await submit(batcher, 2)
        assert (lone.batches, crowd.batches) == ([[0], [2]], [[1]])

    run(scenario)


def test_inline_batches_run_on_the_loop_s_own_thread_and_gather_what_came_meanwhile() -> None:
    async def scenario() -> None:
        threads: set[int] = set()

        class Noting(GatedSession):
            def run(self, tensors: Tensors) -> Tensors:
                threads.add(threading.get_ident())
                return super().run(tensors)

        session = Noting()
        async with batcher_of(session, limits=Limits(max_batch_size=4), inline=True) as batcher:
            done = await asyncio.gather(*(submit(batcher, value) for value in range(6)))
        assert [float(one.tensors["y"][0, 0]) for one in done] == [0, 2, 4, 6, 8, 10]
        assert session.batches == [[0, 1, 2, 3], [4, 5]]
        assert threads == {threading.get_ident()}

    run(scenario)


def test_rows_that_a_session_passes_on_uncopied_outlive_the_next_batch() -> None:
    class Passing:
        def run(self, tensors: Tensors) -> Tensors:
            return {"y": tensors["x"]}

    async def scenario() -> None:
        async with batcher_of(Passing(), limits=Limits(max_batch_size=2)) as batcher:
            done = await asyncio.gather(*(submit(batcher, value) for value in range(6)))
        assert [float(one.tensors["y"][0, 0]) for one in done] == [0, 1, 2, 3, 4, 5]

    run(scenario)


def test_closing_answers_what_waits_and_takes_nothing_more() -> None:
    async def scenario() -> None:
        session = GatedSession(open_gate=False)
        async with batcher_of(session) as batcher:
            first = submit(batcher, 0)
            await entered(session)
            waiting = submit(batcher, 1)
            await asyncio.sleep(0)
            closing = asyncio.ensure_future(batcher.close())
            await asyncio.sleep(0)
            with pytest.raises(NotReady):
                await submit(batcher, 2)
            session.gate.set()
            await asyncio.gather(first, waiting, closing)
        assert session.batches == [[0], [1]]

    run(scenario)


def test_an_operator_s_delay_lets_a_batch_fill() -> None:
    async def scenario() -> None:
        session = GatedSession()
        async with batcher_of(session, limits=Limits(max_batch_size=2, max_queue_delay=60)) as batcher:
            first = submit(batcher, 0)
            await asyncio.sleep(0)
            second = submit(batcher, 1)
            await asyncio.gather(first, second)
        assert session.batches == [[0, 1]]

    run(scenario)


def test_a_session_takes_its_next_batch_while_the_event_loop_is_busy() -> None:
    async def scenario() -> None:
        second = threading.Event()

        class Noting(GatedSession):
            def run(self, tensors: Tensors) -> Tensors:
                answer = super().run(tensors)
                if len(self.batches) == 2:
                    second.set()
                return answer

        session = Noting(open_gate=False)
        async with batcher_of(session) as batcher:
            first = submit(batcher, 0)
            await entered(session)
            waiting = submit(batcher, 1)
            await asyncio.sleep(0)
            session.gate.set()
            assert second.wait(10)  # on the loop's own thread: it does nothing meanwhile
            assert not first.done()
            await asyncio.gather(first, waiting)
        assert session.batches == [[0], [1]]

    run(scenario)


@pytest.mark.parametrize("inline", [False, True])
def test_a_job_that_is_withdrawn_while_it_waits_is_never_read(inline: bool) -> None:
    async def scenario() -> None:
        session = GatedSession()
        async with batcher_of(session, limits=Limits(max_batch_size=2, max_queue_delay=60), inline=inline) as batcher:
            tensors = {"x": np.zeros((1, 1), dtype=np.float32)}
            ticket = batcher.enqueue(tensors, 1, 1e12, lambda outcome: pytest.fail("it was delivered"))
            await asyncio.sleep(0.01)
            assert batcher.withdraw(ticket)
            assert not batcher.withdraw(ticket)
            done = await asyncio.gather(submit(batcher, 1), submit(batcher, 2))
            assert len(done) == 2
        assert session.batches == [[1, 2]]

    run(scenario)


@pytest.mark.parametrize("inline", [False, True])
def test_a_batch_that_does_not_fill_runs_after_the_operator_s_delay(inline: bool) -> None:
    async def scenario() -> None:
        session = GatedSession()
        async with batcher_of(session, limits=Limits(max_batch_size=2, max_queue_delay=0.05), inline=inline) as batcher:
            begun = time.monotonic()
            await submit(batcher, 1)
            assert time.monotonic() - begun >= 0.05
            await asyncio.gather(*(submit(batcher, value) for value in (2, 3)))
        assert session.batches == [[1], [2, 3]]

    run(scenario)


def test_a_brief_row_alone_runs_on_the_loop_s_own_thread_and_a_crowd_does_not() -> None:
    async def scenario() -> None:
        threads: list[int] = []

        class Noting(GatedSession):
            def run(self, tensors: Tensors) -> Tensors:
                threads.append(threading.get_ident())
                return super().run(tensors)

        session = Noting()
        async with batcher_of(session, brief=True, concurrency=2) as batcher:
            for value in range(3):
                assert (await submit(batcher, value)).tensors["y"][0, 0] == 2 * value
            assert set(threads) == {threading.get_ident()}
            threads.clear()
            session.gate.clear()  # or threads might be done with five before the sixth comes, which would be alone
            crowd = [submit(batcher, value) for value in range(6)]
            for _ in range(2):  # until all wait or run, and the loop has seen that the first one is not alone
                await asyncio.sleep(0)
            session.gate.set()
            done = await asyncio.gather(*crowd)
            assert [float(one.tensors["y"][0, 0]) for one in done] == [0, 2, 4, 6, 8, 10]
        assert threading.get_ident() not in threads

    run(scenario)


def test_a_brief_row_alone_waits_as_long_as_an_operator_wants() -> None:
    async def scenario() -> None:
        session = GatedSession()
        limits = Limits(max_batch_size=2, max_queue_delay=60)
        async with batcher_of(session, limits=limits, brief=True) as batcher:
            first = submit(batcher, 0)
            await asyncio.sleep(0.02)
            await asyncio.gather(first, submit(batcher, 1))
        assert session.batches == [[0, 1]]

    run(scenario)


def test_a_batch_that_does_not_come_back_is_a_fault_until_it_does() -> None:
    async def scenario() -> None:
        now = [0.0]
        session = GatedSession(open_gate=False)
        async with batcher_of(session, clock=lambda: now[0]) as batcher:
            stuck = submit(batcher, 1)
            await entered(session)
            now[0] = 30
            assert batcher.fault() == ""
            now[0] = 31
            assert batcher.fault() == "A batch does not come back."
            session.gate.set()
            await stuck
            assert batcher.fault() == ""

    run(scenario)


@pytest.mark.filterwarnings("ignore:Exception in thread:pytest.PytestUnhandledThreadExceptionWarning")  # it is meant
def test_a_thread_that_ended_before_its_time_is_a_fault() -> None:
    class Broken(Lane[Ticket]):
        def take(self, now: float, idle: int = 1) -> Picked[Ticket]:
            raise MemoryError

    async def scenario() -> None:
        batcher = Batcher("tiny/1", Sessions(GatedSession()), Broken(), Metrics().of("classify", "tiny", 1))
        assert batcher.fault() == ""
        waiting = submit(batcher, 1)
        while not batcher.fault():  # noqa: ASYNC110 - a thread that ends tells nobody
            await asyncio.sleep(0)
        assert batcher.fault() == "A thread that runs batches has ended."
        waiting.cancel()
        await batcher.close()
        assert batcher.fault() == ""

    run(scenario)


def test_a_lost_device_is_a_fault_and_refuses_at_once() -> None:
    class Lost:
        def run(self, tensors: Tensors) -> Tensors:
            raise DeviceLost("CUDA failure 700: an illegal memory access was encountered")

    async def scenario() -> None:
        async with batcher_of(Lost()) as batcher:
            with pytest.raises(NotReady):
                await submit(batcher, 1)
            assert batcher.fault() == "A device was lost."
            with pytest.raises(NotReady):
                batcher.admit(1, 1e12)

    run(scenario)


@pytest.mark.parametrize("inline", [False, True])
def test_jobs_wait_while_sessions_are_opened_anew_and_run_on_the_new_ones(inline: bool) -> None:
    class Broken:
        def run(self, tensors: Tensors) -> Tensors:
            raise RuntimeError("broken")

    async def scenario() -> None:
        async with batcher_of(Broken(), limits=Limits(max_batch_size=4), inline=inline) as batcher:
            for number in range(3):
                assert batcher.failing is False, number
                with pytest.raises(InferenceFailed):
                    await submit(batcher, number)
            assert batcher.failing is True
            await batcher.suspend()
            waiting = [submit(batcher, value) for value in range(3)]
            for _ in range(20):
                await asyncio.sleep(0)
            assert batcher.lane.waiting == 3
            batcher.renew(Sessions(session := GatedSession(), inline=inline))
            done = await asyncio.gather(*waiting)
            assert [float(one.tensors["y"][0, 0]) for one in done] == [0, 2, 4]
            assert batcher.failing is False
            assert sum(map(len, session.batches)) == 3

    run(scenario)


def test_sessions_are_free_to_be_closed_once_what_runs_has_ended() -> None:
    async def scenario() -> None:
        session = GatedSession(open_gate=False)
        async with batcher_of(session) as batcher:
            running = submit(batcher, 1)
            await entered(session)
            suspending = asyncio.create_task(batcher.suspend())
            waiting = submit(batcher, 2)
            for _ in range(20):
                await asyncio.sleep(0)
            assert not suspending.done()
            session.gate.set()
            await suspending
            assert (batcher.lane.running, session.batches) == (0, [[1]])
            batcher.renew()
            await asyncio.gather(running, waiting)

    run(scenario)


def test_sessions_that_are_well_after_all_go_on() -> None:
    async def scenario() -> None:
        async with batcher_of(GatedSession()) as batcher:
            for _ in range(3):
                with pytest.raises(InferenceFailed):
                    await submit(batcher, POISON)
            batcher.renew()
            assert batcher.failing is False
            assert (await submit(batcher, 1)).tensors["y"][0, 0] == 2

    run(scenario)


@pytest.mark.parametrize("inline", [False, True])
def test_without_sessions_what_waits_and_what_comes_is_refused(inline: bool) -> None:
    async def scenario() -> None:
        session = GatedSession()
        async with batcher_of(session, inline=inline) as batcher:
            await batcher.suspend()
            waiting = submit(batcher, 1)
            await asyncio.sleep(0)
            batcher.give_up()
            for refused in (waiting, submit(batcher, 2)):
                with pytest.raises(NotReady) as told:
                    await refused
                assert "could not be opened again" in told.value.detail
        assert session.batches == []

    run(scenario)


def test_closing_ends_a_suspension_and_answers_what_waits() -> None:
    async def scenario() -> None:
        session = GatedSession()
        async with batcher_of(session) as batcher:
            await batcher.suspend()
            waiting = submit(batcher, 1)
            await asyncio.sleep(0)
        await waiting
        assert session.batches == [[1]]

    run(scenario)


@pytest.mark.parametrize("inline", [False, True])
def test_versions_of_one_model_add_up_in_its_queue_depth(inline: bool) -> None:
    async def scenario() -> None:
        metrics, gated = Metrics(), GatedSession(open_gate=False)

        def depth() -> float | None:
            return metrics.registry.get_sample_value("imago_queue_depth", {"task": "classify", "model": "tiny"})

        def batcher(session: Runs, version: int, **how: Any) -> Batcher:
            of = metrics.of("classify", "tiny", version)
            return Batcher(f"tiny/{version}", Sessions(session, **how), Lane(Limits()), of)

        crowded, other = batcher(gated, 1), batcher(GatedSession(), 2, inline=inline)
        first = submit(crowded, 0)
        await entered(gated)
        waiting = [submit(crowded, value) for value in (1, 2)]
        await asyncio.sleep(0)
        await submit(other, 3)
        assert depth() == 2
        gated.gate.set()
        await asyncio.gather(first, *waiting)
        assert depth() == 0
        await asyncio.gather(crowded.close(), other.close())

    run(scenario)


def test_a_batcher_is_suspended_only_once_a_batch_that_was_being_picked_has_ended() -> None:
    async def scenario() -> None:
        picking, go_on = threading.Event(), threading.Event()
        loop_thread = threading.get_ident()

        def clock() -> float:
            if threading.get_ident() != loop_thread and not picking.is_set():
                picking.set()
                go_on.wait(10)
            return 1.0

        session = GatedSession()
        async with batcher_of(session, clock=clock) as batcher:
            job = submit(batcher, 0)
            assert await asyncio.to_thread(picking.wait, 10)
            threading.Timer(0.05, go_on.set).start()  # nobody else can: the lane is what the loop waits for
            await batcher.suspend()
            assert (session.batches, batcher.lane.running) == ([[0]], 0)
            batcher.renew()
            await job

    run(scenario)
