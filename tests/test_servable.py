"""`Servable`: one version from its folder to its answers, on a real, tiny graph."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from app.errors import DeadlineExceeded, InferenceFailed, InvalidModel, Overloaded
from app.imaging.codec import Decoder, encode_png
from app.manifest import read_manifest
from app.runtime.function import FunctionSession
from app.runtime.plan import Choices, Plan
from app.runtime.plan_cache import PlanCache, plan_key
from app.runtime.trial import Trial
from app.scheduling.batcher import Batcher, Sessions, Ticket
from app.scheduling.policy import Lane, Limits
from app.servable import INLINE_BATCH_SECONDS, INLINE_SIZE, Resources, Running, Servable, build, open_servable
from app.serving import ServingConfig
from app.tasks.classify import ClassifyOptions
from app.tasks.generate import GenerateOptions
from app.tasks.segment import SegmentOptions
from app.telemetry.metrics import Metrics
from app.tensors import Tensors, TensorSpec
from tests.counting import Counting
from tests.make_models import make_classifier, make_generator, make_segmenter

FOREVER = 1e12
DEFAULT = ServingConfig()


def serving(
    folder: Path, use: Callable[[Servable], Awaitable[None]], config: ServingConfig = DEFAULT,
    pool: ThreadPoolExecutor | None = None, **resources: Any,
) -> Metrics:  # fmt: skip
    metrics = Metrics()

    async def scenario() -> None:
        with pool or ThreadPoolExecutor(1) as workers:
            servable = await open_servable(
                folder, read_manifest(folder), config, Resources(Decoder(), workers, metrics, threads=1, **resources)
            )
            try:
                await use(servable)
            finally:
                await servable.close()

    asyncio.run(scenario())
    return metrics


def scores(answer: object) -> dict[str, float]:
    assert isinstance(answer, list)
    return {entry["label"]: entry["probability"] for entry in answer[0]["labels"]}


def picture(value: int, side: int = 8) -> bytes:
    return encode_png(np.full((side, side, 3), value, np.uint8))


def test_a_crowd_gets_the_answers_that_each_would_get_alone(tmp_path: Path) -> None:
    async def use(servable: Servable) -> None:
        alone = [(await servable.predict(picture(v), ClassifyOptions(), FOREVER)).answer for v in range(0, 250, 10)]
        crowd = await asyncio.gather(
            *(servable.predict(picture(v), ClassifyOptions(), FOREVER) for v in range(0, 250, 10))
        )
        assert [scores(one.answer) for one in crowd] == [pytest.approx(scores(one), abs=1e-4) for one in alone]

    metrics = serving(make_classifier(tmp_path), use)
    labels = {"task": "classify", "model": "tiny-classifier"}
    rows = metrics.registry.get_sample_value("imago_batch_size_sum", labels)
    runs = metrics.registry.get_sample_value("imago_batch_size_count", labels)
    assert rows == 50
    assert runs is not None
    assert runs < 50


def test_more_rows_than_a_batch_holds_come_back_in_order(tmp_path: Path) -> None:
    async def use(servable: Servable) -> None:
        whole = (await servable.predict(None, GenerateOptions(count=11, seed=5), FOREVER)).answer
        assert isinstance(whole, list)
        assert [one["index"] for one in whole] == list(range(11))
        last = (await servable.predict(None, GenerateOptions(count=1, seed=5, index=10), FOREVER)).answer
        assert isinstance(last, list)
        assert last[0]["image"] == whole[10]["image"]

    serving(make_generator(tmp_path), use, ServingConfig(max_batch_size=4))


def test_where_a_part_of_a_call_fails_those_that_wait_are_dropped(tmp_path: Path) -> None:
    inputs = (TensorSpec("image", np.dtype("uint8"), (None, 8, 8, 3)),)
    outputs = (TensorSpec("probabilities", np.dtype("float32"), (None, 3)),)
    go_on = threading.Event()

    def run(tensors: Tensors) -> Tensors:
        if tensors["image"].max() == 255:
            raise RuntimeError("poison")
        assert go_on.wait(10)
        return {"probabilities": np.zeros((len(tensors["image"]), 3), np.float32)}

    async def scenario() -> None:
        metrics, lane = Metrics(), Lane[Ticket](Limits(max_batch_size=2))
        sessions = Sessions(FunctionSession(run, inputs, outputs))
        batcher = Batcher("tiny-classifier/1", sessions, lane, metrics.of("classify", "tiny-classifier", 1))
        running = Running("cpu", inputs, outputs, Plan(1, 1, 1, 2, 0.001, {1: 0.001, 2: 0.002}), inline=False)
        folder = make_classifier(tmp_path)
        with ThreadPoolExecutor(1) as pool:
            servable = build(folder, read_manifest(folder), running, batcher, Resources(Decoder(), pool, metrics))
            rows = np.zeros((20, 8, 8, 3), np.uint8)
            rows[0] = 255
            with pytest.raises(InferenceFailed):
                await servable.infer({"image": rows}, FOREVER)
            await asyncio.sleep(0)  # a turn in which they hear of it
            await asyncio.sleep(0)
            assert lane.waiting == 0
            go_on.set()
            await servable.close()

    asyncio.run(scenario())


def test_a_large_picture_is_answered_as_a_small_one(tmp_path: Path) -> None:
    side = int(INLINE_SIZE**0.5) * 2

    async def use(servable: Servable) -> None:
        small = await servable.predict(picture(100), ClassifyOptions(), FOREVER)
        large = await servable.predict(picture(100, side), ClassifyOptions(), FOREVER)
        assert scores(large.answer) == pytest.approx(scores(small.answer), abs=1e-4)

    serving(make_classifier(tmp_path), use)


@pytest.mark.parametrize("mask", ["png", "rle"])
def test_a_label_map_of_a_large_picture_is_made_in_a_thread_however_small_its_graph_is(
    tmp_path: Path, mask: Literal["png", "rle"]
) -> None:
    pool = Counting(1)

    async def use(servable: Servable) -> None:
        await servable.predict(picture(40, side=100), SegmentOptions(mask=mask), FOREVER)
        assert pool.done == 0
        answer = (await servable.predict(picture(40, side=400), SegmentOptions(mask=mask), FOREVER)).answer
        assert pool.done == 2  # to decode it, and to enlarge the map
        assert isinstance(answer, list)
        assert (answer[0]["width"], answer[0]["height"]) == (400, 400)

    serving(make_segmenter(tmp_path), use, pool=pool)


def test_a_refused_request_is_refused_before_its_picture_is_decoded(tmp_path: Path) -> None:
    async def use(servable: Servable) -> None:
        assert isinstance(servable.jobs, Batcher)
        servable.jobs.lane.pace.learn(1, 1000.0)
        waiting = asyncio.ensure_future(servable.predict(picture(1), ClassifyOptions(), FOREVER))
        await asyncio.sleep(0)
        assert servable.jobs.lane.waiting
        with pytest.raises(Overloaded):
            await servable.predict(b"no picture at all", ClassifyOptions(), FOREVER)
        await waiting

    serving(make_classifier(tmp_path), use)


def test_a_call_whose_deadline_passed_while_its_body_came_is_late_and_no_overload(tmp_path: Path) -> None:
    async def use(servable: Servable) -> None:
        deadline = servable.clock()
        for call in (
            servable.predict(picture(1), ClassifyOptions(), deadline),
            servable.infer((await servable.rows_of([picture(1)]))[0], deadline),
        ):
            with pytest.raises(DeadlineExceeded):
                await call
        rejected = {"task": "classify", "model": servable.manifest.name}
        counted = servable.metrics.registry.get_sample_value
        assert counted("imago_rejected_total", {**rejected, "reason": "deadline"}) == 2
        assert counted("imago_rejected_total", {**rejected, "reason": "overloaded"}) == 0

    serving(make_classifier(tmp_path), use)


def test_what_the_operator_chose_is_what_runs(tmp_path: Path) -> None:
    async def use(servable: Servable) -> None:
        plan = servable.running.plan
        assert (plan.threads, plan.concurrency, servable.running.max_batch_size) == (1, 3, 6)
        assert not servable.inline
        assert 6 in plan.batch_seconds
        await asyncio.gather(*(servable.predict(picture(v), ClassifyOptions(), FOREVER) for v in range(20)))

    serving(make_classifier(tmp_path), use, ServingConfig(concurrency=3, max_batch_size=6))


def test_a_small_model_runs_inline_and_in_batches_that_end_soon(tmp_path: Path) -> None:
    async def use(servable: Servable) -> None:
        seconds = servable.running.plan.batch_seconds
        assert servable.inline
        assert seconds[servable.running.max_batch_size] <= INLINE_BATCH_SECONDS

    serving(make_classifier(tmp_path), use)


def test_a_plan_that_is_remembered_is_not_measured_again(tmp_path: Path) -> None:
    plan = Plan(1, 1, 2, 4, 5.0, {1: 5.0, 4: 6.0})
    folder = make_classifier(tmp_path / "models")
    digest = read_manifest(folder).files["model.onnx"].sha256
    plans = PlanCache(tmp_path / "cache")
    plans.put(plan_key(digest, "cpu", 1, Choices(1, None, None)), plan)

    async def use(servable: Servable) -> None:
        assert servable.running.plan == plan
        answer = (await servable.predict(picture(9), ClassifyOptions(), FOREVER)).answer
        assert scores(answer)

    serving(folder, use, plans=plans)


def test_a_graph_that_was_never_opened_is_tried_in_a_process_of_its_own_and_a_known_one_is_not(tmp_path: Path) -> None:
    """No process starts in so little memory."""
    folder = make_classifier(tmp_path)
    plans, hopeless = PlanCache(tmp_path / "plans"), Trial(seconds=60, memory_bytes=2**20)

    async def answers(servable: Servable) -> None:
        assert scores((await servable.predict(picture(9), ClassifyOptions(), FOREVER)).answer)

    with pytest.raises(InvalidModel, match=r"crashed the process|not enough memory"):
        serving(folder, answers, plans=plans, trial=hopeless)
    serving(folder, answers, plans=plans, trial=Trial(seconds=60, memory_bytes=8 * 2**30))
    serving(folder, answers, plans=plans, trial=hopeless)
