"""Jobs of workers run in the engine, over real sockets and shared memory; whatever happens, no memory is kept."""

import asyncio
import logging
import random
import socket
import time
from pathlib import Path

import numpy as np
import orjson
import pytest

from app.errors import DeadlineExceeded, InferenceFailed, InternalError, NotReady, Overloaded, TensorsTooLarge
from app.processes.arena import ArenaFull
from app.processes.remote import ERRORS, RemoteJobs
from app.scheduling.batcher import Finished
from app.scheduling.policy import PATIENT, Limits
from app.telemetry.metrics import Metrics
from tests.processes.engines import FOREVER, POISON, ROW_BYTES, SIZE, Caller, House, engine
from tests.processes.scenario import pair, run, until


def answer(finished: Finished) -> list[float]:
    return finished.tensors["probabilities"][:, 0].tolist()


async def nothing_taken(house: House, *workers: int) -> None:
    """Wait until every place was given back: the answers' when the engine has heard that they were read."""
    for worker in workers or (0,):
        await until(lambda worker=worker: not house.taken(worker))


async def one_runs_one_waits(house: House, caller: Caller) -> tuple["asyncio.Task[Finished]", "asyncio.Task[Finished]"]:
    """Two jobs, the first of which is held in the session."""
    house.hold()
    running = caller.run(1)
    await house.gate.was_entered()
    waiting = caller.run(2)
    await until(lambda: house.batcher.lane.waiting == 1)
    return running, waiting


