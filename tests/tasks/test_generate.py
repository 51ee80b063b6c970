"""Generation on a real tiny graph: what an image depends on, and what it does not."""

import base64
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from app.errors import InvalidOption
from app.imaging.codec import Decoder
from app.tasks.generate import MAX_SEED, between, latent_row, positions
from app.tensors import split, stack
from tests.tasks.asked import Asked


def pixels(result: dict[str, Any]) -> np.ndarray[Any, Any]:
    return Decoder().open(base64.b64decode(result["image"]["data"])).decode()


def test_one_image_says_how_to_draw_it_again(generator: Asked) -> None:
    (result,) = generator.answer(None, seed=7, **{"class": "green"})
    assert (result["seed"], result["index"], result["class"]) == (7, 0, "green")
    assert (result["image"]["width"], result["image"]["height"]) == (8, 8)
    assert pixels(result).shape == (8, 8, 3)
    assert generator.answer(None, seed=7, **{"class": "green"}) == [result]


def test_a_series_is_the_same_alone_and_together(generator: Asked) -> None:
    together = generator.answer(None, seed=3, count=64)
    alone = [generator.answer(None, seed=3, index=index)[0] for index in range(64)]
    assert together == alone
    assert [result["index"] for result in together] == list(range(64))


def test_an_offset_continues_the_series(generator: Asked) -> None:
    assert generator.answer(None, seed=3, count=5)[2:] == generator.answer(None, seed=3, count=3, index=2)


def test_an_image_does_not_depend_on_strangers_in_its_batch(generator: Asked) -> None:
    calls = [generator.run(None, seed=seed, count=count) for seed, count in ((1, 1), (2, 7), (3, 2))]
    batch = generator.session.run(stack([prepared.tensors for prepared, _, _ in calls]))
    for (_, alone, _), part in zip(calls, split(batch, [1, 7, 2]), strict=True):
        assert np.array_equal(alone["image"], part["image"])


def test_other_seeds_and_other_indices_are_other_images(generator: Asked) -> None:
    results = generator.answer(None, seed=1, count=8) + generator.answer(None, seed=2, count=8)
    assert len({result["image"]["data"] for result in results}) == 16


def test_a_seed_is_drawn_where_none_is_named_and_gives_the_same_again(generator: Asked) -> None:
    (first,), (second,) = generator.answer(None), generator.answer(None)
    assert first["seed"] != second["seed"]
    assert generator.answer(None, seed=first["seed"]) == [first]


@pytest.mark.parametrize("seed", [0, 1, MAX_SEED])
@pytest.mark.parametrize("index", [0, 2**31])
def test_the_ends_of_the_ranges_work(generator: Asked, seed: int, index: int) -> None:
    results = generator.answer(None, seed=seed, index=index, count=2)
    assert [result["index"] for result in results] == [index, index + 1]


@pytest.mark.parametrize("named", ["blue", 2, "2", "02"])
def test_a_class_is_named_or_numbered(generator: Asked, named: str | int) -> None:
    (result,) = generator.answer(None, seed=1, **{"class": named})
    assert result["class"] == "blue"
    assert pixels(result)[..., 2].mean() > pixels(result)[..., :2].mean()


def test_without_a_class_one_is_drawn_for_each_image(generator: Asked) -> None:
    drawn = [result["class"] for result in generator.answer(None, seed=5, count=60, **{"class": None})]
    assert set(drawn) == {"red", "green", "blue"}
    assert drawn == [result["class"] for result in generator.answer(None, seed=5, count=60)]


def test_naming_the_class_that_would_be_drawn_changes_nothing(generator: Asked) -> None:
    (drawn,) = generator.answer(None, seed=11)
    assert generator.answer(None, seed=11, **{"class": drawn["class"]}) == [drawn]


@pytest.mark.parametrize(
    "named", ["purple", "3", 3, -1, "-1", "", "RED", "1.0", "٢", "9" * 5000, "0" * 64 + "9", 10**30, "'; DROP"]
)
def test_a_class_that_does_not_exist_is_refused_with_those_that_do(generator: Asked, named: str | int) -> None:
    with pytest.raises(InvalidOption, match="neither a label nor an index; labels: red, green, blue") as refused:
        generator.answer(None, **{"class": named})
    assert len(refused.value.detail) < 200


