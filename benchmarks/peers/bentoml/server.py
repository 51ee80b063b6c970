"""BentoML: a batchable API in worker processes."""

import os
import sys
from pathlib import Path
from typing import Any

import bentoml
import numpy as np
from PIL.Image import Image

from benchmarks.peers.shared import Classifier, Settings, best_five

settings = Settings.from_environment()
# BentoML refuses with 503 what it expects to answer later than this; its adaptive batching has no other delay.
LATENCY_MS = int(os.environ["PEER_LATENCY_MS"])


@bentoml.service(
    workers=settings.workers,
    threads=1,
    traffic={"timeout": 60, "max_concurrency": 1000},
    logging={"access": {"enabled": False}},
)
class Classify:
    """Pictures arrive as multipart uploads, opened by BentoML."""

    def __init__(self) -> None:
        self.classifier = Classifier.from_environment()

    @bentoml.api(batchable=True, max_batch_size=settings.max_batch, max_latency_ms=LATENCY_MS, route="/predict")
    def predict(self, images: list[Image]) -> list[dict[str, Any]]:
        """The five best classes of each picture."""
        prepared = np.stack([self.classifier.prepare_opened(image) for image in images])
        return [best_five(row) for row in self.classifier.run(prepared)]


def main() -> None:
    """Become `bentoml serve` on this module."""
    command = Path(sys.executable).with_name("bentoml")
    service = "benchmarks.peers.bentoml.server:Classify"
    os.execv(command, [str(command), "serve", service, "--host", "127.0.0.1", "--port", str(settings.port)])


if __name__ == "__main__":
    main()
