"""`Arena` gives memory out first fit, joins what is given back, and never gives one byte out twice."""

import random

import numpy as np
import pytest

from app.errors import TensorsTooLarge
from app.processes.arena import Arena, ArenaFull, Place
from app.tensors import Tensors

CELL = 64
"""What an arena gives out at least."""


def block(cells: int, value: int = 7) -> Tensors:
    return {"x": np.full(cells * CELL, value, np.uint8)}


def offsets(places: list[Place]) -> list[int]:
    return [place[3] for place in places]


def fits(arena: Arena, cells: int) -> bool:
    """Whether so many cells are free in one piece; they are free again afterwards."""
    try:
        arena.give_back(arena.write(block(cells)))
    except ArenaFull:
        return False
    return True


def test_what_is_written_is_read_back_equal() -> None:
    random_numbers = np.random.default_rng(0)
    tensors: Tensors = {
        "image": random_numbers.integers(0, 255, (2, 5, 7, 3), np.uint8),
        "z": random_numbers.standard_normal((2, 16), np.float32)[:, ::2],  # not contiguous
        "class": np.array([3, -1], np.int64),
        "flags": np.array([True, False]),
        "nothing": np.empty((0, 4), np.float16),
        "scalar": np.array(2.5, np.float64),
    }
    arena = Arena(64 * CELL)
    found = arena.read(arena.write(tensors))
    assert found.keys() == tensors.keys()
    for name, array in tensors.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_the_first_gap_that_is_large_enough_is_taken() -> None:
    arena = Arena(16 * CELL)
    kept = [arena.write(block(cells)) for cells in (1, 2, 1, 4, 1)]
    assert [offsets(places) for places in kept] == [[0], [CELL], [3 * CELL], [4 * CELL], [8 * CELL]]
    arena.give_back(kept[1])
    arena.give_back(kept[3])
    assert offsets(arena.write(block(3))) == [4 * CELL]
    assert offsets(arena.write(block(2))) == [CELL]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (0, 2, 1), (1, 0, 2)])
def test_neighbours_given_back_in_any_order_become_one_place(order: tuple[int, ...]) -> None:
    arena = Arena(6 * CELL)
    kept = [arena.write(block(2)) for _ in range(3)]
    for index in order:
        assert not fits(arena, 6)
        arena.give_back(kept[index])
    assert offsets(arena.write(block(6))) == [0]


def test_tensors_that_do_not_all_fit_leave_nothing_behind() -> None:
    arena = Arena(8 * CELL)
    arena.write(block(2))
    with pytest.raises(ArenaFull):
        arena.write({"a": np.zeros(3 * CELL, np.uint8), "b": np.zeros(3 * CELL, np.uint8), "c": np.zeros(1, np.uint8)})
    assert repr(arena) == "<Arena: 1 places of 512 bytes taken>"
    assert fits(arena, 6)


def test_tensors_that_will_never_fit_together_are_refused_otherwise_than_those_that_do_not_fit_now() -> None:
    arena = Arena(4 * CELL)
    for tensors in (block(5), {"a": np.zeros(3 * CELL, np.uint8), "b": np.zeros(CELL + 1, np.uint8)}):
        with pytest.raises(
            TensorsTooLarge, match="more than the 256 bytes that pass between processes at once: send few"
        ):
            arena.write(tensors)
    arena.write(block(4))
    with pytest.raises(ArenaFull):
        arena.write(block(4))


def test_everything_taken_back_at_once_can_be_taken_again() -> None:
    arena = Arena(4 * CELL)
    arena.write(block(4))
    arena.clear()
    assert offsets(arena.write(block(4))) == [0]


def test_random_giving_and_taking_never_overlaps_and_loses_nothing() -> None:
    dice = random.Random(5)
    arena = Arena(40 * CELL)
    kept: list[tuple[list[Place], int]] = []
    refused = 0
    for turn in range(4000):
        if kept and dice.random() < 0.5:
            places, value = kept.pop(dice.randrange(len(kept)))
            assert (arena.read(places)["x"] == value).all()
            arena.give_back(places)
            continue
        try:
            kept.append((arena.write(block(dice.randint(1, 9), turn % 251)), turn % 251))
        except ArenaFull:
            refused += 1
    assert refused > 100
    for places, value in kept:
        assert (arena.read(places)["x"] == value).all()
        arena.give_back(places)
    assert fits(arena, 40)
