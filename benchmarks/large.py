"""What a picture as large as the service takes costs: seconds and memory of its enhancement, tile by tile, and how soon
that ends when the caller leaves.

    python -m benchmarks.large [--model bsds-denoiser] [--megapixels 50] [--workers 1] [--models models]

The picture is made up: a landscape of slopes with the grain of a sensor, as a JPEG. Memory is the most that was
resident in all processes above what was so before. Of a caller who leaves after a second it counts what the model
still ran (`imago_batch_size`), beside what it runs for one who stays. Prints a Markdown table.
"""

import argparse
import io
import shutil
import socket
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from benchmarks.report import table
from benchmarks.server import running_server
from tests.api.connection import request
from tests.hostile.asking import MEBIBYTE, Watched

_COLUMNS = ("picture", "body, MiB", "answer", "seconds", "memory, MiB", "runs", "runs for one who left")
_STAY = 1.0
"""Seconds after which the other caller leaves."""
_REST = 2.0
"""Seconds without a run after which a model is at rest."""


def picture(megapixels: float, seed: int = 0) -> bytes:
    """A JPEG of about so many pixels, three to two."""
    random = np.random.default_rng(seed)
    height = int((megapixels * 1e6 / 1.5) ** 0.5) // 2 * 2
    width = int(height * 1.5) // 2 * 2
    slopes = Image.fromarray(random.integers(0, 256, (12, 18, 3), dtype=np.uint8)).resize((width, height), 3)
    grain = random.normal(0, 8, (height // 4, width // 4, 1)).astype(np.float32).repeat(4, 0).repeat(4, 1)
    pixels = np.asarray(slopes)[: grain.shape[0], : grain.shape[1]] + grain
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "jpeg", quality=90)
    return file.getvalue()


def runs(url: str) -> int:
    """How often the models have run."""
    text = httpx.get(f"{url}/metrics").text
    return sum(int(float(line.split()[-1])) for line in text.splitlines() if line.startswith("imago_batch_size_count"))


def at_rest(url: str) -> int:
    """How often they have run when they run no more."""
    seen, since = runs(url), time.monotonic()
    while time.monotonic() - since < _REST:
        time.sleep(0.1)
        if (now := runs(url)) != seen:
            seen, since = now, time.monotonic()
    return seen


def leave(url: str, target: str, data: bytes) -> None:
    """Ask, and hang up without waiting for the answer."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as caller:
        caller.sendall(request(data, target.encode()))
        time.sleep(_STAY)


def alone(chosen: argparse.Namespace, folder: Path) -> Path:
    """A models folder with one model."""
    shutil.copytree(chosen.models / chosen.model, folder / chosen.model)
    return folder


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bsds-denoiser", help="(default: %(default)s)")
    parser.add_argument("--megapixels", type=float, default=50, help="(default: %(default)s)")
    parser.add_argument("--workers", default="1", help="(default: %(default)s)")
    parser.add_argument("--models", type=Path, default=Path("models"), help="(default: %(default)s)")
    chosen = parser.parse_args()
    data = picture(chosen.megapixels)
    target = f"/enhance?model={chosen.model}"
    flags = ("--workers", chosen.workers, "--request-timeout-seconds", "3600", "--log-level", "error")
    with tempfile.TemporaryDirectory() as folder, running_server(alone(chosen, Path(folder)), *flags) as server:
        watched = Watched(server)
        httpx.post(server.url + target, content=picture(1), timeout=600).raise_for_status()
        first, before = at_rest(server.url), watched.memory()
        watched.watch_memory()
        begun = time.perf_counter()
        answer = httpx.post(server.url + target, content=data, headers={"Accept": "image/jpeg"}, timeout=3600)
        seconds, most = time.perf_counter() - begun, watched.peak() - before
        stayed = at_rest(server.url)
        leave(server.url, target, data)
        left = at_rest(server.url) - stayed
    size = Image.open(io.BytesIO(answer.raise_for_status().content)).size
    row = [
        f"{chosen.megapixels:g} megapixels", f"{len(data) / MEBIBYTE:.1f}", f"{size[0]}x{size[1]}", f"{seconds:.1f}",
        f"{most / MEBIBYTE:.0f}", str(stayed - first), str(left),
    ]  # fmt: skip
    print(table(_COLUMNS, [row]))


if __name__ == "__main__":
    main()
