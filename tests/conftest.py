"""What tests of several folders share: a folder of tiny real models."""

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests import make_models

# A test is the same each time; with `--hypothesis-profile long` it looks for what nobody has seen yet.
settings.register_profile("same", derandomize=True, database=None, deadline=None, max_examples=200)
settings.register_profile("long", database=None, deadline=None, max_examples=10_000)
settings.load_profile("same")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a test has logged, half letters and all, as text that can be sent to another process."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(scope="session", autouse=True)
def _no_cache() -> Iterator[None]:
    """Tests measure for themselves, and leave nothing in the cache of whoever runs them; the graphs that they make are
    not opened in a process of their own first, which takes a second each: `tests/runtime/test_trial.py` does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMAGO_CACHE", "")
        patch.setenv("IMAGO_TRIAL_SECONDS", "0")
        yield


@pytest.fixture(scope="session")
def model_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with a tiny model of each task."""
    root = tmp_path_factory.mktemp("models")
    for kind in ("classifier", "segmenter", "detector", "denoiser", "autoencoder", "embedder", "generator"):
        getattr(make_models, f"make_{kind}")(root)
    return root
