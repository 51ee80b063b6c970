"""mosec: a Rust HTTP front, and worker processes that decode and run whole batches."""

from typing import Any

from mosec import Server, Worker

from benchmarks.peers.shared import Classifier, Settings


class Classify(Worker):
    """Decoding and inference in one stage: faster than a stage each, which adds a hop between processes."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = Classifier.from_environment()

    def deserialize(self, data: bytes) -> bytes:
        """The body is the picture."""
        return data

    def forward(self, data: list[bytes]) -> list[dict[str, Any]]:
        """The five best classes of each picture."""
        return self.classifier.answers(data)


def main() -> None:
    """Serve; address and port come from mosec's own variables (`MOSEC_PORT`)."""
    settings = Settings.from_environment()
    server = Server()
    server.append_worker(
        Classify, num=settings.workers, max_batch_size=settings.max_batch, max_wait_time=int(settings.delay_ms),
        start_method="spawn",
    )  # fmt: skip
    server.run()


if __name__ == "__main__":
    main()
