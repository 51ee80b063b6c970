"""Rows as a comparison writes them, with values that a test names."""

from dataclasses import replace
from typing import Any

from benchmarks.rows import Cores, LoadRow, Memory, Where
from benchmarks.wrk import Load

_ROW = LoadRow(
    where=Where("run", 1),
    workload="tiny",
    server="imago",
    clients=8,
    load=Load(rate=500.0, seconds=5.0, p50_ms=1.5, p99_ms=20.0, refused=0, broken=0, client_cpu=0.1),
    cores=Cores(server=1.5, client=0.1, foreign=0.0, stolen=0.0),
    memory=Memory(resident=200.0, proportional=150.0, processes=3),
    right=True,
    start_seconds=1.0,
    limit=1000.0,
    way="imago, batches of 16",
)


def load_row(server: str, rate: float, number: int = 1, **other: Any) -> LoadRow:
    """A load of `server` in pass `number`; the limit is 1000 unless said."""
    load = replace(_ROW.load, rate=rate)
    return replace(_ROW, server=server, **{"load": load, "where": Where("run", number), **other})
