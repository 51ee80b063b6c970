"""A variational autoencoder (Kingma and Welling 2014, arXiv 1312.6114): pictures to codes, and codes to pictures."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from training.networks.blocks import Block
from training.networks.generator import Generator

_LEAST, _MOST = -7.0, 0.0
"""Bounds of the logarithm of a logistic's scale, of pixels in 0..1."""


class Code(NamedTuple):
    """Mean and logarithm of the variance of a code, float [N,latent] each."""

    mean: Tensor
    log_variance: Tensor

    def bits(self) -> Tensor:
        """What the code costs beside that of the prior, float [N]: the Kullback-Leibler divergence in bits."""
        nats = 0.5 * (self.log_variance.exp() + self.mean**2 - 1 - self.log_variance).sum(1)
        return nats / torch.log(torch.tensor(2.0))


class Autoencoder(nn.Module):
    """Pictures float [N,3,S,S] in 0..1, S a power of two from 8 on."""

    def __init__(self, latent: int, widths: tuple[int, int, int, int], side: int = 32) -> None:
        super().__init__()
        wide, third, second, first = widths
        self.encoder = nn.Sequential(
            Block(3, first, 2), Block(first, second, 2), Block(second, third, 2), Block(third, wide)
        )
        self.code = nn.Linear(wide * (side // 8) ** 2, 2 * latent)
        self.decoder = Generator(1, latent, widths)
        self.log_scale = nn.Parameter(torch.full((3, 1, 1), -2.0))

    def encode(self, pictures: Tensor) -> Code:
        """The code of each picture."""
        mean, log_variance = self.code(self.encoder(pictures).flatten(1)).float().chunk(2, 1)
        return Code(mean, log_variance.clamp(-10, 4))

    def decode(self, codes: Tensor) -> Tensor:
        """The picture of each code float [N,latent]."""
        pictures: Tensor = self.decoder(codes, torch.zeros_like(codes[:, 0], dtype=torch.int64))
        return pictures

    def bits(self, pictures: Tensor, decoded: Tensor) -> Tensor:
        """What each byte of pictures float [N,3,S,S] in 0..1 costs where these were decoded, in bits, of that shape.

        Logistic distributions with a scale for each channel, cut into 256 steps; the outermost hold all beyond them
        (Salimans et al. 2017, arXiv 1701.05517, section 2.1).
        """
        sharpness = torch.exp(-self.log_scale.clamp(_LEAST, _MOST))
        centred, step = (pictures - decoded) * sharpness, sharpness / 255 / 2
        upper = torch.where(pictures > 254.5 / 255, torch.ones_like(centred), torch.sigmoid(centred + step))
        lower = torch.where(pictures < 0.5 / 255, torch.zeros_like(centred), torch.sigmoid(centred - step))
        return -torch.log2((upper - lower).clamp_min(1e-7))


def bits_per_byte(network: Autoencoder, pictures: Tensor, noise: Tensor) -> Tensor:
    """Bits for a byte of each picture, float [N]: the evidence lower bound for one code, drawn with `noise` (standard
    normal, float [N,latent])."""
    code = network.encode(pictures)
    drawn = code.mean + torch.exp(0.5 * code.log_variance) * noise
    spent = network.bits(pictures, network.decode(drawn)).flatten(1).sum(1) + code.bits()
    return spent / pictures[0].numel()
