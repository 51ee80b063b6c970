"""Batched augmentation on tensors in memory; every random number comes from the generator handed in."""

import torch
from torch import Tensor
from torch.nn import functional


def flip_every_other(images: Tensor, rows: Tensor, epoch: int) -> Tensor:
    """Mirror float [N,C,H,W] by (row + epoch) parity: each picture is seen both ways in any two epochs.

    Less redundant than tossing a coin (Jordan 2024, arXiv 2404.00498, section 3.6).
    """
    mirrored = _hash_bit(rows) ^ (epoch % 2 == 1)
    return torch.where(mirrored.view(-1, 1, 1, 1), images.flip(-1), images)


def translate(images: Tensor, reach: int, random: torch.Generator) -> Tensor:
    """Shift each of [N,C,H,W] by up to `reach` pixels each way, reflecting at the border; gradients pass."""
    height, width = images.shape[2:]
    padded = functional.pad(images, (reach,) * 4, mode="reflect").unbind()
    shifts = torch.randint(0, 2 * reach + 1, (len(images), 2), generator=random).tolist()
    windows = zip(padded, shifts, strict=True)
    return torch.stack([image[:, top : top + height, left : left + width] for image, (top, left) in windows])


def cut_out(images: Tensor, side: int, random: torch.Generator) -> Tensor:
    """Paint a square of `side` pixels anywhere on each of float [N,C,H,W] with its mean colour.

    DeVries and Taylor 2017, arXiv 1708.04552.
    """
    count, _, height, width = images.shape
    tops = torch.randint(0, height - side + 1, (count, 1, 1, 1), generator=random)
    lefts = torch.randint(0, width - side + 1, (count, 1, 1, 1), generator=random)
    rows, columns = torch.arange(height).view(1, 1, -1, 1), torch.arange(width).view(1, 1, 1, -1)
    inside = (rows >= tops) & (rows < tops + side) & (columns >= lefts) & (columns < lefts + side)
    return torch.where(inside, images.mean((2, 3), keepdim=True), images)


def _hash_bit(rows: Tensor) -> Tensor:
    """A fixed coin per row number, so that neighbouring rows are not mirrored in step."""
    return ((rows * 2_654_435_761) >> 16) % 2 == 1


def zoom(
    images: Tensor,
    labels: Tensor,
    size: tuple[int, int],
    scales: tuple[float, float],
    void: int,
    random: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Cut windows of `size` (height, width) at random places, scales (above 1 enlarges) and mirrorings.

    Images float [N,C,H,W] are sampled bilinearly, labels uint8 [N,H,W] by the nearest; outside lies black, and void.
    """
    count, _, height, width = images.shape
    low, high = (torch.tensor(scale).log() for scale in scales)
    scale = (low + (high - low) * torch.rand(count, generator=random)).exp()
    mirror = torch.randint(0, 2, (count,), generator=random) * 2.0 - 1
    reach = torch.stack((size[1] / (width * scale), size[0] / (height * scale)), 1)  # half windows in units of -1..1
    centre = (torch.rand(count, 2, generator=random) * 2 - 1) * (1 - reach).clamp_min(0)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = reach[:, 0] * mirror, reach[:, 1], centre
    grid = functional.affine_grid(theta, [count, 1, *size], align_corners=False)
    windows = functional.grid_sample(images, grid, mode="bilinear", align_corners=False)
    # Zero stands for outside, so labels are shifted to make zero void.
    shifted = functional.grid_sample(labels[:, None].float() - void, grid, mode="nearest", align_corners=False)
    return windows, (shifted[:, 0] + void).long()


def jitter(images: Tensor, strength: float, random: torch.Generator) -> Tensor:
    """Change brightness, contrast and saturation of float [N,3,H,W] in 0..1, each by up to `strength`."""
    bright, contrast, colour = 1 + strength * (torch.rand(3, len(images), 1, 1, 1, generator=random) * 2 - 1)
    mean: Tensor = images.mean((1, 2, 3), keepdim=True)
    toned = (images - mean) * contrast + mean * bright
    grey = toned.mean(1, keepdim=True)
    return torch.clamp(grey + (toned - grey) * colour, 0, 1)
