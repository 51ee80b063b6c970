"""Memory layout: channels last, in which CPUs and GPUs convolve fastest."""

from typing import TypeVar

import torch
from torch import nn

N = TypeVar("N", bound=nn.Module)


def channels_last(network: N) -> N:
    """The same network with its filters laid out channels last; outputs follow the filters."""
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return network
