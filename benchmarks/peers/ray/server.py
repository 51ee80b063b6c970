"""Ray Serve: replicas behind its HTTP proxy, batches gathered inside a replica."""

import os
import signal
from typing import Any

import ray
from ray import serve
from starlette.requests import Request

from benchmarks.peers.shared import Classifier, Settings

settings = Settings.from_environment()
QUIET = {"enable_access_log": False, "log_level": "WARNING"}


class Classify:
    """One replica; the body of a request is the picture."""

    def __init__(self) -> None:
        self.classifier = Classifier.from_environment()

    @serve.batch(max_batch_size=settings.max_batch, batch_wait_timeout_s=settings.delay_ms / 1000)
    async def answers(self, pictures: list[bytes]) -> list[dict[str, Any]]:
        """The five best classes of each picture."""
        return self.classifier.answers(pictures)

    async def __call__(self, request: Request) -> Any:
        """Answer one request with its row of a batch."""
        return await self.answers(await request.body())


def main() -> None:
    """Start a cluster of one machine without dashboard, and serve until the process is ended."""
    passed = {name: value for name, value in os.environ.items() if name.startswith(("PEER_", "BENCHMARK_"))}
    ray.init(
        num_cpus=os.cpu_count(), include_dashboard=False, log_to_driver=False, object_store_memory=300 * 2**20,
        _temp_dir=str(settings.scratch),
        runtime_env={"env_vars": {**passed, "PYTHONPATH": os.environ["PYTHONPATH"]}},
    )  # fmt: skip
    serve.start(http_options={"host": "127.0.0.1", "port": settings.port}, logging_config=QUIET)
    deployment = serve.deployment(
        Classify, num_replicas=settings.workers, max_ongoing_requests=256, ray_actor_options={"num_cpus": 0.5},
        logging_config=QUIET,
    )  # fmt: skip
    serve.run(deployment.bind(), route_prefix="/predict")
    signal.pause()


if __name__ == "__main__":
    main()