def test_each_job_gets_its_own_rows_and_jobs_of_all_workers_share_batches(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with engine(tmp_path, workers=2) as (house, (one, other)):
            house.hold()
            first = one.run(0)
            await house.gate.was_entered()
            jobs = []
            for caller, value, rows, waiting in ((one, 1, 2, 2), (other, 2, 1, 3), (one, 3, 3, 6)):
                jobs.append(caller.run(value, rows))
                await until(lambda waiting=waiting: house.batcher.lane.waiting == waiting)
            house.now = 2.0
            house.gate.opened.set()
            done = await asyncio.gather(first, *jobs)
            assert [answer(finished) for finished in done] == [[0], [1, 1], [2], [3, 3, 3]]
            assert house.gate.batches == [[0], [1, 1, 2], [3, 3, 3]]
            assert [(finished.queue_seconds, finished.run_seconds) for finished in done] == [(0, 2)] + 3 * [(2, 0)]
            await nothing_taken(house, 0, 1)

    run(scenario)


def test_many_jobs_of_many_shapes_come_back_equal(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with engine(tmp_path, workers=3) as (house, callers):
            dice = np.random.default_rng(1)
            for _ in range(20):
                sizes = [
                    (callers[dice.integers(3)], int(dice.integers(65)), int(dice.integers(1, 5))) for _ in range(9)
                ]
                done = await asyncio.gather(*(caller.run(value, rows) for caller, value, rows in sizes))
                assert [answer(finished) for finished in done] == [[value] * rows for _, value, rows in sizes]
            await nothing_taken(house, 0, 1, 2)

    run(scenario)


def test_answers_stay_as_they_are_when_their_memory_is_taken_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with engine(tmp_path) as (house, (caller,)):
            kept = await caller.run(1, rows=4)
            for value in range(2, 9):
                await caller.run(value, rows=4)
            assert answer(kept) == [1, 1, 1, 1]
            await nothing_taken(house)

    run(scenario)


def test_a_poisoned_job_fails_alone_as_it_would_here(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with engine(tmp_path) as (house, (caller,)):
            house.hold()
            first = caller.run(0)
            await house.gate.was_entered()
            jobs = [caller.run(value) for value in (1, POISON, 3)]
            await until(lambda: house.batcher.lane.waiting == 3)
            house.gate.opened.set()
            done = await asyncio.gather(first, *jobs, return_exceptions=True)
            assert isinstance(done[2], InferenceFailed)
            assert [answer(finished) for finished in done if isinstance(finished, Finished)] == [[0], [1], [3]]
            await nothing_taken(house)

    run(scenario)


def test_what_the_lane_refuses_is_refused_with_the_same_error(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with engine(tmp_path, limits=Limits(max_batch_size=4, max_queue_seconds=1)) as (house, (caller,)):
            house.batcher.lane.pace.learn(rows=1, seconds=0.4)
            house.hold()
            first = caller.run(0)
            await house.gate.was_entered()
            late = caller.run(1, deadline=5)
            await until(lambda: house.batcher.lane.waiting == 1)
            with pytest.raises(Overloaded) as refused:
                await caller.run(2)
            assert refused.value.retry_after == pytest.approx(house.batcher.lane.expected(1))
            with pytest.raises(NotReady, match="Model tiny-classifier/2 is not loaded"):
                await caller.run(3, key="tiny-classifier/2")
            house.now = 5
            house.gate.opened.set()
            await first
            with pytest.raises(DeadlineExceeded):
                await late
            await nothing_taken(house)

    run(scenario)


def test_a_job_without_a_deadline_runs(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with engine(tmp_path) as (_, (caller,)):
            assert answer(await caller.run(5, deadline=float("inf"))) == [5]

    run(scenario)


def test_every_error_of_the_engine_is_made_again_from_its_code(tmp_path: Path) -> None:
    told = {"detail": "Model x is not loaded: retry.", "retry_after": 2.5}
    for kind in (Overloaded, NotReady, DeadlineExceeded, InferenceFailed, InternalError):
        error = ERRORS[kind.code](told)
        assert type(error) is kind
        assert getattr(error, "retry_after", 2.5) == 2.5
    assert str(ERRORS[NotReady.code](told)) == told["detail"]


def test_a_job_that_the_engine_cannot_even_read_is_answered(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with engine(tmp_path) as (house, (caller,)):
            with pytest.raises(InternalError):
                await caller.run(1, key=["no key"])
            assert answer(await caller.run(5)) == [5]
            await nothing_taken(house)

    with caplog.at_level(logging.ERROR, "imago.processes"):
        run(scenario)
    assert caplog.records[0].message == "job 0 of a worker could not be run"


def test_a_caller_that_leaves_while_its_job_waits_takes_it_out_of_the_lane(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with engine(tmp_path) as (house, (caller,)):
            house.hold()
            first = caller.run(0)
            await house.gate.was_entered()
            leaving, staying = caller.run(1), caller.run(2)
            await until(lambda: house.batcher.lane.waiting == 2)
            assert house.shared.loads.waiting(0) == 3
            leaving.cancel()
            await until(lambda: house.shared.loads.waiting(0) == 2)
            assert house.batcher.lane.waiting == 1
            house.gate.opened.set()
            await asyncio.gather(first, staying)
            assert house.gate.batches == [[0], [2]]
            counted = b'imago_cancelled_total{model="tiny-classifier",task="classify"} 1.0'
            assert counted in house.metrics.render("")[0]
            await nothing_taken(house)

    run(scenario)


def test_memory_that_a_batch_reads_is_kept_until_it_ends_though_the_caller_left(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with engine(tmp_path) as (house, (caller,)):
            house.hold()
            leaving = caller.run(7)
            await house.gate.was_entered()
            leaving.cancel()
            waiting = caller.run(8)
            with pytest.raises(NotReady):  # answered after whatever was said of the cancelled one
                await caller.run(9, key="tiny-classifier/2")
            assert house.taken() == [f"<Arena: 2 places of {2**20} bytes taken>"]
            house.gate.opened.set()
            await waiting
            assert house.gate.batches == [[7], [8]]
            await nothing_taken(house)

    run(scenario)


def test_an_engine_that_goes_away_fails_its_jobs_and_keeps_none_of_their_memory(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with engine(tmp_path) as (house, (caller,)):
            running, waiting = await one_runs_one_waits(house, caller)
            caller.cut()
            for job in (running, waiting):
                with pytest.raises(NotReady, match="engine is being restarted"):
                    await job
            assert caller.lost == 1
            assert repr(caller.messenger) == "<Messenger: waiting for an engine, 0 jobs sent>"
            assert str(house.shared.channels[0].jobs).startswith("<Arena: 0 places")
            with pytest.raises(NotReady):
                await caller.run(3)
            await nothing_taken(house)

    run(scenario)


def test_jobs_that_wait_for_a_worker_that_died_are_dropped_and_their_load_with_them(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with engine(tmp_path, workers=2) as (house, (dying, staying)):
            house.hold()
            first = staying.run(0)
            await house.gate.was_entered()
            lost = [dying.run(value, rows=2) for value in (1, 2)]
            await until(lambda: house.batcher.lane.waiting == 4)
            assert house.shared.loads.waiting(0) == 5
            dying.cut()
            await until(lambda: house.batcher.lane.waiting == 0)
            assert house.shared.loads.waiting(0) == 1
            house.gate.opened.set()
            assert answer(await first) == [0]
            assert house.gate.batches == [[0]]
            await asyncio.gather(*lost, return_exceptions=True)
            await nothing_taken(house, 0, 1)

    run(scenario)


def test_a_worker_waits_until_no_batch_reads_the_memory_of_its_predecessor(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with engine(tmp_path) as (house, (dying,)):
            house.hold()
            lost = dying.run(1)
            await house.gate.was_entered()
            dying.cut()
            with pytest.raises(NotReady):
                await lost
            fallen, successor = Caller(house.shared, 0), Caller(house.shared, 0)
            await fallen.connect(house.control)
            fallen.cut()
            await successor.connect(house.control)
            for _ in range(50):
                await asyncio.sleep(0)
            assert not successor.told
            house.gate.opened.set()
            await until(lambda: bool(successor.told))
            assert not fallen.told
            assert answer(await successor.run(2)) == [2]
            assert house.gate.batches == [[1], [2]]
            await nothing_taken(house)
            successor.cut()

    run(scenario)


def test_a_new_engine_is_talked_to_though_the_end_of_the_old_was_not_heard_yet(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with engine(tmp_path) as (house, (caller,)):
            silent, wire = pair()
            old, key = Caller(house.shared, 0), caller.key
            await old.messenger.connect(silent)
            stuck = old.run(1, key=key)
            await until(lambda: "1 jobs" in repr(old.messenger))
            caller.cut()
            await old.connect(house.control)
            with pytest.raises(NotReady):
                await stuck
            assert old.lost == 1
            assert answer(await old.run(2, key=key)) == [2]
            wire.close()
            assert answer(await old.run(3, key=key)) == [3]
            assert old.lost == 1
            old.cut()

    run(scenario)


def test_tensors_that_do_not_fit_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with engine(tmp_path, arena_bytes=4 * ROW_BYTES) as (house, (caller,)):
            house.hold()
            jobs = [caller.run(0, rows=2)]
            await house.gate.was_entered()
            jobs.append(caller.run(1, rows=2))
            await until(lambda: house.batcher.lane.waiting == 2)
            with pytest.raises(ArenaFull):
                await caller.run(2)
            house.gate.opened.set()
            assert [answer(finished) for finished in await asyncio.gather(*jobs)] == [[0, 0], [1, 1]]
            await nothing_taken(house)

    run(scenario)


def test_a_caller_who_leaves_is_counted_whether_its_job_waits_or_runs(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with engine(tmp_path) as (house, (caller,)):
            running, waiting = await one_runs_one_waits(house, caller)
            for left in (running, waiting):
                left.cancel()
            await until(lambda: house.batcher.lane.waiting == 0)
            labels = {"task": "classify", "model": "tiny-classifier"}
            assert house.metrics.registry.get_sample_value("imago_cancelled_total", labels) == 2
            house.gate.opened.set()
            await nothing_taken(house)

    run(scenario)


def test_answers_that_do_not_fit_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with engine(tmp_path) as (house, (caller,)):
            answers = house.shared.channels[0].answers
            hog = answers.write({"x": np.zeros(2**20, np.uint8)})
            done = await asyncio.gather(*(caller.run(value) for value in (1, 2, 3)), return_exceptions=True)
            assert [type(outcome) for outcome in done] == 3 * [Overloaded]
            answers.give_back(hog)
            assert answer(await caller.run(4, rows=4)) == [4, 4, 4, 4]
            await nothing_taken(house)

    run(scenario)


def test_whatever_callers_and_workers_do_no_memory_and_no_load_stays_behind(tmp_path: Path) -> None:
    dice = random.Random(11)
    known = {Finished, asyncio.CancelledError, NotReady, InferenceFailed, Overloaded, DeadlineExceeded}

    async def scenario() -> None:
        async with engine(tmp_path, workers=2) as (house, callers):
            jobs: list[asyncio.Task[Finished]] = []
            for _ in range(600):
                match dice.choices(("run", "leave", "die", "turn", "wait"), (20, 6, 1, 20, 5))[0]:
                    case "run":
                        value = POISON if dice.random() < 0.05 else dice.randint(0, 60)
                        deadline = house.now - 1 if dice.random() < 0.05 else FOREVER
                        jobs.append(dice.choice(callers).run(value, dice.randint(1, 4), deadline))
                    case "leave" if jobs:
                        dice.choice(jobs).cancel()
                    case "die":
                        one = dice.choice(callers)
                        one.cut()
                        await one.connect(house.control)
                    case "turn":
                        await asyncio.sleep(0)
                    case "wait":
                        house.gate.opened.set()
                        await asyncio.sleep(0.001)
                        house.hold()
            house.gate.opened.set()
            outcomes = await asyncio.gather(*jobs, return_exceptions=True)
            assert {Finished, asyncio.CancelledError} <= {type(outcome) for outcome in outcomes} <= known
            await nothing_taken(house, 0, 1)
            assert (house.batcher.lane.waiting, house.shared.loads.waiting(0)) == (0, 0)

    run(scenario)


def jobs_of(house: House, caller: Caller, limit: float) -> tuple[RemoteJobs, Metrics]:
    metrics = Metrics(house.shared.board, caller.worker)
    model = metrics.of("classify", "tiny-classifier", 1)
    return RemoteJobs(caller.messenger, caller.key, caller.load, limit, model, time.monotonic), metrics


def test_a_worker_refuses_at_once_what_the_engine_would_refuse(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with engine(tmp_path) as (house, (caller,)):
            jobs, metrics = jobs_of(house, caller, limit=1.0)
            now = time.monotonic()
            house.shared.loads.learn(0, row_seconds=0.1, batch_seconds=0.5)
            jobs.admit(20, now + 9)
            house.shared.loads.add(caller.worker, 0, 3)
            jobs.admit(1, now + 9)
            with pytest.raises(Overloaded) as refused:
                jobs.admit(3, now + 9)
            assert refused.value.retry_after == pytest.approx(1.1)
            with pytest.raises(Overloaded):
                jobs.admit(1, now + 9, ahead=2)
            with pytest.raises(Overloaded):
                jobs.admit(1, time.monotonic() + 0.5)
            with pytest.raises(DeadlineExceeded):
                jobs.admit(1, now)
            assert repr(jobs) == "<RemoteJobs tiny-classifier/1: 3 waiting>"
            counted = b'imago_rejected_total{model="tiny-classifier",reason="%b",task="classify"} %b'
            assert counted % (b"overloaded", b"3.0") in metrics.render("")[0]
            assert counted % (b"deadline", b"1.0") in metrics.render("")[0]

    run(scenario)


def test_jobs_that_have_time_are_admitted_whatever_waits_and_keep_nobody_out(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with engine(tmp_path) as (house, (caller,)):
            jobs, _ = jobs_of(house, caller, limit=1e-9)
            house.shared.loads.learn(0, row_seconds=0.1, batch_seconds=0.5)
            house.hold()
            image = {"image": np.zeros((1, SIZE, SIZE, 3), np.uint8)}
            running = [asyncio.create_task(jobs.submit(image, 1, PATIENT)) for _ in range(9)]
            await until(lambda: house.batcher.lane.patient > 0)
            assert house.shared.loads.waiting(0) == 0
            jobs.admit(1, time.monotonic() + 9)
            house.shared.loads.add(caller.worker, 0, 50)
            jobs.admit(1, PATIENT)
            house.gate.opened.set()
            assert len(await asyncio.gather(*running)) == 9
            assert house.shared.loads.waiting(0) == 50

    run(scenario)


def test_a_job_for_which_there_is_no_room_is_refused_and_counted(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with engine(tmp_path, arena_bytes=2 * ROW_BYTES) as (house, (caller,)):
            jobs, metrics = jobs_of(house, caller, limit=1.0)
            image = {"image": np.zeros((2, SIZE, SIZE, 3), np.uint8)}
            house.hold()
            first = asyncio.create_task(jobs.submit(image, 2, 1e12))
            await house.gate.was_entered()
            with pytest.raises(Overloaded):
                await jobs.submit(image, 2, 1e12)
            counted = b'imago_rejected_total{model="tiny-classifier",reason="overloaded",task="classify"} 1.0'
            assert counted in metrics.render("")[0]
            house.gate.opened.set()
            await first

    run(scenario)


def test_a_job_for_which_there_will_never_be_room_is_not_told_to_wait(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with engine(tmp_path, arena_bytes=2 * ROW_BYTES) as (house, (caller,)):
            jobs, metrics = jobs_of(house, caller, limit=1.0)
            with pytest.raises(TensorsTooLarge):
                await jobs.submit({"image": np.zeros((3, SIZE, SIZE, 3), np.uint8)}, 3, 1e12)
            counted = b'imago_rejected_total{model="tiny-classifier",reason="overloaded",task="classify"} 0.0'
            assert counted in metrics.render("")[0]
            await nothing_taken(house)

    run(scenario)


def test_an_answer_for_which_there_will_never_be_room_is_not_told_to_wait(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with engine(tmp_path, limits=Limits(max_batch_size=8), answer_bytes=64) as (house, (caller,)):
            assert answer(await caller.run(1, rows=5)) == [1] * 5
            with pytest.raises(TensorsTooLarge, match="more than the 64 bytes that pass between processes"):
                await caller.run(1, rows=6)
            await nothing_taken(house)

    run(scenario)


def test_messages_that_no_worker_sends_do_not_end_the_link(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with engine(tmp_path) as (house, (caller,)):
            caller.cut()
            here, there = pair()
            with there:
                socket.send_fds(house.control, [b"\0"], [there.fileno()])
            for message in ({"op": "read", "places": [["x", "|u1", [1], 64]]}, {"op": "cancel", "id": 99}, {}):
                body = orjson.dumps(message)
                here.send(len(body).to_bytes(4, "little") + body)
            here.setblocking(True)
            assert b'"op":"models"' in await asyncio.to_thread(here.recv, 2**16)
            with here:
                await until(lambda: len(caplog.records) >= 2)

    with caplog.at_level(logging.ERROR, "imago.processes"):
        run(scenario)
