"""KServe's own client against a server process. Its pins are not ours, so it has an environment of its own."""

import os
import subprocess
from pathlib import Path

import pytest

from benchmarks.server import running_server
from tests.service.test_tritonclient_grpc import rpc_address

SCRIPT = Path(__file__).with_name("kserve_client.py")
PYTHON = os.environ.get("KSERVE_PYTHON", "")


@pytest.mark.skipif(not PYTHON, reason="KSERVE_PYTHON names no interpreter that has kserve 0.21.0")
@pytest.mark.parametrize("workers", ["1", "2"])
def test_kserve_s_client_gets_what_it_asks_for(model_root: Path, workers: str) -> None:
    with running_server(model_root, "--workers", workers, "--grpc-port", "0", "--log-level", "error") as server:
        command = [PYTHON, SCRIPT, server.url, rpc_address(server)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.endswith("all well\n"), done.stdout + done.stderr
