"""From stacks to the steps of a request, and to microseconds."""

from collections import Counter

import pytest

from benchmarks.steps import OTHER, OUTSIDE, Samples, microseconds, step_of

LOOP = "<module> (imago);Server.run (uvicorn/server.py);Runner.run (asyncio/runners.py)"


@pytest.mark.parametrize(
    ("stack", "step"),
    [
        (LOOP, "socket, event loop, HTTP parsing"),
        (f"{LOOP};_run_rows (app/scheduling/batcher.py);Session.run (onnxruntime/x.py)", "inference (ONNX Runtime)"),
        (f"{LOOP};decode (app/imaging/codec.py);load (PIL/ImageFile.py)", "decode and fit the picture"),
        (f"{LOOP};encode_png (app/imaging/codec.py);save (PIL/Image.py)", "encode or draw a picture"),
        (f"{LOOP};Classify.interpret (app/tasks/classify.py)", "interpret the outputs"),
        (f"{LOOP};json_body (app/api/task_routes.py)", "JSON"),
        (f"{LOOP};headers_for (app/api/middleware.py)", "answer: headers and send"),
        (f"{LOOP};call_from_query (app/api/calls.py)", "query and options"),
        (f"{LOOP};Histogram.observe (app/telemetry/families.py)", "metrics and log"),
        (f"{LOOP};endpoint (app/api/task_routes.py)", "route and middleware (ASGI)"),
        ("main (stranger.py)", OTHER),
    ],
)
def test_a_stack_belongs_to_the_innermost_frame_that_a_rule_knows(stack: str, step: str) -> None:
    assert step_of(stack) == step


def test_a_thread_that_waits_for_work_belongs_to_no_step() -> None:
    assert step_of("Thread.run (threading.py);_worker (concurrent/futures/thread.py)") is None


def test_what_a_pool_thread_works_on_counts() -> None:
    stack = "Thread.run (threading.py);_worker (concurrent/futures/thread.py);decode (app/imaging/codec.py)"
    assert step_of(stack) == "decode and fit the picture"


def test_samples_are_counted_by_thread_and_strangers_are_kept_by_name() -> None:
    seen = Samples()
    seen.add([f"thread (11): MainThread;{LOOP} 30", "thread (12): pool;main (stranger.py) 4", ""])
    assert seen.steps == {11: Counter({"socket, event loop, HTTP parsing": 30}), 12: Counter({OTHER: 4})}
    assert seen.unknown == Counter({"main (stranger.py)": 4})


def test_the_time_of_each_thread_is_shared_out_by_its_own_samples() -> None:
    seen = Samples({11: Counter({"JSON": 3, "body": 1}), 12: Counter({"JSON": 100})})
    costs = microseconds(seen, {11: 4.0, 12: 0.0}, requests=1_000_000)
    assert costs["JSON"] == pytest.approx(3)
    assert costs["body"] == pytest.approx(1)


def test_a_thread_that_was_never_seen_is_outside_python_and_nothing_gets_lost() -> None:
    costs = microseconds(Samples({11: Counter({"JSON": 1})}), {11: 1.0, 99: 2.0}, requests=1_000_000)
    assert costs[OUTSIDE] == pytest.approx(2)
    assert sum(costs.values()) == pytest.approx(3)
