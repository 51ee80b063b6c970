"""The servers that are compared: how each is started, what it is sent, and how its answer is read.

Settings of the peers are those that were quickest for each of them when they were tuned (batch sizes, delays, workers,
threads); what is written here differs from their defaults for that reason only.
"""

import os
import shlex
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.answers import Answer, read_imago, read_peer
from benchmarks.forms import Body, Multipart, Request, protocol_binary, protocol_json, raw
from benchmarks.machine import CORES
from benchmarks.work import ROOT, Work
from benchmarks.workloads import Workload, media_type


@dataclass(frozen=True)
class Start:
    """What starts a server: a command, and variables beside those of this process."""

    command: tuple[str, ...]
    variables: Mapping[str, str]


@dataclass(frozen=True)
class Server(ABC):
    """One server with its settings."""

    name: str
    environment: str
    """Name of its environment; empty where it runs in that of this process."""

    @abstractmethod
    def serves(self, workload: Workload) -> bool:
        """Whether it has the task."""

    @abstractmethod
    def start(self, workload: Workload, work: Work, home: Path | None, port: int, scratch: Path) -> Start:
        """How it is started for a workload: `home` is its environment, `scratch` an empty folder."""

    @abstractmethod
    def request(self, workload: Workload, picture: bytes | None) -> Request:
        """What it is sent."""

    @abstractmethod
    def read(self, workload: Workload, body: bytes) -> Answer:
        """What it answered. Raises `Unreadable`."""


@dataclass(frozen=True)
class Imago(Server):
    """imago as an operator starts it, with flags of one's choice."""

    flags: tuple[str, ...] = ()

    def serves(self, workload: Workload) -> bool:
        """Everything."""
        return True

    def start(self, workload: Workload, work: Work, home: Path | None, port: int, scratch: Path) -> Start:
        """`imago serve` on the folder of one model."""
        command = Path(sys.executable).with_name("imago")
        models = ("--models", str(work.models(workload)), "--log-level", "warning", "--port", str(port))
        return Start((str(command), "serve", *models, *self.flags), {})

    def request(self, workload: Workload, picture: bytes | None) -> Request:
        """The workload's own."""
        return workload.request(picture)

    def read(self, workload: Workload, body: bytes) -> Answer:
        """A class, or the picture as it is."""
        return body if workload.accept == "image/png" else read_imago(body)


@dataclass(frozen=True)
class Peer(Server):
    """A script of `benchmarks/peers/` in the environment of the same name."""

    script: str
    path: str = "/predict"
    form: Body = raw
    workers: int = CORES
    threads: int = 1
    max_batch: int = 16
    delay_ms: float = 1
    variables: Mapping[str, str] = field(default_factory=dict)
    by_network: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Variables that are better for one network."""

    def serves(self, workload: Workload) -> bool:
        """Classification of a picture that may come in any form."""
        return workload.for_all

    def start(self, workload: Workload, work: Work, home: Path | None, port: int, scratch: Path) -> Start:
        """Run the script as a module of this repository, in its own environment."""
        assert workload.network is not None
        python = Path(sys.executable) if home is None else home / "bin" / "python"
        variables = {
            "PEER_NETWORK": workload.network, "PEER_FILE": str(work.network(workload.network)),
            "PEER_PORT": str(port), "PEER_SCRATCH": str(scratch), "PEER_WORKERS": str(self.workers),
            "PEER_THREADS": str(self.threads), "PEER_MAX_BATCH": str(self.max_batch),
            "PEER_DELAY_MS": str(self.delay_ms), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
            "PATH": f"{python.parent}:{os.environ['PATH']}", **self.variables,
            **self.by_network.get(workload.network, {}),
        }  # fmt: skip
        filled = {
            name: value.replace("{port}", str(port)).replace("{scratch}", str(scratch))
            for name, value in variables.items()
        }
        return Start((str(python), "-m", f"benchmarks.peers.{self.script}.server"), filled)

    def request(self, workload: Workload, picture: bytes | None) -> Request:
        """The picture in the form that this server takes."""
        assert picture is not None
        return Request(self.path, *self.form(picture, media_type(workload.picture)))

    def read(self, workload: Workload, body: bytes) -> Answer:
        """The best of the five classes."""
        return read_peer(body)


_MOSEC = {
    "MOSEC_PORT": "{port}", "MOSEC_ADDRESS": "127.0.0.1", "MOSEC_PATH": "{scratch}/mosec", "MOSEC_TIMEOUT": "60000",
    "MOSEC_LOG_LEVEL": "warning",
}  # fmt: skip
_PROTOCOL_PATH = "/v2/models/classify/infer"

_PEERS: Final = (
    Peer("fastapi", "fastapi", "fastapi", form=Multipart("file"), workers=1, threads=0),
    Peer("fastapi-workers", "fastapi", "fastapi", form=Multipart("file")),
    Peer(
        "litserve", "litserve", "litserve", form=Multipart("file"), delay_ms=2,
        by_network={"tiny": {"PEER_WORKERS": "1", "PEER_MAX_BATCH": "32"}},
    ),
    Peer(
        "bentoml", "bentoml", "bentoml", form=Multipart("images"),
        variables={"BENTOML_DO_NOT_TRACK": "True", "PEER_LATENCY_MS": "2000"},
        by_network={"resnet50": {"PEER_LATENCY_MS": "30000"}},  # with 2000 it refuses nearly everything
    ),
    Peer(
        "ray", "ray", "ray", delay_ms=2,
        variables={"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1", "RAY_USAGE_STATS_ENABLED": "0"},
        by_network={"tiny": {"PEER_WORKERS": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "0"}},
    ),
    Peer("mosec", "mosec", "mosec", "/inference", variables=_MOSEC),
    Peer("mosec-batch-8", "mosec", "mosec", "/inference", max_batch=8, variables=_MOSEC),
    Peer(
        "pytriton", "pytriton", "pytriton", _PROTOCOL_PATH, protocol_binary,
        by_network={"tiny": {"PEER_MAX_BATCH": "32", "PEER_DELAY_MS": "2"}},
    ),
    Peer("mlserver", "mlserver", "mlserver", _PROTOCOL_PATH, protocol_json, delay_ms=2),
    Peer(
        "torchserve", "torchserve", "torchserve", "/predictions/classify",
        variables={"TS_DISABLE_SYSTEM_METRICS": "true"},
    ),
)  # fmt: skip


def servers(imago_flags: str = "") -> dict[str, Server]:
    """All servers by name, imago with flags as they are typed."""
    imago = Imago("imago", "imago", tuple(shlex.split(imago_flags)))
    return {server.name: server for server in (imago, *_PEERS)}
