"""Detectors: which place answers for which object, what a graph says, average precision, and a network that learns."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from training.average_precision import Pictures, precision, redrawn
from training.data.feed import Draw
from training.detecting import DetectHyper, DetectLoop, batches
from training.evaluation.detection import Answers, compare, figures_of
from training.matching import complete_overlap, loss, match, overlap, quality_focal
from training.networks.detector import CELL, Detector, Said
from training.networks.graphs import DetectGraph, edges_of, places_of

SIZE = 8
"""Places in a row and in a column."""


def said(scores: dict[tuple[int, int, int], float], boxes: dict[tuple[int, int], list[float]]) -> Said:
    """What a head might say of 64x64 pixels: scores by label, row and column; boxes by row and column, elsewhere those
    of two cells."""
    logits = torch.full((1, 3, SIZE, SIZE), -9.0)
    for (label, row, column), score in scores.items():
        logits[0, label, row, column] = math.log(score / (1 - score))
    reach = torch.ones(1, 4, SIZE, SIZE)
    for (row, column), (left, top, right, bottom) in boxes.items():
        x, y = CELL * (column + 0.5), CELL * (row + 0.5)
        reach[0, :, row, column] = torch.tensor([x - left, y - top, right - x, bottom - y]) / CELL
    return Said(logits, reach)


def matched(head: Said, truth: list[list[float]], places: int) -> tuple[Tensor, Tensor, Tensor]:
    """Targets [3,8,8], shares [8,8] and boxes [8,8,4]."""
    found = match(
        head.logits.flatten(2).transpose(1, 2).sigmoid(), edges_of(head), places_of(head), torch.tensor([truth]), places
    )
    return found.targets[0].T.view(3, SIZE, SIZE), found.shares[0].view(SIZE, SIZE), found.boxes[0].view(SIZE, SIZE, 4)


def test_the_best_place_answers_for_an_object_and_is_to_say_how_tight_its_box_is() -> None:
    head = said({(1, 2, 3): 0.6, (1, 2, 4): 0.9}, {(2, 3): [16, 8, 48, 32], (2, 4): [16, 8, 32, 32]})
    targets, shares, boxes = matched(head, [[16, 8, 48, 32, 1]], 1)
    assert shares.nonzero().tolist() == [[2, 3]], "a tight box weighs more than a sure score"
    assert targets.nonzero().tolist() == [[1, 2, 3]]
    assert float(targets[1, 2, 3]) == pytest.approx(1)
    assert boxes[2, 3].tolist() == [16, 8, 48, 32]


def test_of_several_places_the_best_counts_whole_and_none_lies_outside() -> None:
    head = said({(0, 3, 3): 0.5}, {(3, 3): [10, 10, 54, 54]})
    targets, shares, _ = matched(head, [[8, 8, 56, 56, 0]], 10)
    assert int((shares > 0).sum()) == 10
    assert float(shares[3, 3]) == float(shares.max()) == pytest.approx(1)
    assert float(targets.max()) == pytest.approx((44 / 48) ** 2)
    inside = shares.nonzero()
    assert inside.min() >= 1
    assert inside.max() <= 6


def test_a_place_answers_for_one_object() -> None:
    truth = [[8, 8, 40, 40, 0], [10, 8, 42, 40, 1]]
    _, shares, boxes = matched(said({}, {(2, 2): [8, 8, 40, 40]}), truth, 64)
    assert boxes[2, 2].tolist() == [8, 8, 40, 40]
    assert all(boxes[row, column].tolist() in [each[:4] for each in truth] for row, column in shares.nonzero().tolist())


@pytest.mark.parametrize("box", [[17, 17, 19, 19], [15.5, 15.5, 16.5, 16.5], [30, 1, 32, 3], [0, 0, 1, 1]])
def test_an_object_smaller_than_a_cell_has_a_place(box: list[float]) -> None:
    _, shares, _ = matched(said({}, {}), [[*box, 2]], 1)
    assert int((shares > 0).sum()) == 1


def test_what_is_padded_has_no_place() -> None:
    targets, shares, _ = matched(said({}, {}), [[-1, -1, -1, -1, -1], [-1, -1, -1, -1, -1]], 10)
    assert not shares.any()
    assert not targets.any()


def test_the_loss_is_least_where_the_truth_is_said() -> None:
    truth = torch.tensor([[[16.0, 8, 48, 32, 1], [-1, -1, -1, -1, -1]]])
    right = said({(1, 2, 3): 0.9999}, {(2, 3): [16, 8, 48, 32]})
    assert float(loss(right, truth, 1)) < 0.01
    for worse in (
        said({(1, 2, 3): 0.9999}, {(2, 3): [16, 8, 40, 32]}),
        said({(0, 2, 3): 0.9999}, {(2, 3): [16, 8, 48, 32]}),
        said({(1, 2, 3): 0.9999, (1, 6, 6): 0.9}, {(2, 3): [16, 8, 48, 32]}),
        said({(1, 2, 3): 0.2}, {(2, 3): [16, 8, 48, 32]}),
    ):
        assert float(loss(worse, truth, 1)) > float(loss(right, truth, 1)) + 0.05
    assert torch.isfinite(loss(right, torch.full((1, 1, 5), -1.0), 1)), "pictures may hold nothing"


def test_overlaps_are_those_of_the_textbook() -> None:
    one = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10], [3, 3, 3, 9]])
    other = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30], [3, 3, 3, 9]])
    assert overlap(one, other).tolist() == pytest.approx([1, 1 / 3, 0, 0])
    # Squares: no difference in shape; middles 5 apart in a box of 15x10, and 20 * sqrt 2 in one of 30x30.
    assert complete_overlap(one, other)[:3].tolist() == pytest.approx([1, 1 / 3 - 25 / 325, -800 / 1800])
    tall = complete_overlap(torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[2.5, 0, 7.5, 10]]))
    difference = 4 / math.pi**2 * (math.atan(1) - math.atan(0.5)) ** 2
    assert float(tall) == pytest.approx(0.5 - difference**2 / (0.5 + difference))


def test_a_score_that_is_nearly_right_costs_next_to_nothing() -> None:
    costs = quality_focal(torch.logit(torch.tensor([0.01, 0.5, 0.99, 0.7])), torch.tensor([0.0, 0.0, 1.0, 0.7]))
    assert float(costs[0]) < 1e-5
    assert float(costs[1]) == pytest.approx(0.25 * math.log(2))
    assert float(costs[3]) == pytest.approx(0, abs=1e-6)


class Speaking(torch.nn.Module):
    """Stands for a network: says the same of every picture."""

    def __init__(self, head: Said) -> None:
        super().__init__()
        self.head = head

    def forward(self, pictures: Tensor) -> Said:
        return Said(*(each.expand(len(pictures), -1, -1, -1) for each in self.head))


def found_in(head: Said) -> list[list[float]]:
    """Rows of a graph that are objects with a score of a tenth and more."""
    rows = DetectGraph(Speaking(head))(torch.zeros(2, 64, 64, 3, dtype=torch.uint8))  # type: ignore[arg-type]
    assert rows.shape == (2, 100, 6)
    assert torch.equal(rows[0], rows[1])
    return [[round(value, 3) for value in row] for row in rows[0].tolist() if row[4] >= 0.1]


def test_a_graph_answers_boxes_best_first_with_score_and_class() -> None:
    head = said({(2, 1, 1): 0.4, (0, 5, 6): 0.9}, {(1, 1): [3, 4, 20, 30], (5, 6): [-5, 30, 80, 60]})
    assert found_in(head) == [[-5, 30, 80, 60, 0.9, 0], [3, 4, 20, 30, 0.4, 2]]


def test_of_neighbours_that_say_the_same_the_better_answers() -> None:
    head = said({(0, 1, 1): 0.9, (0, 2, 2): 0.8, (0, 1, 4): 0.7, (1, 1, 2): 0.6}, {})
    assert [(row[4], row[5]) for row in found_in(head)] == [(0.9, 0), (0.7, 0), (0.6, 1)]


@pytest.mark.parametrize("size", [(64, 64), (96, 32)])
def test_edges_begin_at_the_middle_of_each_place(size: tuple[int, int]) -> None:
    network = Detector(2, 8).eval()
    with torch.no_grad():
        head = network(torch.rand(2, 3, *size))
    places, edges = places_of(head), edges_of(head)
    assert places[[0, 1, -1]].tolist() == [[4, 4], [12, 4], [size[1] - 4, size[0] - 4]]
    assert edges.shape == (2, size[0] * size[1] // 64, 4)
    assert bool((edges[..., :2] < places).all())
    assert bool((edges[..., 2:] > places).all())


def pictures(found: list[list[list[float]]], truths: list[list[list[float]]]) -> Pictures:
    return Pictures(
        ("a", "b"),
        [np.array(each, np.float64).reshape(-1, 5) for each in truths],
        [np.array(each, np.float64).reshape(-1, 6) for each in found],
    )


BOX, AWAY = [10, 10, 30, 30], [60, 60, 80, 80]


def test_all_found_is_a_precision_of_one_and_nothing_found_is_none() -> None:
    truths = [[[*BOX, 0], [*AWAY, 1]], [[*BOX, 1]]]
    right = precision(pictures([[[*BOX, 0.9, 0], [*AWAY, 0.3, 1]], [[*BOX, 0.5, 1]]], truths))
    assert (right.map50, right.map) == pytest.approx((1, 1))
    none = precision(pictures([[], []], truths))
    assert (none.map50, none.map) == (0, 0)


def test_average_precision_is_that_of_coco() -> None:
    # One of two is found, after a mistake: precision 1/2 up to a recall of 1/2, and 0 beyond, over 101 levels.
    half = precision(pictures([[[*AWAY, 0.9, 0], [*BOX, 0.8, 0]], []], [[[*BOX, 0]], [[*BOX, 0]]]))
    assert half.map50 == pytest.approx(0.5 * 51 / 101)
    assert np.isnan(half.ap50[1]), "no picture has one of b"
    loose = precision(pictures([[[10, 10, 30, 24, 0.9, 0]]], [[[*BOX, 0]]]))  # an IoU of 0.7, or a little less
    assert loose.map50 == pytest.approx(1)
    assert loose.map in (pytest.approx(0.4), pytest.approx(0.5))


def test_a_second_box_for_the_same_object_is_a_mistake() -> None:
    truths = [[[*BOX, 0]], [[*BOX, 0]]]
    doubled = precision(pictures([[[*BOX, 0.9, 0], [*BOX, 0.8, 0]], [[*BOX, 0.7, 0]]], truths))
    assert doubled.map50 == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_the_best_threshold_leaves_mistakes_out() -> None:
    truths = [[[*BOX, 0]], [[*BOX, 0]], [[*BOX, 1]]]
    found = [[[*BOX, 0.9, 0], [*AWAY, 0.3, 0]], [[*BOX, 0.6, 0], [*AWAY, 0.5, 0]], [[*AWAY, 0.9, 1], [*BOX, 0.8, 1]]]
    assert precision(pictures(found, truths)).thresholds.tolist() == pytest.approx([0.6, 0.8])


def test_pictures_without_objects_are_neither_right_nor_wrong() -> None:
    empty = precision(pictures([[[*BOX, 0.9, 0]]], [[]]))
    assert math.isnan(empty.map50)
    assert redrawn(pictures([[], [[*BOX, 0.9, 0]]], [[], [[*BOX, 0]]]), 20).shape == (20, 2)


def test_bounds_enclose_the_figure_and_two_versions_are_compared_on_the_same_pictures() -> None:
    random = np.random.default_rng(0)
    truths = [[[*BOX, 0], [*AWAY, 1]] for _ in range(20)]
    good = [[[*BOX, 0.9, 0], [*AWAY, 0.8, 1]] if random.random() < 0.9 else [] for _ in range(20)]
    poor = [found if random.random() < 0.5 else [] for found in good]
    better, worse = Answers(pictures(good, truths)), Answers(pictures(poor, truths))
    _, figures = figures_of(better)
    assert figures["map50_low"] < figures["map50"] < figures["map50_high"] <= 1
    assert figures["map50_high"] - figures["map50_low"] < 0.4
    assert {"ap50_a", "ap50_b"} < figures.keys()
    found = compare(better, worse)
    assert found.p_value < 0.05
    assert found.difference > 0.2


def test_a_size_that_the_network_cannot_halve_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[320, 300\] are no multiples of 32"):
        DetectHyper(size=(320, 300))


def test_batches_are_mosaics_until_the_last_epochs() -> None:
    images = torch.zeros(9, 64, 64, 3, dtype=torch.uint8)
    truths = [torch.tensor([[20.0, 20, 40, 40, number % 2]]) for number in range(9)]
    hyper = DetectHyper(epochs=10, size=(64, 64), mosaic=1, plain=0.2)
    make = batches(images, truths, hyper)
    for epoch, most in ((0, 4), (7, 4), (8, 1), (9, 1)):
        counts = []
        for seed in range(8):
            shown, seen = make(Draw(torch.arange(4), torch.Generator().manual_seed(seed), epoch))
            assert shown.shape == (4, 3, 64, 64)
            counts.append(seen.shape[1])
        assert max(counts) <= most
        assert most == 1 or max(counts) > 1


def test_a_network_learns_eight_pictures() -> None:
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    images = torch.zeros(8, 64, 64, 3, dtype=torch.uint8)
    truths = []
    for image in images:
        boxes = []
        for label, (x, y) in enumerate(random.integers(0, 20, (2, 2)).tolist()):
            left, top, side = x + 24 * label, y, 12 + 8 * label
            image[top : top + side, left : left + side, label] = 255
            boxes.append([left, top, left + side, top + side, label])
        truths.append(torch.tensor(boxes, dtype=torch.float32))
    hyper = DetectHyper(size=(64, 64), width=16, mosaic=0, scales=(1.0, 1.0), colour=0.0, decay=0.9)
    loop = DetectLoop(hyper, ("red", "green"), 150)
    optimiser = torch.optim.AdamW(loop.network.parameters(), lr=2e-3)
    make = batches(images, truths, hyper)
    losses = []
    for step in range(120):
        shown, seen = make(Draw(torch.arange(8), torch.Generator().manual_seed(step), 0))
        features = loop.network.features(shown)
        whole = loss(loop.network.several(features), seen, 10) + loss(loop.network.single(features), seen, 1)
        optimiser.zero_grad()
        whole.backward()
        optimiser.step()
        loop.average.follow(loop.network)
        losses.append(float(whole.detach()))
    assert np.mean(losses[-10:]) < 0.25 * np.mean(losses[:10])
    with torch.no_grad():
        boxes = DetectGraph(loop.average.module)(images).double().numpy()
    right = precision(Pictures(("red", "green"), [each.double().numpy() for each in truths], list(boxes)))
    assert right.map50 > 0.95
