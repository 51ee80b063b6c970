"""What zlib's level costs and saves in the pictures that `/segment` answers: label maps and overlays.

    python -m benchmarks.png_level --data DATA

Prints medians over the first pictures of the CamVid test split (480x360), labelled by their own annotation.
"""

import argparse
import io
import itertools
import statistics
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from app.imaging.codec import Decoder
from app.imaging.paint import default_palette, label_overlay
from training.data import camvid

PICTURES = 8
REPEATS = 5


def encode(pixels: NDArray[np.uint8], level: int) -> tuple[float, int]:
    """Milliseconds and bytes of one encoding."""
    buffer = io.BytesIO()
    begun = time.perf_counter()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=level)
    return (time.perf_counter() - begun) * 1000, buffer.tell()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    chosen = parser.parse_args()
    kinds: dict[str, list[NDArray[np.uint8]]] = {"label map": [], "overlay": []}
    for data, labels in itertools.islice(camvid.pictures(chosen.data / "camvid", "test"), PICTURES):
        kinds["label map"].append(labels)
        kinds["overlay"].append(label_overlay(Decoder().open(data).decode(), labels, default_palette(256)))
    table = Table("picture", "level", "ms", "bytes", box=None)
    for kind, level in itertools.product(kinds, (1, 6)):
        runs = [encode(pixels, level) for pixels in kinds[kind] for _ in range(REPEATS)]
        table.add_row(
            kind, str(level), f"{statistics.median(run[0] for run in runs):.1f}",
            f"{statistics.median(run[1] for run in runs):.0f}",
        )  # fmt: skip
    Console(highlight=False).print(table)


if __name__ == "__main__":
    main()
