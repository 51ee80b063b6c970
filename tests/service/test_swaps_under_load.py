"""Two versions take turns under load in a real server: no request fails, and every answer is wholly of one version."""

import asyncio
from pathlib import Path

import pytest

from benchmarks.server import running_server
from benchmarks.swaps import swap_under_load
from tests.make_models import COLOURS, make_classifier

pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory is read from /proc")


@pytest.mark.parametrize(
    ("workers", "serving"), [("1", ""), ("1", "concurrency = 1\n"), ("2", ""), ("2", "concurrency = 1\n")]
)
def test_ten_swaps_under_load_fail_no_request_and_mix_no_answer(tmp_path: Path, workers: str, serving: str) -> None:
    for version in (1, 2):
        make_classifier(tmp_path, version=version, labels=tuple(f"{colour}@{version}" for colour in COLOURS))
    (tmp_path / "tiny-classifier" / "serving.toml").write_text(serving)
    flags = ("--workers", workers, "--model-control", "--cache", str(tmp_path / "cache"), "--log-level", "error")
    with running_server(tmp_path, *flags) as server:
        seen = asyncio.run(swap_under_load(server, "tiny-classifier", swaps=10, rate=50, settling=0.2))
    assert seen.failed == []
    assert seen.mixed == []
    assert len(seen.swap_seconds) == 10
    assert seen.requests == sum(seen.versions.values())
    assert set(seen.versions) == {1, 2}
