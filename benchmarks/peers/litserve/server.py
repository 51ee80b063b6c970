"""LitServe: decoding and inference in worker processes, batches gathered by its queue."""

from typing import Any

import litserve
import numpy as np
from fastapi import Request
from numpy.typing import NDArray

from benchmarks.peers.shared import Classifier, Settings, best_five

Array = NDArray[np.float32]


class Classify(litserve.LitAPI):
    """Pictures arrive as multipart uploads; rows leave as dictionaries."""

    def setup(self, device: str) -> None:
        """Open the session in each worker."""
        self.classifier = Classifier.from_environment()

    def decode_request(self, request: Request) -> Array:
        """Prepare one picture. What comes is the parsed form; the annotation tells LitServe that it is no JSON."""
        return self.classifier.prepare(request["file"].file.read())

    def batch(self, inputs: list[Array]) -> Array:
        """Stack prepared pictures."""
        return np.stack(inputs)

    def predict(self, inputs: Array) -> Array:
        """Run a batch, or a single picture where batching is off."""
        return self.classifier.run(inputs if inputs.ndim == 4 else inputs[None])

    def unbatch(self, output: Array) -> list[Array]:
        """One row for each picture."""
        return list(output)

    def encode_response(self, output: Array) -> dict[str, Any]:
        """The five best classes."""
        return best_five(output if output.ndim == 1 else output[0])


def main() -> None:
    """Serve on the CPU with one HTTP process."""
    settings = Settings.from_environment()
    api = Classify(max_batch_size=settings.max_batch, batch_timeout=settings.delay_ms / 1000, api_path="/predict")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=settings.workers, timeout=60)
    server.run(
        host="127.0.0.1", port=settings.port, num_api_servers=1, generate_client_file=False, log_level="warning",
        access_log=False,
    )  # fmt: skip


if __name__ == "__main__":
    main()
