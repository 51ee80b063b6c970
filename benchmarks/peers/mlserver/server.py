"""MLServer: its runtime class in worker processes, behind KServe's protocol v2 in JSON."""

import json
import os
import sys
from pathlib import Path

from mlserver import MLModel
from mlserver.codecs import Base64Codec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.peers.shared import Classifier, Settings


class Classify(MLModel):
    """Pictures arrive in base64 inside JSON."""

    async def load(self) -> bool:
        """Open the session in each worker."""
        self.classifier = Classifier.from_environment()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """The five best classes of each picture, as JSON strings."""
        answers = self.classifier.answers(Base64Codec.decode_input(payload.inputs[0]))
        output = StringCodec.encode_output("top5", [json.dumps(answer) for answer in answers])
        return InferenceResponse(model_name=self.name, outputs=[output])


def main() -> None:
    """Write the two files that MLServer reads, and become `mlserver start`."""
    settings = Settings.from_environment()
    server = {
        "debug": False, "host": "127.0.0.1", "http_port": settings.port, "grpc_port": settings.port + 1,
        "metrics_port": settings.port + 2, "metrics_endpoint": None, "parallel_workers": settings.workers,
    }  # fmt: skip
    model = {
        "name": "classify", "implementation": "benchmarks.peers.mlserver.server.Classify",
        "max_batch_size": settings.max_batch, "max_batch_time": settings.delay_ms / 1000,
    }  # fmt: skip
    (settings.scratch / "settings.json").write_text(json.dumps(server))
    (settings.scratch / "model-settings.json").write_text(json.dumps(model))
    command = Path(sys.executable).with_name("mlserver")
    os.execv(command, [str(command), "start", str(settings.scratch)])


if __name__ == "__main__":
    main()
