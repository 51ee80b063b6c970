"""Where decoding moves to a thread: the time to prepare a picture in place, beside that of a hop to a thread and back.

    python -m benchmarks.decode_hop

Prints medians in microseconds by side of a square JPEG photograph-like picture; `app.servable.INLINE_SIZE` is the
largest size whose preparation costs no more than a few hops: up to there a thread would only add to it.
"""

import asyncio
import io
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from app.imaging.codec import Decoder
from app.imaging.geometry import fit
from app.manifest import ImageInput

ROUNDS = 300


def jpeg(side: int) -> bytes:
    """A smooth picture with some noise, as a JPEG of quality 90."""
    random = np.random.default_rng(side)
    coarse = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((side, side))
    noisy = np.clip(np.asarray(coarse).astype(np.int16) + random.integers(-8, 9, (side, side, 3)), 0, 255)
    buffer = io.BytesIO()
    Image.fromarray(noisy.astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def prepare(data: bytes) -> None:
    """What a request does with its picture before it waits: open, decode, fit to 32x32."""
    want = ImageInput(width=32, height=32, fit="cover")
    fit(Decoder().open(data), want)


def median_microseconds(work: Callable[[], object]) -> float:
    """Median over `ROUNDS` calls."""
    times = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return statistics.median(times) * 1e6


async def hop_microseconds() -> float:
    """Median of a hop from the event loop to a pool thread and back, with nothing done there."""
    loop, times = asyncio.get_running_loop(), []
    with ThreadPoolExecutor(2) as pool:
        for _ in range(ROUNDS):
            begun = time.perf_counter()
            await loop.run_in_executor(pool, int)
            times.append(time.perf_counter() - begun)
    return statistics.median(times) * 1e6


def main() -> None:
    """Print the table."""
    hop = asyncio.run(hop_microseconds())
    table = Table("side", "bytes", "prepare, us", "hops", box=None)
    for side in (16, 32, 64, 128, 192, 256, 512, 1024):
        data = jpeg(side)
        cost = median_microseconds(lambda data=data: prepare(data))  # type: ignore[misc]
        table.add_row(str(side), str(len(data)), f"{cost:.0f}", f"{cost / hop:.1f}")
    Console(highlight=False).print(table)
    Console(highlight=False).print(f"a hop to a thread and back: {hop:.0f} us")


if __name__ == "__main__":
    main()
