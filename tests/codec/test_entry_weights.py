"""The weights of entries, position by position as FORMAT.md says."""

import numpy as np
import pytest

from logitstore.codec.arrays import WeightForm
from logitstore.codec.weights import entry_weights
from tests.codec.coded_sequences import SCALES, build, random_sequence, split_evenly


def plain_weights(arrays):
    """COUNTS and HEAD_GRID in Python's own numbers, which are float64 too."""
    heads = arrays.counts if arrays.head_counts is None else arrays.head_counts
    weights, value = [], 0
    for count, head in zip(arrays.counts.tolist(), heads.tolist(), strict=True):
        own = arrays.values[value : value + head].tolist()
        tail = count - head
        weights += [number / arrays.scale for number in own]
        weights += [(arrays.scale - sum(own)) / (arrays.scale * tail) for _ in range(tail)]
        value += head
    return np.array(weights).astype(np.float32).tolist()


@pytest.mark.parametrize("form", [WeightForm.COUNTS, WeightForm.HEAD_GRID])
def test_weights_are_those_of_the_format(form):
    arrays = random_sequence(form, num_tokens=200, seed=5)
    assert entry_weights(arrays).tolist() == plain_weights(arrays)


@pytest.mark.parametrize("form", [WeightForm.PROBABILITIES, WeightForm.FLOAT32])
def test_stored_weights_are_returned_as_they_are(form):
    arrays = random_sequence(form, num_tokens=50)
    assert entry_weights(arrays).tolist() == arrays.values.tolist()


def test_weights_of_every_size_of_head_and_tail_are_those_of_the_format():
    positions, values, scale = [], [], (1 << 32) - 1
    for head in (0, 1, 15, 16, 17, 40):
        for tail in (0, 1, 15, 16, 17, 40):
            positions.append((range(head), range(head, head + tail)))
            values += split_evenly(scale - 7 * (tail > 0), head) if head else []
    arrays = build(WeightForm.HEAD_GRID, positions, values, scale=scale)
    assert entry_weights(arrays).tolist() == plain_weights(arrays)


def test_a_sequence_without_entries_has_no_weights():
    for form in SCALES:
        assert len(entry_weights(build(form, [((), ())] * 2, []))) == 0
