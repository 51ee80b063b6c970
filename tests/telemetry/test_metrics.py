"""Metrics of one process against the Prometheus client library, and of several against arithmetic."""

from collections.abc import Callable, Iterable
from typing import Any

import prometheus_client as library
import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.samples import Sample

from app.telemetry.board import Board
from app.telemetry.metrics import Metrics
from tests.telemetry.forked import Forked

SECONDS = [0.0, 0.00005, 0.0001, 0.00011, 0.0021, 0.1, 2.5, 29.9, 30.0, 31.0, 1e9]
MODEL = {"task": "classify", "model": "m"}


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def exposed(registry: library.CollectorRegistry) -> dict[str, tuple[str, str, list[Sample]]]:
    """Type, text and samples of every `imago_` family."""
    return {
        family.name: (
            family.type,
            family.documentation,
            [sample for sample in family.samples if not sample.name.endswith("_created")],
        )
        for family in registry.collect()
        if family.name.startswith("imago_")
    }


def test_one_process_exposes_what_the_library_would() -> None:
    names, registry = ("task", "model"), library.CollectorRegistry()
    requests = library.Counter(
        "imago_requests", "Requests answered, by status code.", (*names, "status"), registry=registry
    )
    decode = library.Histogram(
        "imago_decode_seconds", "Decoding and fitting one picture.", names, registry=registry,
        buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
    )  # fmt: skip
    rows = library.Histogram(
        "imago_batch_size", "Rows in one run of a session.", names, registry=registry,
        buckets=(1, 2, 4, 8, 16, 32, 64, 128),
    )  # fmt: skip
    depth = library.Gauge("imago_queue_depth", "Rows waiting for a session.", names, registry=registry)
    loaded = library.Gauge("imago_models_loaded", "Model versions ready to answer.", registry=registry)
    metrics = Metrics()
    for either in ((requests, decode, rows, depth, loaded), _families(metrics)):
        _observe(*either)
    expected, found = exposed(registry), exposed(metrics.registry)
    assert {name: found[name] for name in expected} == expected


def _families(metrics: Metrics) -> tuple[Any, ...]:
    return metrics.requests, metrics.decode, metrics.batch_size, metrics.queue_depth, metrics.models_loaded


def _observe(requests: Any, decode: Any, rows: Any, depth: Any, loaded: Any) -> None:
    """The same calls of either implementation."""
    for status in ("200", "200", "503"):
        requests.labels("classify", "m", status).inc()
    requests.labels("segment", 'quoted "name"\\', "200").inc(2.5)
    for seconds in SECONDS:
        decode.labels("classify", "m").observe(seconds)
    for size in (1, 3, 16, 128, 129):
        rows.labels("classify", "m").observe(size)
    rows.labels("classify", "idle")
    depth.labels("classify", "m").set(5)
    depth.labels("classify", "m").set(4)
    loaded.set(2)


def test_every_family_is_exposed_before_anything_was_observed() -> None:
    assert len(exposed(Metrics().registry)) == 19
    assert value(Metrics(), "imago_models_loaded") == 0


def test_the_metrics_of_a_model_are_those_of_its_labels() -> None:
    metrics = Metrics()
    of = metrics.of("classify", "m", 1)
    for stage in (of.decode, of.queue, of.inference, of.encode):
        stage.observe(0.25)
    of.batch_size.observe(3)
    of.queue_depth.set(7)
    for counter, times in ((of.rejected, 1), (of.expired, 2), (of.cancelled, 3)):
        for _ in range(times):
            counter.inc()
    for name in ("decode", "queue", "inference", "encode"):
        assert value(metrics, f"imago_{name}_seconds_sum", **MODEL) == 0.25
    assert value(metrics, "imago_batch_size_sum", **MODEL) == 3
    assert value(metrics, "imago_queue_depth", **MODEL) == 7
    assert value(metrics, "imago_rejected_total", **MODEL, reason="overloaded") == 1
    assert value(metrics, "imago_rejected_total", **MODEL, reason="deadline") == 2
    assert value(metrics, "imago_cancelled_total", **MODEL) == 3


def test_a_second_version_of_a_model_goes_on_with_the_same_series() -> None:
    metrics = Metrics()
    for _ in range(2):
        metrics.of("classify", "m", 1).cancelled.inc()
    assert value(metrics, "imago_cancelled_total", **MODEL) == 2


@pytest.mark.parametrize("values", [(), ("classify",), ("classify", "m", "200", "more")])
def test_labels_without_their_number_of_values_are_refused(values: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"imago_requests has the labels \('task', 'model', 'status'\)"):
        Metrics().requests.labels(*values)


