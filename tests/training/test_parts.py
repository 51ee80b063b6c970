"""Small parts: schedules, augmentation, metrics, the whitening stem, the optimiser."""

import numpy as np
import pytest
import torch

from training.data.augment import cut_out, flip_every_other, jitter, translate, zoom
from training.engine import Average
from training.metrics import (
    accuracy,
    calibrate_sets,
    calibration_error,
    confusion,
    fit_temperature,
    intersection_over_union,
    nearest,
    retrieval,
    separation,
)
from training.networks.classifier import WhiteningStem
from training.networks.graphs import SegmentGraph, scaled
from training.networks.segmenter import Segmenter
from training.networks.statistics import whitening
from training.optimisers import Muon, orthogonal
from training.schedules import cosine, triangle
from training.segmenting import take_back


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_a_triangle_rises_to_its_peak_and_falls_to_nothing() -> None:
    factor = triangle(100, 0.2)
    values = [factor(step) for step in range(101)]
    assert max(values) == pytest.approx(1)
    assert values.index(max(values)) in (19, 20)
    assert values[100] == 0


def test_a_cosine_warms_up_and_ends_at_nothing() -> None:
    factor = cosine(100, 10)
    assert factor(0) < factor(5) < factor(10) == 1
    assert factor(100) == pytest.approx(0)


def test_each_picture_is_seen_both_ways_in_two_epochs() -> None:
    images, rows = torch.rand(20, 3, 4, 4), torch.arange(20)
    first, second = (flip_every_other(images, rows, epoch) for epoch in (0, 1))
    torch.testing.assert_close(first, second.flip(-1))
    mirrored = (first != images).flatten(1).any(1)
    assert 0 < int(mirrored.sum()) < 20


def test_translation_moves_by_at_most_its_reach_and_passes_gradients() -> None:
    images = torch.zeros(64, 1, 9, 9, requires_grad=True)
    spots = images + torch.nn.functional.pad(torch.ones(1, 1, 1, 1), (4, 4, 4, 4))
    moved = translate(spots, 2, seeded())
    places = moved.detach().flatten(1).argmax(1)
    assert set((places // 9).tolist()) == {2, 3, 4, 5, 6}
    moved.sum().backward()
    assert images.grad is not None
    assert float(images.grad.abs().sum()) > 0


def test_a_cut_out_square_has_the_mean_colour_and_the_rest_is_as_it_was() -> None:
    pictures = torch.rand(20, 3, 10, 12, generator=seeded())
    cut = cut_out(pictures, 4, seeded())
    changed = (cut != pictures).all(1)
    assert changed.sum((1, 2)).tolist() == [16] * 20
    means = pictures.mean((2, 3))
    torch.testing.assert_close(cut.permute(0, 2, 3, 1)[changed], means.repeat_interleave(16, 0))
    assert len({tuple(place) for place in changed.flatten(1).int().argmax(1, keepdim=True).tolist()}) > 5


def test_a_zoomed_window_keeps_pictures_and_labels_together() -> None:
    labels = torch.randint(0, 11, (8, 40, 60), generator=seeded()).to(torch.uint8)
    labels = labels[:, ::8, ::8].repeat_interleave(8, 1).repeat_interleave(8, 2)[:, :40, :60]
    images = labels[:, None].float().expand(-1, 3, -1, -1) / 11
    windows, marks = zoom(images, labels, (32, 32), (0.5, 2.0), 11, seeded())
    assert windows.shape == (8, 3, 32, 32)
    inside = marks < 11
    assert 0 < float(inside.float().mean()) < 1, "some windows reach beyond the picture"
    agree = (windows[:, 0] * 11 - marks).abs()[inside] < 0.5
    assert float(agree.float().mean()) > 0.6, "bilinear and nearest differ at edges only"


def test_jitter_stays_in_range() -> None:
    toned = jitter(torch.rand(16, 3, 8, 8, generator=seeded()), 0.5, seeded())
    assert float(toned.min()) >= 0
    assert float(toned.max()) <= 1


def test_void_counts_neither_as_hit_nor_as_miss() -> None:
    truth, found = torch.tensor([0, 0, 1, 11]), torch.tensor([0, 1, 1, 0])
    matrix = confusion(found, truth, 3)
    assert matrix.sum() == 3
    ious = intersection_over_union(matrix)
    assert ious[:2].tolist() == [0.5, 0.5]
    assert bool(ious[2].isnan())


def test_accuracy_is_a_share() -> None:
    assert accuracy(torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 3, 0])) == 0.75


