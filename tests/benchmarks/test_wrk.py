"""What wrk is told, and what is read from what it prints."""

import shutil
from pathlib import Path

import pytest

from benchmarks.wrk import WrkFailed, parse, require_wrk, script

PRINTED = """Running 5s test @ http://127.0.0.1:8000/classify
  1 threads and 32 connections
Requests/sec:   2000.00
SUMMARY {"answers": 10000, "microseconds": 5000000, "refused": 2500, "broken": 3, "p50": 1500.0, "p99": 20250.5}
"""


def test_only_answers_that_were_not_refused_count_for_the_rate() -> None:
    load = parse(PRINTED, client_seconds=0.5)
    assert load.rate == 1500
    assert (load.refused, load.broken) == (2500, 3)


def test_latencies_are_milliseconds_and_the_client_s_share_is_in_cores() -> None:
    load = parse(PRINTED, client_seconds=0.5)
    assert (load.p50_ms, load.p99_ms, load.seconds) == (1.5, 20.2505, 5)
    assert load.client_cpu == pytest.approx(0.1)


def test_output_without_a_summary_is_an_error_that_repeats_its_end() -> None:
    with pytest.raises(WrkFailed, match="unable to connect"):
        parse("unable to connect to 127.0.0.1:1 Connection refused", 0)


def test_headers_reach_the_script_quoted() -> None:
    text = script(Path("/tmp/a body"), {"Content-Type": 'multipart/form-data; boundary="x"'})
    assert 'wrk.headers["Content-Type"] = "multipart/form-data; boundary=\\"x\\""' in text
    assert 'io.open("/tmp/a body", "rb")' in text


def test_without_wrk_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("wrk") is None
    with pytest.raises(WrkFailed, match="apt-get install wrk"):
        require_wrk()