@pytest.mark.parametrize(
    ("accept", "parse"),
    [("", parse_text), ("application/openmetrics-text; version=1.0.0", parse_openmetrics)],
    ids=["text", "OpenMetrics"],
)
def test_both_formats_hold_every_value(accept: str, parse: Callable[[str], Iterable[Metric]]) -> None:
    metrics = Metrics()
    metrics.requests.labels("classify", 'odd "Ü"\n\\', "200").inc()
    metrics.decode.labels("classify", "m").observe(0.3)
    body, media_type = metrics.render(accept)
    assert media_type.startswith(accept.split(";")[0])
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse(body.decode())
        for sample in family.samples
    }
    odd = (("model", 'odd "Ü"\n\\'), ("status", "200"), ("task", "classify"))
    assert samples["imago_requests_total", odd] == 1
    series = (("model", "m"), ("task", "classify"))
    assert samples["imago_decode_seconds_bucket", (("le", "0.25"), *series)] == 0
    assert samples["imago_decode_seconds_bucket", (("le", "0.5"), *series)] == 1
    assert samples["imago_decode_seconds_bucket", (("le", "+Inf"), *series)] == 1
    assert samples["imago_decode_seconds_sum", series] == 0.3
    assert not any(name.endswith("_created") for name, _ in samples)


def test_whichever_process_is_asked_answers_for_all() -> None:
    board = Board(3)

    def serve(slot: int) -> Metrics:
        metrics = Metrics(board, slot)
        for _ in range(10**slot):
            metrics.requests.labels("classify", "m", "200").inc()
            metrics.request_seconds.labels("classify", "m").observe(0.5 * slot)
        metrics.requests.labels("classify", "m", f"50{slot}").inc()
        return metrics

    here = serve(0)

    def answer() -> None:
        assert value(serve(2), "imago_requests_total", **MODEL, status="200") == 111

    with Forked(lambda: serve(1)) as first, first.finished(), Forked(answer) as second, second.finished():
        assert value(here, "imago_requests_total", **MODEL, status="200") == 111
        assert [value(here, "imago_requests_total", **MODEL, status=f"50{slot}") for slot in range(3)] == [1, 1, 1]
        edges = {"0.001": 1, "0.25": 1, "0.5": 11, "1.0": 111, "+Inf": 111}
        for edge, count in edges.items():
            assert value(here, "imago_request_duration_seconds_bucket", **MODEL, le=edge) == count
        assert value(here, "imago_request_duration_seconds_count", **MODEL) == 111
        assert value(here, "imago_request_duration_seconds_sum", **MODEL) == 105


def test_queues_add_up_and_models_do_not() -> None:
    """Each process has a queue of its own, and all have the same models."""
    board = Board(3)
    for slot, (waiting, loaded) in enumerate([(3, 2), (0, 4), (4, 3)]):
        metrics = Metrics(board, slot)
        metrics.of("classify", "m", 1).queue_depth.set(waiting)
        metrics.models_loaded.set(loaded)
    assert value(metrics, "imago_queue_depth", **MODEL) == 7
    assert value(metrics, "imago_models_loaded") == 4


def test_a_killed_and_replaced_process_takes_nothing_back() -> None:
    """Counted since the start of the service; what it was doing when it was killed is over."""
    board = Board(2)
    here = Metrics(board, 0)
    here.requests.labels("classify", "m", "200").inc()

    def serve() -> None:
        metrics = Metrics(board, 1)
        for _ in range(5):
            metrics.requests.labels("classify", "m", "200").inc()
            metrics.decode.labels("classify", "m").observe(0.2)
        metrics.queue_depth.labels("classify", "m").set(9)
        metrics.models_loaded.set(3)

    def idle() -> None:
        Metrics(board, 1)

    def counted() -> tuple[float | None, float | None, float | None, float | None]:
        return (
            value(here, "imago_requests_total", **MODEL, status="200"),
            value(here, "imago_decode_seconds_count", **MODEL),
            value(here, "imago_queue_depth", **MODEL),
            value(here, "imago_models_loaded"),
        )

    with Forked(serve) as first:
        first.finished()
        assert counted() == (6, 5, 9, 3)
    assert counted()[:2] == (6, 5)
    with Forked(idle) as second:
        second.finished()
        assert counted() == (6, 5, 0, 0)
    with Forked(serve) as third:
        third.finished()
        assert counted() == (11, 10, 9, 3)
