"""Medians over passes, and shares of the limit within them."""

import pytest

from benchmarks.rows import Cores, FailedRow, OpenRow, Outcome, Where
from benchmarks.summary import Section, curves, number, section, sections
from benchmarks.workloads import WORKLOADS
from benchmarks.wrk import Load
from tests.benchmarks.measured import load_row

TINY = WORKLOADS["tiny"]


def cells(found: Section, clients: int = 8) -> dict[str, tuple[float, float | None]]:
    """Share of the limit, and times the best other, by server."""
    lines = ((line.server, line.cells[clients]) for line in found.lines if clients in line.cells)
    return {server: (cell.of_limit, cell.of_best) for server, cell in lines}


def test_a_server_is_compared_by_its_share_of_the_limit_around_it() -> None:
    # imago ran while the machine was half as fast: the same rate is twice the share
    found = section(TINY, [load_row("imago", 400, limit=500.0), load_row("mosec", 400, limit=1000.0)])
    assert cells(found) == {"imago": (0.8, 2.0), "mosec": (0.4, 1.0)}


def test_ratios_are_made_within_a_pass_before_their_median_is_taken() -> None:
    rows = [
        load_row("imago", 900, 1), load_row("mosec", 300, 1),
        load_row("imago", 800, 2), load_row("mosec", 400, 2),
        load_row("imago", 200, 3), load_row("mosec", 200, 3),
    ]  # fmt: skip
    found = section(TINY, rows)
    assert found.passes == 3
    assert cells(found)["imago"] == (0.8, 2.0)
    rate = next(line.cells[8].rate for line in found.lines if line.server == "imago")
    assert (rate.low, rate.median, rate.high) == (200, 800, 900)


def test_the_best_other_is_chosen_for_each_number_of_clients_and_is_never_imago() -> None:
    rows = [
        load_row("imago", 900), load_row("mosec", 500), load_row("fastapi", 300),
        load_row("imago", 100, clients=1), load_row("mosec", 40, clients=1), load_row("fastapi", 50, clients=1),
    ]  # fmt: skip
    found = section(TINY, rows)
    assert found.best_others == {1: "fastapi", 8: "mosec"}
    assert cells(found, 1)["imago"] == (0.1, 2.0)


def test_the_server_with_the_largest_share_stands_first() -> None:
    found = section(TINY, [load_row("fastapi", 300), load_row("imago", 200), load_row("mosec", 500)])
    assert [line.server for line in found.lines] == ["mosec", "fastapi", "imago"]


def test_a_server_that_missed_the_pass_of_the_best_other_has_no_ratio() -> None:
    found = section(TINY, [load_row("imago", 900, 1), load_row("mosec", 300, 2)])
    assert cells(found)["imago"] == (0.9, None)


def test_a_server_that_failed_has_its_reason_once_and_no_figures() -> None:
    failed = [FailedRow(Where("run", number), "tiny", "ray", "the server ended with 1") for number in (1, 2)]
    line = section(TINY, [load_row("imago", 900), *failed]).lines[-1]
    assert (line.server, line.cells, line.facts, line.failures) == ("ray", {}, None, ("the server ended with 1",))


def test_a_variation_is_compared_with_what_it_varies_at_the_same_server_and_number_of_clients() -> None:
    rows = [load_row("imago", 800), load_row("imago", 600, workload="tiny-multipart")]
    cell = section(WORKLOADS["tiny-multipart"], rows).lines[0].cells[8]
    assert cell.of_same == pytest.approx(0.75)


def test_one_wrong_answer_makes_the_server_wrong_and_counts_add_up() -> None:
    load = Load(500.0, 5.0, 1.0, 2.0, refused=3, broken=1, client_cpu=0.1)
    facts = section(TINY, [load_row("imago", 0, 1, load=load), load_row("imago", 0, 2, load=load, right=False)])
    found = facts.lines[0].facts
    assert found is not None
    assert (found.right, found.refused, found.broken) == (False, 6, 2)


def test_sections_come_for_the_workloads_that_were_measured_in_their_order() -> None:
    rows = [load_row("imago", 1, workload=name) for name in ("resnet50", "tiny")]
    assert [each.workload.name for each in sections(rows)] == ["tiny", "resnet50"]


def test_the_levels_of_a_curve_are_medians_over_passes_by_share() -> None:
    def row(number: int, share: float, p99: float | None, refused: int) -> OpenRow:
        outcome = Outcome(100 - refused, refused, 0, 1.0, p99, 0.1)
        where, cores = Where("run", number), Cores(1, 0.1, 0, 0)
        return OpenRow(where, "tiny", "imago", "poisson", share, 1000.0, outcome, cores)

    rows = [row(1, 1.2, None, 100), row(1, 0.5, 4.0, 0), row(2, 0.5, 6.0, 10), row(3, 0.5, 9.0, 20)]
    (curve,) = curves(rows)["tiny"]
    assert [(level.share, level.p99_ms, level.refused) for level in curve.levels] == [(0.5, 6.0, 0.1), (1.2, None, 1.0)]


@pytest.mark.parametrize(("value", "shown"), [(12345.6, "12,346"), (99.94, "99.9"), (1.234, "1.23")])
def test_numbers_are_shown_with_three_digits_or_more(value: float, shown: str) -> None:
    assert number(value) == shown
