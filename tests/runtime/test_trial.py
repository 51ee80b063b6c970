"""A new graph is opened in a process of its own first: whatever it does there is the reason why it is not served."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from app.errors import InvalidModel
from app.runtime.trial import Trial
from tests.make_models import make_classifier
from tests.make_plain import doubled
from tests.runtime.endless import endless, graph_of
from tests.service.processes import until

pytestmark = pytest.mark.skipif(os.name != "posix", reason="a process is limited and killed")

TRIAL = Trial(seconds=60, memory_bytes=8 * 2**30)


def greedy() -> bytes:
    """Wants 64 GiB for a moment."""
    nodes = [
        helper.make_node("ConstantOfShape", ["much"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["zero"], keepdims=0),
        helper.make_node("Add", ["x", "zero"], ["y"]),
    ]
    return graph_of(nodes, much=np.int64([2**34]))


def test_a_graph_that_opens_and_runs_passes(tmp_path: Path) -> None:
    graph = (make_classifier(tmp_path) / "model.onnx").read_bytes()
    TRIAL.run(graph, {}, "cpu", "onnxruntime")


def test_a_graph_without_rows_is_run_in_its_own_shapes() -> None:
    TRIAL.run(doubled(2, 3).SerializeToString(), {}, "cpu", "onnxruntime")


def test_a_graph_that_cannot_be_opened_is_refused_with_its_reason() -> None:
    with pytest.raises(InvalidModel, match="ONNX Runtime does not take the graph"):
        TRIAL.run(b"no graph", {}, "cpu", "onnxruntime")
    with pytest.raises(InvalidModel, match="Backend 'tensorrt' is unknown"):
        TRIAL.run(b"no graph", {}, "cpu", "tensorrt")


def test_a_graph_that_never_comes_back_is_refused_after_its_time() -> None:
    before = children()
    with pytest.raises(InvalidModel, match=r"took longer than 3 s"):
        Trial(seconds=3, memory_bytes=8 * 2**30).run(endless(), {}, "cpu", "onnxruntime")
    assert children() <= before


def test_a_graph_that_takes_too_much_memory_is_refused() -> None:
    with pytest.raises(InvalidModel, match=r"not enough memory .* within 8589934592 bytes"):
        TRIAL.run(greedy(), {}, "cpu", "onnxruntime")


def test_a_service_that_stops_waits_for_no_graph() -> None:
    trial = Trial(seconds=60, memory_bytes=8 * 2**30)
    with ThreadPoolExecutor(1) as pool:
        before = children()
        trying = pool.submit(trial.run, endless(), {}, "cpu", "onnxruntime")
        until(lambda: bool(children() - before))
        trial.give_up()
        with pytest.raises(InvalidModel, match="SIGKILL"):
            trying.result(timeout=10)
        with pytest.raises(InvalidModel, match="SIGKILL"):
            trial.run(endless(), {}, "cpu", "onnxruntime")


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the process is found through /proc")
def test_a_crash_is_a_refusal_that_names_the_signal() -> None:
    """A graph that crashes ONNX Runtime is known to nobody here: the process gets the signal that it would."""
    before = children()
    with ThreadPoolExecutor(1) as pool:
        trying = pool.submit(TRIAL.run, endless(), {}, "cpu", "onnxruntime")
        until(lambda: bool(children() - before))
        (tried,) = children() - before
        os.kill(tried, signal.SIGSEGV)
        with pytest.raises(InvalidModel, match=r"crashed the process that tried to open it \(SIGSEGV\)"):
            trying.result()


def children() -> set[int]:
    """Processes that the threads of this one have started."""
    found: set[int] = set()
    for thread in threading.enumerate():
        try:
            listed = Path(f"/proc/self/task/{thread.native_id}/children").read_text()
        except OSError:  # it has ended
            continue
        found |= {int(pid) for pid in listed.split()}
    return found
