"""Batch-norm statistics of averaged weights: an average of weights has no statistics of its own."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


@torch.no_grad()
def recount(network: nn.Module, batches: Iterable[tuple[Tensor, ...]]) -> None:
    """Set every running mean and variance to the plain average over `batches` of inputs; ends in evaluation mode.

    Izmailov et al. 2018, "Averaging weights leads to wider optima and better generalization", section 3.1.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    network.train()
    for inputs in batches:
        network(*inputs)
    network.eval()
