"""Two servers for all hostile requests, the same processes from the first to the last: one process with the formats
that are on by default, and two workers beside an engine with all formats and a low limit of pixels."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.settings import FORMATS
from benchmarks.server import running_server
from tests.hostile.asking import Watched, good_request
from tests.make_models import make_classifier

MAX_BODY = 8_000_000
QUIET = ("--log-level", "error", "--device", "cpu", "--threads", "1", "--max-body-bytes", str(MAX_BODY))


@pytest.fixture(scope="session")
def lone(model_root: Path) -> Iterator[Watched]:
    with running_server(model_root, "--workers", "1", *QUIET) as server:
        yield Watched(server, good_request())


@pytest.fixture(scope="session")
def several(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    root = tmp_path_factory.mktemp("near-and-far")
    make_classifier(root, "near")
    make_classifier(root, "far")
    (root / "far" / "serving.toml").write_text("concurrency = 1\n")
    flags = ("--workers", "2", "--formats", ",".join(FORMATS), "--max-pixels", "250000")
    with running_server(root, *flags, *QUIET) as server:
        yield Watched(server, good_request(b"/classify?model=near"), good_request(b"/classify?model=far"))
