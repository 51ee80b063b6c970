"""Optimisers: AdamW as it is used here, and Muon, which torch does not ship for convolutions."""

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn


def adamw(network: nn.Module, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019) that decays filters and matrices, and neither biases nor norms."""
    groups: list[dict[str, Any]] = [
        {"params": [value for value in network.parameters() if value.ndim > 1]},
        {"params": [value for value in network.parameters() if value.ndim == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay)


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, with the step of each `orthogonal` group replaced by its nearest orthogonal matrix.

    A filter [O,I,h,w] counts as the matrix [O, I*h*w] and is kept at norm sqrt(O); groups with `orthogonal=False`
    (biases, heads) take the plain step of SGD. Source: Jordan et al. 2024, "Muon: an optimizer
    for hidden layers in neural networks". torch.optim.Muon takes two-dimensional parameters only.
    """

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        super().__init__(groups, {"lr": 0.1, "momentum": 0.6, "weight_decay": 0.0, "orthogonal": True})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step over every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        momentum = state.setdefault("momentum", torch.zeros_like(gradient))
        gradient = gradient.add(parameter, alpha=group["weight_decay"])
        momentum.mul_(group["momentum"]).add_(gradient)
        step = gradient.add(momentum, alpha=group["momentum"])
        if group["orthogonal"]:
            parameter.mul_(len(parameter) ** 0.5 / parameter.norm())
            step = orthogonal(step.reshape(len(step), -1)).view_as(step)
        parameter.add_(step, alpha=-group["lr"])


def orthogonal(matrix: Tensor, rounds: int = 3) -> Tensor:
    """An approximation of U V^T for float [m,n] = U S V^T: singular values end near one, which is enough for a step.

    Newton-Schulz iteration with Jordan's quintic coefficients, steep at zero on purpose.
    """
    wide = matrix if matrix.size(0) <= matrix.size(1) else matrix.T
    current: Tensor = wide / (wide.norm() + 1e-7)
    for _ in range(rounds):
        gram = current @ current.T
        current = 3.4445 * current + (-4.7750 * gram + 2.0315 * gram @ gram) @ current
    return current if matrix.size(0) <= matrix.size(1) else current.T
