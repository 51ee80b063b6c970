"""Private: a loop whose weights say little of any one training picture (DP-SGD, Abadi et al. 2016, arXiv 1607.00133).

The gradient of every picture is cut to a length, and noise of that length is added to their sum; how much noise a
budget asks for, and what was spent of it, is Renyi accounting (Mironov et al. 2019, arXiv 1908.10530). All of it is
opacus's; its noise comes from torch's generator, seeded by the operating system, which is no cryptographic one.
"""

import secrets
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from opacus import GradSampleModule
from opacus.accountants import RDPAccountant
from opacus.accountants.utils import get_noise_multiplier
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn

from training.classifying import Batch, ClassifyHyper, ClassifyLoop

_GROUP = 16
"""Channels that are normalised together."""
EPSILON = "privacy/epsilon"
"""What was spent so far, as it is logged, and recorded with the run."""


@dataclass(frozen=True)
class Budget:
    """What may be learned of one picture: with and without it, the chances of any weights differ at most by a factor of
    e to `epsilon`, but for a chance of `delta`."""

    epsilon: float
    delta: float
    clip: float
    """Greatest length of the gradient of a picture."""


def without_batches(network: nn.Module) -> nn.Module:
    """The network with group norms in the place of batch norms, whose statistics mix the pictures of a batch.

    Opacus's own replacement makes 32 groups, of one channel each in a small network: what a pooled head reads, the mean
    of each channel, would then be normalised away.
    """
    for name, part in network.named_children():
        if isinstance(part, nn.BatchNorm2d):
            setattr(network, name, nn.GroupNorm(max(1, part.num_features // _GROUP), part.num_features))
        else:
            without_batches(part)
    return network


class PrivateLoop(ClassifyLoop):
    """One step: gradients picture by picture, cut, summed, with noise."""

    def __init__(
        self, network: nn.Module, hyper: ClassifyHyper, weights: Tensor, budget: Budget, pictures: int, steps: int
    ) -> None:
        super().__init__(network, hyper, weights)
        # Opacus 1.6 reads wrong windows, and makes wrong gradients, in any layout but torch's own (`unfold2d`).
        for parameter in self.network.parameters():
            parameter.data = parameter.data.contiguous()
        self.network = GradSampleModule(self.network)
        self.budget, self.rows = budget, min(hyper.batch_size, pictures)
        self.rate = self.rows / pictures
        with _loose_bounds():
            self.noise = get_noise_multiplier(
                target_epsilon=budget.epsilon, target_delta=budget.delta, sample_rate=self.rate, steps=steps
            )

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """The loss of one batch, which is written nowhere: it says more of the pictures than the weights may."""
        pictures, *rest = batch
        return self.loss_of((pictures.contiguous(), *rest))

    def optimiser(self) -> torch.optim.Optimizer:
        """AdamW of noisy sums; the noise is drawn from a seed that nobody knows, not even the run's record."""
        noisy: torch.optim.Optimizer = DPOptimizer(
            super().optimiser(),
            noise_multiplier=self.noise,
            max_grad_norm=self.budget.clip,
            expected_batch_size=self.rows,
            generator=torch.Generator().manual_seed(secret_seed()),
        )
        return noisy

    def on_train_epoch_end(self) -> None:
        """Say what was spent."""
        self.log(EPSILON, spent(self.noise, self.rate, self.trainer.global_step, self.budget.delta), prog_bar=True)


def spent(noise: float, rate: float, steps: int, delta: float) -> float:
    """Epsilon after so many steps."""
    accountant = RDPAccountant()
    accountant.history = [(noise, rate, steps)]
    with _loose_bounds():
        return float(accountant.get_epsilon(delta))


@contextmanager
def _loose_bounds() -> Iterator[None]:
    """Without the warning that a tighter bound might be found among other orders: this one holds, too."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Optimal order is")
        yield


def secret_seed() -> int:
    """From the operating system's randomness."""
    return secrets.randbits(62)
