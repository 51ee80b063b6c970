"""The work folder: what benchmarks make and keep, ignored by git.

benchmarks/work/networks/      ONNX files with random weights, as peers run them
benchmarks/work/models/        the same as imago serves them, and links to shipped models: one folder a workload
benchmarks/work/pictures/      what is sent
benchmarks/work/environments/  one virtual environment a peer
benchmarks/work/results/       what was measured, as JSON lines
benchmarks/work/logs/          what servers and pip printed
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.shared import NETWORKS, Network
from benchmarks.pictures import PICTURES, write_pictures
from benchmarks.workloads import WORKLOADS, Workload

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Work:
    """The folders below one root."""

    root: Path = ROOT / "benchmarks" / "work"

    def folder(self, name: str) -> Path:
        """One of the folders above, made where it is missing."""
        path = self.root / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def network(self, name: str) -> Path:
        """The ONNX file of a network."""
        return self.folder("networks") / f"{name}.onnx"

    def models(self, workload: Workload) -> Path:
        """The folder that imago serves for a workload."""
        return self.folder("models") / workload.models

    def version(self, workload: Workload) -> Path:
        """The newest version of a workload's model."""
        home = self.models(workload) / workload.model
        return max((path for path in home.iterdir() if path.name.isdecimal()), key=lambda path: int(path.name))

    def picture(self, workload: Workload) -> bytes | None:
        """The picture that a workload sends."""
        return None if workload.picture is None else (self.folder("pictures") / workload.picture).read_bytes()

    def prepare(self) -> None:
        """Make what is missing of networks, models and pictures: a minute the first time."""
        for name, network in NETWORKS.items():
            if not self.network(name).exists():
                print(f"making the network {name}", flush=True)
                self._write_network(name)
            if not (self.folder("models") / name / name).exists():
                self._adopt(name, network)
        if not all((self.folder("pictures") / name).exists() for name in PICTURES):
            print("making the pictures", flush=True)
            write_pictures(self.folder("pictures"))
        for workload in WORKLOADS.values():
            if workload.network is None:
                self._link(workload)

    def _write_network(self, name: str) -> None:
        from benchmarks.networks import write_network  # torch takes seconds to import, and is needed once

        draft = self.network(name).with_suffix(".tmp")
        write_network(name, draft)
        draft.rename(self.network(name))

    def _adopt(self, name: str, network: Network) -> None:
        """Bring a foreign file to imago's contract, as an operator would."""
        command = [
            sys.executable, "-m", "training", "adopt", str(self.network(name)), "--name", name,
            "--models", str(self.folder("models") / name),
            "--mean", ",".join(map(str, network.mean)), "--std", ",".join(map(str, network.std)),
        ]  # fmt: skip
        subprocess.run(command, cwd=ROOT, check=True)

    def _link(self, workload: Workload) -> None:
        """A folder with a link to one shipped model: memory is measured with that model alone."""
        path = self.models(workload) / workload.model
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            path.symlink_to(ROOT / "models" / workload.model, target_is_directory=True)
