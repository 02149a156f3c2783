"""The compiled coder against the plain one, body by body."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logitstore.codec import fast, reference
from logitstore.codec.arrays import WeightForm
from logitstore.codec.body import LANES
from logitstore.codec.sorting import order_by_size, sort_segments
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
def test_segments_are_sorted_like_numpy_does(sizes, seed):
    keys = np.random.default_rng(seed).integers(0, 1 << 20, sum(sizes)).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    wanted = [np.sort(keys[start:end]).tolist() for start, end in pairwise(offsets)]
    lengths = np.array(sizes, np.int64)
    sort_segments(keys, offsets[:-1], lengths, *order_by_size(lengths))
    assert keys.tolist() == [key for part in wanted for key in part]
