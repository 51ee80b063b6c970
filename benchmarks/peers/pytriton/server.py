"""PyTriton: NVIDIA Triton's HTTP server and batcher in front of Python callables."""

import json

import numpy as np
from numpy.typing import NDArray
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from benchmarks.peers.shared import Classifier, Settings


def main() -> None:
    """Serve one model under KServe's protocol v2; encoded pictures arrive as BYTES."""
    settings = Settings.from_environment()
    classifier = Classifier.from_environment()

    @batch
    def classify(image: NDArray[np.bytes_]) -> dict[str, NDArray[np.object_]]:
        answers = classifier.answers([row[0] for row in image])
        return {"top5": np.array([[json.dumps(answer).encode()] for answer in answers], dtype=object)}

    where = TritonConfig(
        http_port=settings.port, http_address="127.0.0.1", allow_grpc=False, allow_metrics=False, http_thread_count=8
    )
    batcher = DynamicBatcher(max_queue_delay_microseconds=int(settings.delay_ms * 1000))
    with Triton(config=where) as triton:
        triton.bind(
            model_name="classify",
            infer_func=[classify] * settings.workers,
            inputs=[Tensor(name="image", dtype=bytes, shape=(1,))],
            outputs=[Tensor(name="top5", dtype=bytes, shape=(1,))],
            config=ModelConfig(max_batch_size=settings.max_batch, batcher=batcher),
            strict=False,
        )
        triton.serve()


if __name__ == "__main__":
    main()
