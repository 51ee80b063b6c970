"""What a TorchServe worker calls for each batch."""

from functools import cache
from typing import Any

from benchmarks.peers.shared import Classifier


@cache
def classifier() -> Classifier:
    """The session of this worker, opened at the first batch."""
    return Classifier.from_environment()


def handle(data: list[dict[str, Any]] | None, context: Any) -> list[dict[str, Any]] | None:
    """The five best classes of each picture; TorchServe calls once without data to warm up."""
    if data is None:
        return None
    return classifier().answers([bytes(row.get("data") or row.get("body") or b"") for row in data])
