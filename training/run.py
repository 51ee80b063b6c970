"""Run: the folder of one training run and its record, `run.json`.

RUN/run.json                 recipe, hyper-parameters, command, versions, hardware, seconds, last metrics
RUN/checkpoints/last.ckpt    everything needed to go on
RUN/tensorboard/             curves
"""

import json
import os
import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


class RunRefused(Exception):
    """A run folder cannot be used for what was asked; the sentence says why."""


@dataclass(frozen=True)
class Run:
    """One run's folder."""

    folder: Path

    @property
    def checkpoint(self) -> Path:
        """Where the last state is kept."""
        return self.folder / "checkpoints" / "last.ckpt"

    @property
    def record_path(self) -> Path:
        """Where the record is kept."""
        return self.folder / "run.json"

    def begin(self, recipe: str, hyper: dict[str, Any], command: str, resume: bool) -> None:
        """Write the first record, or check that a resumed run asks for the same thing.

        RunRefused where nothing can be resumed, other hyper-parameters were asked for, or a run is already there, or
        finished.
        """
        if resume:
            self._check_same(recipe, hyper)
            return
        if self.checkpoint.exists():
            raise RunRefused(
                f"{self.folder} holds a run already: fit --resume goes on with it, or choose another --out"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        self.write(
            {
                "recipe": recipe,
                "hyper": hyper,
                "command": command,
                "hardware": hardware(),
                "torch": torch.__version__,
                "seconds": 0.0,
                "finished": False,
            }
        )

    def _check_same(self, recipe: str, hyper: dict[str, Any]) -> None:
        if not self.checkpoint.is_file():
            raise RunRefused(f"{self.folder} holds no checkpoint to resume from")
        record = self.read()
        if record["recipe"] != recipe:
            raise RunRefused(f"{self.folder} is a run of {record['recipe']}, not of {recipe}")
        begun = record["hyper"]
        changed = sorted(key for key in hyper if hyper[key] != begun.get(key))
        if changed:
            values = ", ".join(f"{key} ({begun.get(key)!r}, now {hyper[key]!r})" for key in changed)
            raise RunRefused(f"{self.folder} was started with other values of {values}")
        if record["finished"]:
            raise RunRefused(f"{self.folder} is finished: export it, or choose another --out")

    def learns(self, labels: Sequence[str]) -> None:
        """Record what the run tells apart; RunRefused where it is resumed, and told other things apart before."""
        self.check_labels(labels)
        self.update(labels=list(labels))

    def check_labels(self, labels: Sequence[str]) -> None:
        """Nothing, where the run tells these apart; RunRefused where it learned others, or in another order."""
        known = self.read().get("labels", list(labels))
        if known != list(labels):
            raise RunRefused(f"{self.folder} learned {_named(known)}; the data have {_named(labels)}")

    def read(self) -> dict[str, Any]:
        """The record; RunRefused where there is none."""
        try:
            record: dict[str, Any] = json.loads(self.record_path.read_text())
        except (OSError, ValueError) as error:
            raise RunRefused(f"{self.record_path} is no readable record of a run ({error})") from error
        return record

    def update(self, **values: Any) -> None:
        """Add to the record."""
        self.write(self.read() | values)

    def write(self, record: dict[str, Any]) -> None:
        """Replace the record in one step."""
        draft = self.record_path.with_suffix(".tmp")
        draft.write_text(json.dumps(record, indent=2) + "\n")
        draft.replace(self.record_path)

    def weights(self) -> dict[str, torch.Tensor]:
        """The state dictionary of the last checkpoint; RunRefused where there is none."""
        if not self.checkpoint.is_file():
            raise RunRefused(f"{self.checkpoint} is missing: run `imago-train fit` first")
        checkpoint = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        return dict(checkpoint["state_dict"])


def hardware() -> str:
    """The machine in words fit for a model card."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} CPU cores ({platform.machine()}, {'bfloat16' if fast_bfloat16() else 'float32'} arithmetic)"


def options(values: Mapping[str, Any]) -> list[str]:
    """Hyper-parameters as words of a command line."""
    return [f"--set {shlex.quote(f'{key}={json.dumps(value)}')}" for key, value in values.items()]


def fast_bfloat16() -> bool:
    """Whether this machine multiplies bfloat16 in hardware; emulation is slower than float32."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())


def _named(labels: Sequence[str]) -> str:
    return ", ".join(labels) or "no labels"


def submodule(state: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """The entries of a state dictionary below `name.`, without that prefix."""
    return {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
