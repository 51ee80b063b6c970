"""What most loops share: AdamW under a cosine, and an average of the weights that follows every step."""

from typing import Any, Generic, TypeVar

import torch
from lightning.pytorch import LightningModule
from pydantic import Field
from torch import nn

from training.engine import Average, Hyper
from training.networks.layout import channels_last
from training.optimisers import adamw
from training.schedules import cosine

N = TypeVar("N", bound=nn.Module)


class AveragedHyper(Hyper):
    """What such a loop lets one choose."""

    weight_decay: float = Field(default=0.0, ge=0)
    warm_up: int = Field(default=0, ge=0)
    """Steps."""
    decay: float = Field(default=0.998, ge=0, lt=1)
    """How much of the average stays at a step."""


class AveragedLoop(LightningModule, Generic[N]):
    """Trains `network` for so many `steps`; `average.module` is what is judged and exported."""

    network: N
    average: Average[N]

    def __init__(self, network: N, hyper: AveragedHyper, steps: int | None = None) -> None:
        super().__init__()
        self.network = channels_last(network)
        self.average = Average(self.network, hyper.decay)
        self._hyper, self._steps = hyper, steps

    def optimizer_step(self, *arguments: Any, **named: Any) -> None:
        """Let the average follow at once: checkpoints are written before `on_train_batch_end` reaches this module."""
        super().optimizer_step(*arguments, **named)
        self.follow()

    def follow(self) -> None:
        """Move the average a step towards the network."""
        self.average.follow(self.network)

    def optimiser(self) -> torch.optim.Optimizer:
        """AdamW; biases and norms are not decayed."""
        return adamw(self.network, self._hyper.lr, self._hyper.weight_decay)

    def configure_optimizers(self) -> Any:
        """The optimiser, and a cosine over all steps: without a number of them, those that Lightning counts."""
        optimiser = self.optimiser()
        steps = int(self.trainer.estimated_stepping_batches) if self._steps is None else self._steps
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, cosine(steps, self._hyper.warm_up))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
