"""A running application with the tiny models."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.settings import Settings
from tests.api.service import Service

MAX_BODY = 300_000


@pytest.fixture(scope="session")
def service(model_root: Path) -> Iterator[Service]:
    """The real application, with limits small enough to be reached."""
    running = Service(
        Settings(
            models=model_root, device="cpu", threads=1, max_body_bytes=MAX_BODY, max_pixels=250_000, max_pictures=4
        )
    )
    yield running
    running.close()
