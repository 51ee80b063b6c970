"""Pictures of a report, as PNG bytes: matplotlib draws the diagrams, Pillow lays out the sheets."""

import io
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw

matplotlib.use("Agg")

_TILE = 128
_CAPTION = 28
_COLUMNS = 6
_LARGEST = 40.0
"""Inches of a diagram: that of a thousand labels would take gigabytes otherwise."""


def confusion_figure(matrix: NDArray[np.int64], labels: Sequence[str]) -> bytes:
    """A confusion matrix, a row a true label, as shares of the row."""
    side = min(_LARGEST, max(4.0, 0.45 * len(labels) + 1.5))
    size = min(10.0, 30 * side / len(labels))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    shares = matrix / matrix.sum(1, keepdims=True).clip(1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(labels)), [*map(_plain, labels)], rotation=90, fontsize=size)
    axes.set_yticks(range(len(labels)), [*map(_plain, labels)], fontsize=size)
    axes.set_xlabel("answered")
    axes.set_ylabel("true")
    if len(labels) <= 20:
        for row, column in np.argwhere(matrix):
            shade = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(matrix[row, column]), ha="center", va="center", color=shade, fontsize=7)
    return _png(figure)


def reliability_figure(confidence: NDArray[np.float64], right: NDArray[np.bool_], bins: int = 15) -> bytes:
    """How often the best label is right, by how probable it was called; on the diagonal both are the same."""
    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    axes = figure.add_subplot()
    places = np.minimum((confidence * bins).astype(int), bins - 1)
    counts = np.bincount(places, minlength=bins)
    shares = np.bincount(places, right, bins) / counts.clip(1)
    centres = (np.arange(bins) + 0.5) / bins
    axes.bar(centres[counts > 0], shares[counts > 0], width=0.9 / bins, label="right")
    axes.plot([0, 1], [0, 1], color="black", linewidth=1, label="as sure as right")
    axes.set_xlabel("probability of the best label")
    axes.set_ylabel("share that was right")
    axes.legend()
    return _png(figure)


def precision_figure(curves: NDArray[np.float64], labels: Sequence[str]) -> bytes:
    """Precision at each level of recall, float [labels,101], a line a label that has objects."""
    figure = Figure(figsize=(5.5, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for curve, label in zip(curves, labels, strict=True):
        if not np.isnan(curve).any():
            axes.plot(np.linspace(0, 1, len(curve)), curve, label=f"{_plain(label)}, AP {curve.mean():.2f}")
    axes.set_xlabel("recall")
    axes.set_ylabel("precision at an IoU of 0.5")
    axes.legend()
    return _png(figure)


def sheet(pictures: Sequence[tuple[NDArray[np.uint8], str]]) -> bytes:
    """Pictures uint8 [H,W,3] in tiles, six a row, each above its caption."""
    rows = -(-max(1, len(pictures)) // _COLUMNS)
    canvas = Image.new("RGB", (_COLUMNS * _TILE, rows * (_TILE + _CAPTION)), "white")
    draw = ImageDraw.Draw(canvas)
    for number, (pixels, caption) in enumerate(pictures):
        left, top = number % _COLUMNS * _TILE, number // _COLUMNS * (_TILE + _CAPTION)
        image = Image.fromarray(pixels)
        scale = (_TILE - 4) / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        smooth = Image.Resampling.NEAREST if scale > 2 else Image.Resampling.BILINEAR
        canvas.paste(image.resize(size, smooth), (left + (_TILE - size[0]) // 2, top + 2))
        draw.multiline_text((left + 3, top + _TILE), caption, fill="black", spacing=1)
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG")
    return buffer.getvalue()


def _plain(label: str) -> str:
    """A label that matplotlib takes for no formula."""
    return label.replace("$", r"\$")


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
