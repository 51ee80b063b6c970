"""The report says what was measured, and nothing of the machine's folders."""

from pathlib import Path

from benchmarks.compare import command
from benchmarks.report import KEPT, kept, markdown, table
from benchmarks.rows import Cores, FailedRow, MachineRow, OpenRow, Outcome, Row, ServerRow, Where
from tests.benchmarks.measured import load_row

ROWS: list[Row] = [
    MachineRow("run", "2026-01-01T00:00:00+00:00", "python -m benchmarks.compare", {"processor": "Abacus 9"}),
    ServerRow("run", "imago", 243, {"onnxruntime": "1.31.1"}),
    load_row("imago", 900.0),
    load_row("mosec", 450.0, right=False),
    FailedRow(Where("run", 1), "tiny", "ray", "the server ended with 1"),
    OpenRow(
        Where("run", 1), "tiny", "imago", "poisson", 0.9, 1000.0, Outcome(90, 10, 0, 1.0, 8.5, 0.1),
        Cores(1.0, 0.1, 0.0, 0.0),
    ),
]  # fmt: skip
REPORT = markdown(ROWS)


def test_a_table_has_its_first_column_to_the_left_and_the_others_to_the_right() -> None:
    assert table(["server", "rate"], [["imago", "5"]]) == "| server | rate |\n| --- | ---: |\n| imago | 5 |\n"


def test_rates_latencies_and_ratios_stand_in_the_tables() -> None:
    assert "| imago | 900 (1.50 / 20.0) |" in REPORT
    assert "| imago | 0.90 / 2.00 |" in REPORT
    assert "| *the best other* | *mosec* |" in REPORT


def test_machine_versions_size_and_limit_are_said() -> None:
    assert "processor Abacus 9" in REPORT
    assert "| imago | 243 | onnxruntime 1.31.1 |" in REPORT
    assert "Limit without HTTP: 1,000 answers/s (imago, batches of 16); 1 pass." in REPORT


def test_wrong_answers_and_failures_are_not_hidden() -> None:
    assert "**wrong**" in REPORT
    assert "ray failed: the server ended with 1" in REPORT


def test_a_load_in_an_open_loop_has_a_line_with_the_share_refused() -> None:
    assert "| imago | 90% | 900 | 1.00 | 8.50 | 10.0% | 0 | 0.10 | 0.10 |" in REPORT


def test_the_command_of_a_run_names_no_folder_of_this_machine() -> None:
    given = [
        "/home/me/benchmarks/compare.py",
        "--servers",
        "imago",
        "--environments",
        "/home/me/venvs",
        "--passes",
        "1",
    ]
    assert command(given) == "python -m benchmarks.compare --servers imago --passes 1"


def test_what_other_commands_measured_outlives_a_new_report(tmp_path: Path) -> None:
    file = tmp_path / "RESULTS.md"
    assert kept(file) == ""
    file.write_text(f"# Results\n\n{KEPT}\n## Swaps\n")
    for _ in range(2):
        file.write_text(REPORT + kept(file))
    assert file.read_text() == f"{REPORT}\n{KEPT}\n## Swaps\n"
