"""Engine: the one place where Lightning's Trainer is set up; what is learned is the recipe's business."""

import copy
import datetime
import functools
import logging
import signal
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import lightning
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping, RichProgressBar, Timer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from pydantic import BaseModel, ConfigDict, Field

from training.console import console
from training.data.feed import Feed, Slices
from training.run import Run, RunRefused, fast_bfloat16

N = TypeVar("N", bound=torch.nn.Module)

CHECKPOINT_EVERY = datetime.timedelta(minutes=2)


Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]


class Hyper(BaseModel):
    """Hyper-parameters that every recipe has; a recipe adds its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: Count
    batch_size: Count
    lr: Rate
    seed: int = Field(default=0, ge=0, lt=1 << 32)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    def shown(self) -> dict[str, Any]:
        """The values as cards and commands for others show them: no folder of this machine."""
        return self.model_dump(mode="json")


@dataclass(frozen=True)
class Plan:
    """What a recipe hands to the engine: a module that knows its loss and optimisers, and its batches."""

    module: LightningModule
    feed: Feed[Any]
    validation: Slices | None = None
    validate_every: int = 1
    watched: str | None = None
    """The logged figure (more is better) that ends the run when it has not risen for `patience` validations."""
    patience: int = 1
    alone: str = ""
    """Why this run must not be shared by several processes, if it must not."""


@dataclass(frozen=True)
class Machine:
    """What a run may use; what it learns does not depend on it but for rounding, and for `devices` and `nodes`: each
    device takes batches of its own, so that a step sees as many more rows."""

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = 1
    nodes: int = 1
    workers: int = 0
    """Processes that decode and augment pictures."""


def seed(value: int) -> None:
    """Seed what draws initial weights; batches draw from their own generators."""
    lightning.seed_everything(value, verbose=False)


def fit(
    plan: Plan,
    hyper: Hyper,
    run: Run,
    *,
    resume: bool = False,
    every: datetime.timedelta = CHECKPOINT_EVERY,
    machine: Machine = Machine(),
) -> None:
    """Train until `hyper.epochs`; curves, and a checkpoint after `every` and at the end, go below `run`.

    Raises RunRefused where `machine` has several processes and the plan is for one.
    """
    if plan.alone and machine.devices * machine.nodes > 1:
        raise RunRefused(f"{plan.alone}: leave --devices and --nodes at 1")
    timer = Timer()
    plan.feed.workers = machine.workers
    callbacks: list[Callback] = [Checkpoints(run.checkpoint, every), timer]
    if plan.watched is not None:
        callbacks.append(EarlyStopping(plan.watched, patience=plan.patience, mode="max"))
    with warnings.catch_warnings():
        _ignore_advice()
        trainer = _trainer(plan, hyper, run, callbacks, machine)
        trainer.fit(plan.module, plan.feed, plan.validation, ckpt_path=run.checkpoint if resume else None)
    trainer.save_checkpoint(run.checkpoint)
    metrics = {name: round(float(value), 6) for name, value in trainer.callback_metrics.items()}
    stopped = any(isinstance(callback, EarlyStopping) and callback.stopped_epoch for callback in callbacks)
    finished = stopped or trainer.current_epoch >= hyper.epochs
    # A run that lost its power after the last step has nothing left to log.
    logged = {"metrics": metrics} if metrics else {}
    run.update(seconds=round(timer.time_elapsed("train"), 1), finished=finished, **logged)


def _trainer(plan: Plan, hyper: Hyper, run: Run, callbacks: list[Callback], machine: Machine) -> Trainer:
    return Trainer(
        accelerator=machine.accelerator,
        devices=machine.devices,
        num_nodes=machine.nodes,
        precision=_precision(hyper),
        max_epochs=hyper.epochs,
        callbacks=[*callbacks, RichProgressBar() if sys.stdout.isatty() else Lines()],
        enable_checkpointing=False,
        logger=TensorBoardLogger(run.folder, name="", version="tensorboard"),
        log_every_n_steps=min(10, len(plan.feed)),
        check_val_every_n_epoch=plan.validate_every,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        enable_progress_bar=sys.stdout.isatty(),
    )


def _precision(hyper: Hyper) -> Literal["bf16-mixed", "32-true"]:
    wanted = hyper.precision if hyper.precision != "auto" else ("bfloat16" if fast_bfloat16() else "float32")
    return "bf16-mixed" if wanted == "bfloat16" else "32-true"


def _ignore_advice() -> None:
    """Advice about what is meant here: parts that are frozen, loaders that resume, gradients that end at pictures, more
    workers than cores."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    known = (".*LeafSpec", ".*in eval mode at the start", "Full backward hook is firing", "This DataLoader will create")
    for message in known:
        warnings.filterwarnings("ignore", message)


