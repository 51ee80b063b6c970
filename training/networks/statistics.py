"""Statistics that a trained network is finished with: those of its batch norms, and those of its features."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


@torch.no_grad()
def recount(network: nn.Module, batches: Iterable[tuple[Tensor, ...]]) -> None:
    """Set every running mean and variance to the plain average over `batches` of inputs; ends in evaluation mode.

    For averaged weights, which have no statistics of their own: Izmailov et al. 2018, "Averaging weights leads to wider
    optima and better generalization", section 3.1.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    network.train()
    for inputs in batches:
        network(*inputs)
    network.eval()


SHRINK = 0.1
"""Share of the mean variance that is added to each direction's, so that those that hardly vary do not drown others."""


def whitening(features: Tensor, labels: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Mean [D] and projection [D,size] of float [N,D]: after both, features of a class vary alike in all directions,
    and the `size` are those in which features vary most (all D, where they are fewer).

    Within-class covariance normalisation (Hatch, Kajarekar and Stolcke 2006), then principal components.
    """
    mean, classes = features.mean(0), torch.unique(labels)
    within = torch.cat([features[labels == each] - features[labels == each].mean(0) for each in classes])
    spread = within.T @ within / len(within)
    values, axes = torch.linalg.eigh(spread + SHRINK * spread.trace() / len(spread) * torch.eye(len(spread)))
    white = axes / values.sqrt()
    turned = torch.linalg.eigh(torch.cov(((features - mean) @ white).T)).eigenvectors
    return mean, white @ turned[:, -size:]
