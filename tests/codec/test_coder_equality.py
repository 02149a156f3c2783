"""The compiled coder against the plain one, body by body."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logitstore.codec import fast, reference
from logitstore.codec.arrays import WeightForm
from logitstore.codec.body import LANES
from logitstore.codec.sorting import NOTHING, sort_groups
from logitstore.codec.vectors import AT_ONCE
from logitstore.errors import InvalidInput
from tests.codec.coded_sequences import SCALES, assert_same, random_sequence, sequences, table_for

FORMS = list(WeightForm)


def assert_coders_agree(arrays, table, lanes):
    body = fast.encode_body(arrays, table, lanes)
    plain = reference.encode_body(arrays, table, lanes)
    assert body.states.tolist() == plain.states.tolist()
    assert body.words.tolist() == plain.words.tolist()
    assert (body.bits, body.token_bytes) == (plain.bits, plain.token_bytes)
    sizes = len(arrays.tokens), len(arrays.ids)
    assert_same(fast.decode_body(body, table, *sizes), reference.decode_body(body, table, *sizes))


@pytest.mark.parametrize("lanes", [1, LANES])
@pytest.mark.parametrize("form", FORMS)
def test_both_coders_write_and_read_the_same(form, lanes):
    table = table_for(form)

    @settings(max_examples=25, deadline=None, derandomize=True, database=None)
    @given(sequences(form, SCALES[form]))
    def check(arrays):
        assert_coders_agree(arrays, table, lanes)

    check()


@pytest.mark.parametrize("form", FORMS)
def test_both_coders_agree_on_long_sequences(form):
    for lanes in (1, LANES):
        assert_coders_agree(random_sequence(form, num_tokens=203, width=30, seed=7), table_for(form), lanes)


@pytest.mark.parametrize("form", FORMS)
def test_both_coders_agree_on_large_groups(form):
    scale = 500 if SCALES[form] else 0
    arrays = random_sequence(form, num_tokens=30, width=300, seed=3, scale=scale)
    groups = arrays.counts if arrays.head_counts is None else arrays.counts - arrays.head_counts
    assert groups.max() > 100
    for lanes in (1, LANES):
        assert_coders_agree(arrays, table_for(form, scale), lanes)


@pytest.mark.parametrize("form", FORMS)
def test_both_coders_refuse_the_same_damaged_bodies(form):
    table, arrays = table_for(form), random_sequence(form, num_tokens=40)
    sizes = len(arrays.tokens), len(arrays.ids)
    original, rng, refused = fast.encode_body(arrays, table, LANES), np.random.default_rng(0), 0
    for _ in range(60):
        words, bits = original.words.copy(), bytearray(original.bits)
        if rng.integers(2):
            words[rng.integers(len(words))] ^= 1 << rng.integers(16)
        else:
            bits[rng.integers(len(bits))] ^= 1 << rng.integers(8)
        body = original._replace(words=words, bits=bytes(bits))
        outcomes = []
        for coder in (fast, reference):
            try:
                outcomes.append(coder.decode_body(body, table, *sizes))
            except InvalidInput:
                outcomes.append(None)
        if None in outcomes:
            assert outcomes == [None, None]
            refused += 1
        else:
            assert_same(*outcomes)
    assert 20 < refused < 60


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.lists(st.integers(0, 80), max_size=70), st.integers(0, 1000))
def test_groups_are_sorted_like_numpy_does(sizes, seed):
    rng = np.random.default_rng(seed)
    groups = [rng.choice(1000, size + 1, replace=False).astype(np.int32) for size in sizes]
    with_other = rng.integers(0, 2, len(sizes)).astype(bool)
    keys, others, places = joined_groups(groups, with_other)
    ordered = np.empty(sum(sizes) + with_other.sum() + 1, np.int32)
    assert sort_groups(keys, np.array(sizes, np.int64), others, ordered, places)
    wanted = [np.sort(own if other else own[1:]) for own, other in zip(groups, with_other, strict=True)]
    assert ordered[:-1].tolist() == [key for part in wanted for key in part.tolist()]
    for own, other, place in zip(groups, with_other, places, strict=True):
        assert not other or place == (own[1:] < own[0]).sum()


@pytest.mark.parametrize("size", [2, 15, 16, 17, 33, 64, 65, 80])
@pytest.mark.parametrize("twice", ["key", "other"])
def test_groups_with_a_key_twice_are_refused(size, twice):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        group = rng.choice(1000, size + 1, replace=False).astype(np.int32)
        first, second = rng.choice(np.arange(1, size + 1), 2, replace=False)
        group[first] = group[second] if twice == "key" else group[0]
        keys, others, places = joined_groups([group], np.array([twice == "other"]))
        assert not sort_groups(keys, np.array([size]), others, np.empty(size + 2, np.int32), places)


def joined_groups(groups, with_other):
    """Keys, other keys (the first one of each group) and room for places, as `sort_groups` wants them."""
    keys = np.concatenate([*(own[1:] for own in groups), np.zeros(AT_ONCE, np.int32)], dtype=np.int32)
    others = np.array([own[0] for own in groups], np.int32)
    return keys, np.where(with_other, others, NOTHING).astype(np.int32), np.empty(len(groups), np.int64)