def test_truncation_bounds_every_value() -> None:
    for truncation in (0.1, 0.5, 2.0):
        z, _ = latent_row(1, 2, 4096, 10, truncation)
        assert np.abs(z).max() <= truncation
    assert np.abs(latent_row(1, 2, 4096, 10, None)[0]).max() > 2


def test_truncation_keeps_what_it_does_not_redraw() -> None:
    free, bounded = latent_row(1, 2, 64, 10, None)[0], latent_row(1, 2, 64, 10, 1.0)[0]
    inside = np.abs(free) <= 1
    assert np.array_equal(free[inside], bounded[inside])


def test_the_series_never_changes() -> None:
    z, drawn = latent_row(7, 3, 4, 10, None)
    # Whoever has to change these numbers gives everybody other images for the seeds that they noted.
    assert drawn == 5
    assert z.tolist() == pytest.approx([-0.9134207, -0.5155607, 1.8603299, -0.1543684], abs=1e-6)


def test_latent_values_are_normal_and_classes_even() -> None:
    rows = [latent_row(0, index, 16, 4, None) for index in range(500)]
    values = np.stack([z for z, _ in rows])
    assert abs(values.mean()) < 0.05
    assert abs(values.std() - 1) < 0.05
    assert np.bincount([drawn for _, drawn in rows], minlength=4).min() > 80


def test_one_image_is_drawn_as_it_is_and_several_on_a_sheet(generator: Asked) -> None:
    results = generator.answer(None, seed=4, count=5)
    assert generator.drawing(None, seed=4) == base64.b64decode(results[0]["image"]["data"])
    sheet = Decoder().open(generator.drawing(None, seed=4, count=5)).decode()
    assert sheet.shape == (16, 24, 3)
    assert np.array_equal(sheet[8:, 8:16], pixels(results[4]))
    assert (sheet[8:, 16:] == 255).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("count", value) for value in (0, 65, -1, "1e3", 2**70)),
        *(("seed", value) for value in (-1, 2**53, 0.5, "seven", [])),
        *(("index", value) for value in (-1, 2**31 + 1, None)),
        *(("truncation", value) for value in (0, 11, "nan", float("inf"), "")),
        *(("class", value) for value in (["red"], 1.5, True, {})),
        *((name, 1) for name in ("sead", "classs", "__class__", "")),
    ],
)
def test_options_that_are_unknown_or_out_of_range_are_refused(generator: Asked, name: str, value: object) -> None:
    with pytest.raises(ValidationError):
        generator.options(**{name: value})


def test_images_agree_by_the_mean_difference_of_their_colours(generator: Asked) -> None:
    task = generator.task
    mine = np.full((2, 8, 8, 3), 200, np.uint8)
    assert task.agreement({"image": mine}, task, {"image": mine}) == 1
    assert task.agreement({"image": mine}, task, {"image": mine - 51}) == pytest.approx(0.8)
    assert task.agreement({"image": mine}, task, {"image": mine[:, :4]}) == 0


def test_images_go_from_one_seed_to_another(generator: Asked) -> None:
    way = generator.answer(None, seed=3, to=9, count=5, **{"class": "red"})
    first, last = (generator.answer(None, seed=seed, **{"class": "red"})[0] for seed in (3, 9))
    assert [result["position"] for result in way] == [0, 0.25, 0.5, 0.75, 1]
    assert {result["index"] for result in way} == {0}
    assert way[0]["image"] == first["image"]
    assert way[4]["image"] == last["image"]
    assert len({result["image"]["data"] for result in way}) == 5


def test_the_way_between_two_codes_is_as_long_as_they_are_all_along() -> None:
    begin, end = (np.random.default_rng(seed).standard_normal(256).astype(np.float32) for seed in (1, 2))
    lengths = [float(np.linalg.norm(between(begin, end, position))) for position in positions(9)]
    assert np.allclose(lengths, 16, rtol=0.1)
    assert float(np.linalg.norm(0.5 * begin + 0.5 * end)) < 13
    np.testing.assert_array_equal(between(begin, begin, 0.5), begin)


def test_a_way_of_one_image_is_its_beginning(generator: Asked) -> None:
    (only,) = generator.answer(None, seed=3, to=9, **{"class": "red"})
    assert only["position"] == 0
    assert only["image"] == generator.answer(None, seed=3, **{"class": "red"})[0]["image"]