def test_a_temperature_undoes_overconfidence() -> None:
    logits = torch.randn(4000, 5, generator=seeded())
    labels = torch.distributions.Categorical(logits=logits).sample()
    assert fit_temperature(logits * 3, labels) == pytest.approx(3, rel=0.1)


def test_a_temperature_of_pictures_that_are_all_right_leaves_a_doubt() -> None:
    logits = 4 * torch.randn(40, 5, generator=seeded())
    temperature = fit_temperature(logits, logits.argmax(1))
    sure = torch.softmax(logits / temperature, 1).amax(1)
    assert 0.8 < float(sure.mean()) < 0.995


def test_a_probability_rounded_above_one_is_a_probability() -> None:
    probabilities, labels = np.array([[1 + 1e-7, 0.0], [0.2, 0.8]]), np.array([0, 1])
    assert calibration_error(probabilities, labels) == pytest.approx(0.1, abs=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_class_weights_are_taken_back_as_far_as_serves_held_out_pictures(share: float) -> None:
    torch.manual_seed(0)
    graph, weights = SegmentGraph(Segmenter(3, 8).eval(), 32, 32), torch.tensor([1.0, 2.0, 1.5])
    images = torch.randint(0, 256, (6, 32, 32, 3), generator=seeded(), dtype=torch.uint8)
    with torch.no_grad():
        for value in graph.network.last.parameters():
            value.mul_(20)
        graph.network.add(-graph.logits(scaled(images)).mean((0, 2, 3)))
        labels = (graph.logits(scaled(images)) - share * weights.log().view(1, -1, 1, 1)).argmax(1)
    assert len(labels.unique()) == 3
    assert take_back(graph, weights, [(images[:4], labels[:4]), (images[4:], labels[4:])]) == share
    assert torch.equal(graph(images)[0].long(), labels)


def test_label_sets_hold_the_right_label_as_often_as_promised() -> None:
    random = np.random.default_rng(0)
    calibrating, new = random.beta(5, 2, 999), random.beta(5, 2, 200_000)
    least = calibrate_sets(calibrating).least
    for coverage in (0.5, 0.8, 0.9, 0.99):
        assert (new >= least[f"{coverage:.2f}"]).mean() == pytest.approx(coverage, abs=0.03)
    assert least["0.90"] == np.sort(calibrating)[::-1][899]  # ceil(1000 * 0.9) of the 999
    assert list(least) == sorted(least)
    assert sorted(least.values(), reverse=True) == list(least.values())


def test_too_few_pictures_for_a_coverage_put_every_label_into_the_set() -> None:
    least = calibrate_sets(np.full(10, 0.7)).least
    assert least["0.90"] == 0.7
    assert least["0.95"] == 0


def test_separation_is_the_chance_to_rank_a_stranger_higher() -> None:
    assert separation(np.array([1.0, 2.0]), np.array([3.0, 9.0])) == 1
    assert separation(np.array([1.0, 4.0]), np.array([2.0, 9.0])) == 0.75
    assert separation(np.array([5.0, 5.0]), np.array([5.0, 5.0])) == 0.5


def test_retrieval_counts_pictures_of_the_same_class_among_the_nearest_others() -> None:
    angles = np.radians([0, 10, 15, 90, 110, 250])
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1)
    # Nearest others in order: 10 15 ..., 15 0 ..., 10 0 90 ..., 110 15 ..., 90 15 ..., and 250 is alone in its class.
    found = retrieval(vectors, np.array([0, 0, 1, 1, 1, 2]))
    assert found["recall_at_1"] == pytest.approx(3 / 6)
    assert found["recall_at_5"] == pytest.approx(5 / 6)
    assert found["map_at_r"] == pytest.approx((1 + 0 + 0 + 1 + 1) / 5)


