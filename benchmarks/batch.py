"""`imago batch` without a service, beside what this machine can decode and infer in as many processes as it has cores.

    python -m benchmarks.batch --pictures cifar10/test.zip [--models models] [--model NAME] [--rounds 3] [--processes N]

Both are measured in turn, because a shared machine is up to twice as fast in one minute as in another. The limit is the
best of some batch sizes over pictures in memory: decoding, stacking, inference, results as JSON, nobody to wait for. A
run is everything after its models are open: reading, all of that, the journal and the Parquet file; what the whole
command takes, with the interpreter's start, the model's opening and its measuring, stands beside it.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

from app.batch.children import Orders
from app.batch.crew import crew
from app.batch.embedded import Chosen, choose
from app.batch.journal import Journal
from app.batch.outputs import write_output
from app.batch.run import answer_all
from app.batch.sources import Source, open_source
from app.main import patient_resources
from app.settings import Settings
from app.tasks import TASKS
from benchmarks.limit import imago_answerer, in_all_processes, rate

_SAMPLE = 1000
"""Pictures that the limit works on, again and again."""
_BATCHES = (1, 4, 8, 16)


class Round(NamedTuple):
    """Pictures a second."""

    limit: float
    run: float

    @property
    def ratio(self) -> float:
        """The part of the limit that a run reaches."""
        return self.run / self.limit


def limit(folder: Path, pictures: list[bytes], batches: tuple[int, ...], seconds: float) -> list[float]:
    """In each process: pictures a second by batch size."""
    return [rate(imago_answerer(folder, pictures, {}), batch, seconds) for batch in batches]


async def run(orders: Orders, processes: int, out: Path) -> float:
    """Pictures a second of a run whose models are open."""
    journal = Journal(out.with_suffix(".journal"), {})
    async with crew(orders, processes) as answerers:
        for answerer in answerers:  # a process that was just started opens its model first
            await answerer.answer(orders.source.names[:1])
        begun = time.perf_counter()
        await answer_all(orders.source.names, answerers, journal.append)
        shape = TASKS[orders.chosen.manifest.task].Answer
        write_output(out, lambda: journal.lines(orders.source.names), shape)
        seconds = time.perf_counter() - begun
    journal.remove()
    return len(orders.source.names) / seconds


def measure(chosen: Chosen, source: Source, settings: Settings, processes: int, seconds: float, folder: Path) -> Round:
    """One round: the limit, and a run."""
    version = chosen.folder.version_path(chosen.manifest.version)
    names = source.names[:: max(1, len(source.names) // _SAMPLE)]
    best = max(in_all_processes(limit, version, [source.read(name) for name in names], _BATCHES, seconds))
    orders = Orders(settings, patient_resources, chosen, TASKS[chosen.manifest.task].Options(), source)
    return Round(best, asyncio.run(run(orders, processes, folder / "results.parquet")))


def command_seconds(chosen: Chosen, pictures: str, settings: Settings, folder: Path) -> float:
    """What the whole command takes."""
    arguments = [chosen.manifest.task, pictures, "--out", str(folder / "whole.parquet")]
    flags = ["--models", str(settings.models), "--model", chosen.manifest.name]
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-m", "app", "batch", *arguments, *flags], check=True)
    return time.perf_counter() - begun


def main() -> int:
    """Print each round and the middle one; 1 where that is below 0.9 of the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", required=True, help="a folder, a zip or a pattern")
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--task", default="classify", help="(default: %(default)s)")
    parser.add_argument("--model", help="without it the task's default")
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each batch size of the limit (default: 2)")
    parser.add_argument("--processes", type=int, default=0, help="of the run; without it what pays off")
    given = parser.parse_args()
    settings = Settings(models=given.models)
    chosen, source = choose(settings, given.task, given.model, None), open_source(given.pictures)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        rounds = []
        for _ in range(given.rounds):
            found = measure(chosen, source, settings, given.processes, given.seconds, folder)
            print(f"limit {found.limit:8.1f}/s   run {found.run:8.1f}/s   ratio {found.ratio:.3f}", flush=True)
            rounds.append(found)
        middle = median(found.ratio for found in rounds)
        print(f"{len(source.names)} pictures, {chosen.manifest.name}: a run reaches {middle:.3f} of the limit")
        print(f"the whole command: {command_seconds(chosen, given.pictures, settings, folder):.1f} s")
    return 0 if middle >= 0.9 else 1


if __name__ == "__main__":
    raise SystemExit(main())
