"""TorchServe: a Java front, and Python workers that run the handler of `handler.py`."""

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.peers.shared import Settings


def main() -> None:
    """Archive the handler, write the configuration, and become `torchserve --foreground`."""
    settings = Settings.from_environment()
    store = settings.scratch / "store"
    store.mkdir()
    binaries = Path(sys.executable).parent
    handler = Path(__file__).with_name("handler.py")
    archive = ["--model-name", "classify", "--version", "1.0", "--handler", str(handler), "--export-path", str(store)]
    subprocess.run([binaries / "torch-model-archiver", *archive], check=True)
    configuration = settings.scratch / "config.properties"
    configuration.write_text("".join(f"{key}={value}\n" for key, value in properties(settings, store).items()))
    os.chdir(settings.scratch)  # TorchServe writes its logs into the current folder
    command = binaries / "torchserve"
    where = ["--ts-config", str(configuration), "--model-store", str(store), "--models", "classify=classify.mar"]
    os.execv(command, [str(command), "--foreground", "--start", "--ncs", "--disable-token-auth", *where])


def properties(settings: Settings, store: Path) -> dict[str, object]:
    """The keys of `config.properties`."""
    model = {
        "defaultVersion": True, "marName": "classify.mar", "minWorkers": settings.workers,
        "maxWorkers": settings.workers, "batchSize": settings.max_batch, "maxBatchDelay": int(settings.delay_ms),
        "responseTimeout": 60,
    }  # fmt: skip
    return {
        "inference_address": f"http://127.0.0.1:{settings.port}",
        "management_address": f"http://127.0.0.1:{settings.port + 1}",
        "metrics_address": f"http://127.0.0.1:{settings.port + 2}",
        "grpc_inference_port": settings.port + 3,
        "grpc_management_port": settings.port + 4,
        "model_store": store,
        "load_models": "classify.mar",
        "disable_token_auth": "true",
        "max_request_size": 20_000_000,
        "job_queue_size": 1000,
        "disable_system_metrics": "true",
        "enable_envvars_config": "false",
        "models": json.dumps({"classify": {"1.0": model}}),
    }


if __name__ == "__main__":
    main()
