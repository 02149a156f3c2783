from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logitstore.errors import InvalidInput
from logitstore.loader import EpochOrder, epoch_order


def order_of(length, *, store="0f" * 32, seed=0, epoch=0) -> list[int]:
    order = epoch_order(length, store_sha256=store, seed=seed, epoch=epoch)
    return order.indices(np.arange(length)).tolist()


def chi_square_z(counts: np.ndarray) -> float:
    """How many standard deviations a chi-square statistic against equal counts lies above its mean."""
    expected = counts.sum() / counts.size
    freedom = counts.size - 1
    return (((counts - expected) ** 2 / expected).sum() - freedom) / math.sqrt(2 * freedom)


@functools.cache
def orders_of_many_epochs(length, num_epochs=3000) -> np.ndarray:
    return np.array([order_of(length, epoch=epoch) for epoch in range(num_epochs)])


def rotations(length, num_epochs=3000) -> np.ndarray:
    starts = np.random.default_rng(0).integers(length, size=num_epochs)
    return (starts[:, None] + np.arange(length)) % length


def worst_neighbours_z(orders: np.ndarray) -> float:
    """The largest z of the joint place of two neighbours, over four pairs of positions."""
    length = orders.shape[1]
    middle = length // 2
    found = []
    for one, other in [(0, 1), (0, length - 1), (middle - 1, middle), (length - 2, length - 1)]:
        joint = np.zeros((length, length))
        np.add.at(joint, (orders[:, one], orders[:, other]), 1)
        found.append(chi_square_z(joint[~np.eye(length, dtype=bool)]))
    return max(found)


@pytest.mark.parametrize("length", range(201))
def test_every_length_gives_a_permutation(length):
    assert sorted(order_of(length)) == list(range(length))


@settings(max_examples=10, deadline=None)
@given(length=st.integers(10_000, 200_000), seed=st.integers(-(2**70), 2**70), epoch=st.integers(0, 2**40))
def test_long_orders_are_permutations(length, seed, epoch):
    assert np.array_equal(np.sort(order_of(length, seed=seed, epoch=epoch)), np.arange(length))


def test_a_place_does_not_depend_on_which_others_are_asked_for():
    order = epoch_order(1000, store_sha256="a", seed=1, epoch=2)
    positions = np.array([999, 0, 500, 500, 7])
    alone = [int(order.indices(np.array([position]))[0]) for position in positions]
    assert order.indices(positions).tolist() == alone == order.indices(np.arange(1000))[positions].tolist()


def test_places_of_a_huge_order_are_distinct_and_in_range():
    order = epoch_order(10**12, store_sha256="a", seed=1, epoch=2)
    found = order.indices(np.arange(10**12 - 20_000, 10**12))
    assert len(np.unique(found)) == 20_000
    assert found.min() >= 0
    assert found.max() < 10**12


def test_store_seed_and_epoch_each_change_the_order():
    settings = itertools.product(["a" * 64, "b" * 64], [0, 1, -1], [0, 1, 2])
    orders = {tuple(order_of(50, store=store, seed=seed, epoch=epoch)) for store, seed, epoch in settings}
    assert len(orders) == 2 * 3 * 3


def test_all_permutations_of_five_sequences_are_equally_frequent():
    # z above 5: by chance less than once in 10,000 (fixed epochs)
    orders = [tuple(order) for order in orders_of_many_epochs(5)]
    counts = np.array([orders.count(permutation) for permutation in itertools.permutations(range(5))])
    assert chi_square_z(counts) < 5


@pytest.mark.parametrize("length", [5, 16])
def test_neighbours_land_anywhere_equally_often(length):
    # z of 8 cases above 5: by chance less than once in 10,000 (fixed epochs)
    assert worst_neighbours_z(orders_of_many_epochs(length)) < 5


def test_a_mere_rotation_is_found_by_the_same_statistic():
    orders = rotations(16)
    assert chi_square_z(np.bincount(orders[:, 0], minlength=16)) < 5
    assert worst_neighbours_z(orders) > 50


def test_orders_of_version_1_stay_as_they_are():
    # saved loader states count on it: another order needs another version of the state
    assert order_of(10, store="00" * 32, seed=0, epoch=0) == [2, 3, 9, 5, 4, 0, 7, 1, 8, 6]
    wanted = [14, 5, 11, 2, 15, 13, 16, 8, 12, 1, 6, 0, 4, 9, 7, 10, 3]
    assert order_of(17, store="00" * 32, seed=3, epoch=5) == wanted


def test_a_position_out_of_range_is_refused():
    order = epoch_order(5, store_sha256="a", seed=0, epoch=0)
    assert len(order) == 5
    for positions in ([5], [-1], [0, 9]):
        with pytest.raises(InvalidInput, match="0 to 4"):
            order.indices(np.array(positions))


def test_key_decides_the_order():
    keys = [bytes(128), bytes(127) + b"\x01", b"\x01" + bytes(127)]
    assert len({tuple(EpochOrder(30, key=key).indices(np.arange(30))) for key in keys}) == 3