class Checkpoints(Callback):
    """Keeps the last state: written anew after the first step where `every` has passed or SIGTERM or SIGINT has come,
    which then ends the run; Lightning moves it into place whole. A second SIGINT ends it at once.

    Lightning's own ModelCheckpoint forgets `train_time_interval` under manual optimisation, and its own end at SIGTERM
    comes also between two epochs, where a checkpoint does not resume to the same weights (2.6.6).
    """

    def __init__(self, path: Path, every: datetime.timedelta) -> None:
        self._path, self._every = path, every.total_seconds()
        self._last = time.monotonic()
        self._stop = 0
        self._interrupt = signal.getsignal(signal.SIGINT)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take SIGTERM over from Lightning, which gives it back at the end, and SIGINT from who has it."""
        signal.signal(signal.SIGTERM, self._stop_soon)
        self._interrupt = signal.signal(signal.SIGINT, self._stop_soon)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give SIGINT back."""
        signal.signal(signal.SIGINT, self._interrupt)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give SIGINT back."""
        signal.signal(signal.SIGINT, self._interrupt)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Save where it is time, and end the run where that was asked of one of its processes.

        Raises SIGTERMException, a SystemExit whose code says which signal it was.
        """
        agreed = functools.partial(trainer.strategy.reduce_boolean_decision, all=False)
        stop = agreed(bool(self._stop))
        if stop or agreed(time.monotonic() - self._last >= self._every):
            trainer.save_checkpoint(self._path)
            self._last = time.monotonic()
        if stop:
            raise SIGTERMException(128 + (self._stop or signal.SIGTERM))

    def _stop_soon(self, number: int, _: Any) -> None:
        self._stop = number
        signal.signal(signal.SIGINT, self._interrupt)


class Lines(Callback):
    """One line an epoch, where no terminal shows a progress bar."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print what was logged."""
        values = "  ".join(f"{name} {float(value):.4f}" for name, value in sorted(trainer.callback_metrics.items()))
        now = datetime.datetime.now().astimezone().strftime("%H:%M:%S")
        console.print(f"{now}  epoch {trainer.current_epoch + 1} of {trainer.max_epochs}  {values}")


class Average(torch.nn.Module, Generic[N]):
    """A copy of a network whose weights and statistics follow it exponentially."""

    def __init__(self, network: N, decay: float) -> None:
        super().__init__()
        self.module: N = copy.deepcopy(network)
        self.module.eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def follow(self, network: N, step: int | None = None) -> None:
        """Move a step of 1 - decay towards the network; whole numbers are copied. Given the number of the step, from 0
        on, the first ones are longer, so that the untrained weights are soon forgotten."""
        decay = self.decay if step is None else min(self.decay, (1 + step) / (10 + step))
        for mine, theirs in zip(_values(self.module), _values(network), strict=True):
            if mine.is_floating_point():
                mine.lerp_(theirs, 1 - decay)
            else:
                mine.copy_(theirs)

    def train(self, mode: bool = True) -> "Average[N]":
        """Stay in evaluation mode: the average never computes statistics of its own."""
        return self


def _values(network: torch.nn.Module) -> list[torch.Tensor]:
    return [*network.parameters(), *network.buffers()]
