"""How noisy a picture is, from its pixels alone."""

import numpy as np

from app.imaging.codec import ImageArray

_ENOUGH = 2**20
"""Values that are looked at, at most: a median of more is no more exact."""
_MEDIAN_OF_NORMAL = 0.6745
"""Median absolute deviation of a normal variable with deviation 1."""


def noise_level(image: ImageArray) -> float:
    """The standard deviation of white noise in uint8 [H,W,3], in steps of 255; 0 below two pixels a side.

    The median of the finest diagonal differences (a Haar wavelet), of which edges and textures make the larger part
    large: Donoho and Johnstone 1994, "Ideal spatial adaptation by wavelet shrinkage", section 4.
    """
    height, width = (side // 2 * 2 for side in image.shape[:2])
    if not height or not width:
        return 0.0
    apart = max(1, height * width * 3 // 4 // _ENOUGH)
    rows = np.arange(0, height, 2)[::apart]
    upper, lower = (image[rows + down, :width].astype(np.int16) for down in (0, 1))
    diagonal = np.abs(upper[:, ::2] - upper[:, 1::2] - lower[:, ::2] + lower[:, 1::2]).ravel()
    counts = np.bincount(diagonal, minlength=2)
    return _median(counts) / 2 / _MEDIAN_OF_NORMAL


def _median(counts: np.ndarray[tuple[int], np.dtype[np.intp]]) -> float:
    """The median of whole numbers counted by value, taken as spread evenly over half a step to each side."""
    below = np.concatenate([[0], np.cumsum(counts)])
    half = below[-1] / 2
    value = int(np.searchsorted(below, half, side="right")) - 1
    middle = value - 0.5 + float(half - below[value]) / float(counts[value])
    return max(0.0, middle)