def test_whitened_features_are_told_apart_by_what_hardly_varies_within_a_class() -> None:
    labels = torch.arange(300) % 3
    features = torch.randn(300, 8, generator=seeded()) * torch.tensor([12.0, 12, 1, 1, 1, 1, 1, 1])
    features[:, 2] += 8 * labels
    mean, projection = whitening(features, labels, 4)
    assert projection.shape == (8, 4)
    found = torch.nn.functional.normalize((features - mean) @ projection).numpy()
    plain = torch.nn.functional.normalize(features).numpy()
    assert retrieval(found, labels.numpy())["recall_at_1"] > 0.9
    assert retrieval(plain, labels.numpy())["recall_at_1"] < 0.8


def test_nearest_rows_come_largest_product_first() -> None:
    known = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    assert nearest(np.array([[0.0, 2.0], [3.0, 0.1]]), known, 2).tolist() == [[1, 2], [0, 2]]


def test_calibration_error_is_how_far_confidence_is_from_accuracy() -> None:
    sure = np.tile([[0.9, 0.1]], (10, 1))
    assert calibration_error(sure, np.array([0] * 9 + [1])) == pytest.approx(0, abs=1e-6)
    assert calibration_error(sure, np.array([0] * 5 + [1] * 5)) == pytest.approx(0.4, abs=1e-6)


def test_whitened_patches_are_uncorrelated() -> None:
    pictures = torch.rand(200, 3, 8, 8, generator=seeded())
    pictures = (pictures + pictures.mean(1, keepdim=True)) / 2
    stem = WhiteningStem()
    stem.fit(pictures, floor=0)
    with torch.no_grad():
        patches = stem.conv(pictures)[:, :12].permute(1, 0, 2, 3).flatten(1)
    torch.testing.assert_close(torch.cov(patches), torch.eye(12), atol=0.02, rtol=0)


def test_orthogonal_steps_have_singular_values_near_one() -> None:
    values = torch.linalg.svdvals(orthogonal(torch.randn(16, 40, generator=seeded()), rounds=5))
    assert float(values.min()) > 0.5
    assert float(values.max()) < 1.5


def test_muon_keeps_filters_at_their_norm_and_lowers_a_loss() -> None:
    conv = torch.nn.Conv2d(4, 8, 3)
    optimiser = Muon([{"params": [conv.weight], "lr": 0.02}, {"params": [conv.bias], "orthogonal": False}])
    pictures = torch.randn(4, 4, 8, 8, generator=seeded())
    losses = []
    for _ in range(30):
        loss = (conv(pictures) - 1).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[1] / 2
    assert float(conv.weight.detach().norm()) == pytest.approx(8**0.5, rel=0.1)


def test_an_average_follows_weights_and_statistics() -> None:
    network = torch.nn.BatchNorm1d(2)
    average = Average(network, decay=0.9)
    with torch.no_grad():
        network.weight.fill_(2)
        network.running_mean.fill_(1)
    average.follow(network)
    assert average.module.weight.tolist() == pytest.approx([1.1, 1.1])
    assert average.module.running_mean.tolist() == pytest.approx([0.1, 0.1])
    assert not average.train().module.training


def test_an_average_that_is_told_the_step_soon_forgets_where_it_began() -> None:
    network = torch.nn.Linear(1, 1, bias=False)
    average = Average(network, decay=0.998)
    begun = average.module.weight.item()
    with torch.no_grad():
        network.weight.fill_(begun + 1)
    for step in range(30):
        average.follow(network, step)
    assert average.module.weight.item() == pytest.approx(begun + 1, abs=1e-4)
    with torch.no_grad():
        network.weight.fill_(begun + 2)
    average.follow(network, 10**6)
    assert average.module.weight.item() == pytest.approx(begun + 1 + 0.002, abs=1e-4)
