"""Rows are written as JSON lines and come back as they were."""

from pathlib import Path

from benchmarks.rows import Cores, FailedRow, MachineRow, OpenRow, Outcome, Row, ServerRow, Where, append, read
from tests.benchmarks.measured import load_row

ROWS: list[Row] = [
    MachineRow("run", "2026-01-01T00:00:00+00:00", "python -m benchmarks.compare", {"cores": "2"}),
    ServerRow("run", "mosec", 203, {"mosec": "0.9.8"}),
    load_row("mosec", 500.0),
    FailedRow(Where("run", 1), "tiny", "ray", "the server ended with 1"),
    OpenRow(
        Where("run", 1), "tiny", "imago", "poisson", 0.5, 1000.0, Outcome(90, 10, 0, 1.0, None, 0.1),
        Cores(1.0, 0.1, 0.0, 0.0),
    ),
]  # fmt: skip


def test_every_kind_of_row_comes_back_as_it_was(tmp_path: Path) -> None:
    for row in ROWS:
        append(tmp_path / "results.jsonl", row)
    assert read([tmp_path / "results.jsonl"]) == ROWS


def test_several_files_are_joined(tmp_path: Path) -> None:
    append(tmp_path / "one", ROWS[2])
    append(tmp_path / "two", ROWS[3])
    assert read([tmp_path / "one", tmp_path / "two"]) == ROWS[2:4]


def test_the_share_refused_is_of_all_requests() -> None:
    assert Outcome(answered=60, refused=30, failed=10, p50_ms=1, p99_ms=2, late_p99_ms=0).refused_share == 0.3
