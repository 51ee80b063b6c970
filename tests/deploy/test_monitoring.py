"""Every query of dashboard and alerts, asked of a real Prometheus that scrapes a real server under traffic."""

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

from app.imaging.codec import encode_png
from app.telemetry.metrics import Metrics
from benchmarks.server import running_server
from tests.deploy.prometheus import DEPLOY, Prometheus, running_prometheus
from tests.make_models import make_classifier, make_generator, make_segmenter

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="Prometheus is not installed: apt-get install prometheus"
)
DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboards" / "imago.json").read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
ALERTS = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))["groups"][0]["rules"]


def substituted(expression: str, task: str = ".*", model: str = ".*") -> str:
    """A query of the dashboard as Grafana sends it, by default with `All` chosen."""
    return expression.replace("$__rate_interval", "10s").replace("$task", task).replace("$model", model)


QUERIES = {f"{panel['title']} {target['refId']}": target["expr"] for panel in PANELS for target in panel["targets"]}
EXPRESSIONS = {alert["alert"]: alert["expr"] for alert in ALERTS}
OF_KEYS = "imago_access_refused_total"
"""Has no series where the service asks nobody for a key, as the one that is watched here."""
SELECTORS = sorted(
    {
        found
        for expression in [*map(substituted, QUERIES.values()), *EXPRESSIONS.values()]
        for found in re.findall(r"\b(?:up|imago_\w+|process_\w+)\b(?:\{[^}]*\})?", expression)
    }
)


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus beside a server that answers and fails: one of its four models is broken."""
    root = tmp_path_factory.mktemp("models")
    for make in (make_classifier, make_segmenter, make_generator):
        make(root)
    make_classifier(root, version=2)
    (root / "tiny-classifier" / "serving.toml").write_text("aliases = { stable = 1 }\nshadow = { version = 2 }\n")
    (make_classifier(root, name="broken") / "model.onnx").write_bytes(b"")
    stop = threading.Event()
    flags = ("--jobs-dir", str(tmp_path_factory.mktemp("jobs")), "--log-level", "error")
    with (
        running_server(root, *flags) as server,
        running_prometheus(server.url.removeprefix("http://"), tmp_path_factory.mktemp("prometheus")) as running,
    ):
        crowd = threading.Thread(target=_keep_asking, args=(server.url, stop))
        crowd.start()
        try:
            yield running
        finally:
            stop.set()
            crowd.join()


def _keep_asking(url: str, stop: threading.Event) -> None:
    """All tasks in turn, and a model that answers 503, a few times a second until told to stop."""
    picture = encode_png(np.zeros((8, 8, 3), np.uint8))
    with httpx.Client(base_url=url, timeout=30) as client:
        while not stop.wait(0.2):
            assert client.post("/classify", content=picture).status_code == 200
            assert client.post("/segment", content=picture).status_code == 200
            assert client.post("/generate", json={"count": 3}).status_code == 200
            assert client.post("/classify?model=broken", content=picture).status_code == 503


@needs_prometheus
@pytest.mark.parametrize("panel", [panel for panel, query in QUERIES.items() if OF_KEYS not in query])
def test_a_query_of_the_dashboard_finds_numbers(prometheus: Prometheus, panel: str) -> None:
    assert prometheus.wait_for(substituted(QUERIES[panel]))


@needs_prometheus
def test_a_chosen_task_and_model_narrow_the_dashboard(prometheus: Prometheus) -> None:
    chosen = substituted(QUERIES["Requests by task and status A"], task="segment", model="tiny-segmenter")
    assert [series["metric"] for series in prometheus.wait_for(chosen)] == [{"task": "segment", "status": "200"}]


@needs_prometheus
def test_the_variables_of_the_dashboard_list_tasks_and_models(prometheus: Prometheus) -> None:
    offered = {}
    for variable in DASHBOARD["templating"]["list"][1:]:
        metric, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"]).groups()
        assert prometheus.wait_for(substituted(metric))
        offered[variable["name"]] = prometheus.get(f"label/{label}/values", **{"match[]": substituted(metric)})
    assert offered == {
        "task": ["classify", "generate", "segment"],
        "model": ["tiny-classifier", "tiny-generator", "tiny-segmenter"],
    }


@needs_prometheus
@pytest.mark.parametrize("selector", [selector for selector in SELECTORS if OF_KEYS not in selector])
def test_a_selector_finds_series(prometheus: Prometheus, selector: str) -> None:
    """A whole query may hide a misspelt name behind `or` or under a sum."""
    assert prometheus.wait_for(selector)


@needs_prometheus
@pytest.mark.parametrize("name", EXPRESSIONS)
def test_an_alert_measures_something_and_its_text_finds_its_labels(prometheus: Prometheus, name: str) -> None:
    measured = re.sub(r"\s(==|>)\s[\d.]+", "", EXPRESSIONS[name])
    assert measured != EXPRESSIONS[name]
    (text,) = (alert["annotations"]["description"] for alert in ALERTS if alert["alert"] == name)
    wanted = set(re.findall(r"\$labels\.(\w+)", text))
    assert any(wanted <= set(series["metric"]) for series in prometheus.wait_for(measured))


@needs_prometheus
def test_prometheus_scrapes_and_evaluates_without_an_error(prometheus: Prometheus) -> None:
    assert prometheus.wait_for("up == 1")
    (target,) = prometheus.get("targets")["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
    assert prometheus.wait_for('ALERTS{alertname="ImagoErrors"} offset 2s')  # all rules ran since
    rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"]: (rule["health"], rule.get("lastError", "")) for rule in rules} == dict.fromkeys(
        EXPRESSIONS, ("ok", "")
    )


@needs_prometheus
def test_failing_requests_raise_an_alert_and_nothing_else_does(prometheus: Prometheus) -> None:
    assert prometheus.wait_for('ALERTS{alertname="ImagoErrors"}')
    assert {series["metric"]["alertname"] for series in prometheus.query("ALERTS")} == {"ImagoErrors"}


@needs_prometheus
@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", DEPLOY / "prometheus" / "prometheus.yml"),
        ("test", "rules", Path(__file__).with_name("alerts.yml")),
    ],
    ids=["configuration", "alerts"],
)
def test_promtool_agrees(arguments: tuple[str | Path, ...]) -> None:
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_metric_of_the_service_is_on_the_dashboard() -> None:
    shown = " ".join(QUERIES.values())
    exported = [family.name for family in Metrics().registry.collect() if family.name.startswith("imago_")]
    assert len(exported) >= 11
    assert [name for name in exported if name not in shown] == []


def test_every_alert_says_how_bad_it_is_what_it_is_and_what_to_do() -> None:
    for alert in ALERTS:
        assert alert["labels"]["severity"] in ("critical", "warning")
        assert set(alert["annotations"]) == {"summary", "description"}
        assert alert["for"]


def test_panels_lie_side_by_side_and_have_titles_and_ids_of_their_own() -> None:
    cells: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        place: dict[str, Any] = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert cells.setdefault((x, y), panel["title"]) == panel["title"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert all(target["datasource"]["uid"] == "${datasource}" for panel in PANELS for target in panel["targets"])
