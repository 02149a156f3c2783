from dataclasses import replace

import numpy as np
import pytest

from logitstore.codec import MAX_ENTRIES, MAX_TOKENS, WeightForm, encode
from logitstore.errors import InvalidInput
from tests.codec.sequence_arrays import build

POSITIONS = [([4], [6, 7]), ([], []), ([1, 2], [0, 5])]
COUNTS = build(WeightForm.COUNTS, POSITIONS, [1, 2, 3, 4, 5, 6, 7], scale=50)
PROBABILITIES = build(WeightForm.PROBABILITIES, POSITIONS, [0.5] * 7)
FLOAT32 = build(WeightForm.FLOAT32, POSITIONS, [0.5] * 7)
HEAD_GRID = build(WeightForm.HEAD_GRID, POSITIONS, [30, 40, 24], scale=64)


def changed(array, index, value):
    array = array.copy()
    array[index] = value
    return array


@pytest.mark.parametrize("arrays", [COUNTS, PROBABILITIES, FLOAT32, HEAD_GRID], ids=lambda arrays: arrays.form.name)
def test_the_arrays_that_the_refusals_start_from_are_good(arrays):
    encode(arrays)


REFUSED = {
    "token below 0": (COUNTS, {"tokens": np.array([0, 5, -1], np.int32)}, "position 2 is -1"),
    "token above": (COUNTS, {"tokens": np.array([0, 1 << 20, 3], np.int32)}, "position 1 is 1048576"),
    "tokens of int64": (COUNTS, {"tokens": np.arange(3)}, "tokens is int64"),
    "tokens in 2 dimensions": (COUNTS, {"tokens": np.zeros((3, 1), np.int32)}, "1 dimension was wanted"),
    "tokens in a list": (COUNTS, {"tokens": [0, 1, 2]}, "tokens is a list"),
    "count below 0": (COUNTS, {"counts": np.array([4, -1, 4])}, "position 1 has -1 entries"),
    "count above": (COUNTS, {"counts": np.array([3, 65_536, 4])}, "position 1 has 65536 entries"),
    "counts that do not add up": (COUNTS, {"counts": np.array([3, 1, 4])}, "8 entries together; there are 7"),
    "counts too short": (COUNTS, {"counts": np.array([3, 4])}, "counts has 2 values; 3"),
    "id below 0": (COUNTS, {"ids": changed(COUNTS.ids, 0, -1)}, "position 0 has token id -1"),
    "id above": (COUNTS, {"ids": changed(COUNTS.ids, 6, 1 << 20)}, "position 2 has token id 1048576"),
    "equal ids": (COUNTS, {"ids": changed(COUNTS.ids, 4, 0)}, "position 2 has token id 0 after 0"),
    "falling ids": (COUNTS, {"ids": changed(COUNTS.ids, 1, 3)}, "position 0 has token id 3 after 4"),
    "falling ids in the head": (HEAD_GRID, {"ids": changed(HEAD_GRID.ids, 4, 0)}, "position 2 has token id 0 after 1"),
    "falling ids in the tail": (HEAD_GRID, {"ids": changed(HEAD_GRID.ids, 6, 0)}, "position 2 has token id 0 after 0"),
    "a count of 0": (COUNTS, {"values": changed(COUNTS.values, 3, 0)}, "position 2 has the COUNTS value 0"),
    "more than the draws": (COUNTS, {"values": changed(COUNTS.values, 2, 51)}, "position 0 has the COUNTS value 51"),
    "values too short": (COUNTS, {"values": COUNTS.values[:-1]}, "values has 6 values; 7"),
    "values of int64": (COUNTS, {"values": COUNTS.values.astype(np.int64)}, "uint32 with 1 dimension"),
    "scale 0 of counts": (COUNTS, {"scale": 0}, "COUNTS has scale 0; 1 to"),
    "scale too large": (COUNTS, {"scale": 1 << 32}, "scale 4294967296"),
    "scale no integer": (COUNTS, {"scale": 50.0}, "scale 50.0"),
    "scale of probabilities": (PROBABILITIES, {"scale": 3}, "PROBABILITIES has scale 3; 0 to 0"),
    "a form that is a number": (COUNTS, {"form": 1}, "form is 1"),
    "probability 0": (PROBABILITIES, {"values": changed(PROBABILITIES.values, 3, 0)}, "position 2 has the PROB.* 0.0"),
    "probability above 1": (
        PROBABILITIES,
        {"values": changed(PROBABILITIES.values, 0, 1.0001)},
        "position 0 .* 1.0001",
    ),
    "probability NaN": (PROBABILITIES, {"values": changed(PROBABILITIES.values, 6, np.nan)}, "position 2 .* nan"),
    "float NaN": (FLOAT32, {"values": changed(FLOAT32.values, 3, np.nan)}, "position 2 has the FLOAT32 value nan"),
    "float infinite": (FLOAT32, {"values": changed(FLOAT32.values, 1, -np.inf)}, "position 0 .* -inf"),
    "numerator 0": (HEAD_GRID, {"values": changed(HEAD_GRID.values, 1, 0)}, "position 2 has the HEAD_GRID value 0"),
    "numerator above": (HEAD_GRID, {"values": changed(HEAD_GRID.values, 0, 65)}, "position 0 .* 65"),
    "numerators too many": (HEAD_GRID, {"values": changed(HEAD_GRID.values, 2, 25)}, "position 2 sum to 65"),
    "no head counts": (HEAD_GRID, {"head_counts": None}, "HEAD_GRID came with no head counts"),
    "head counts elsewhere": (COUNTS, {"head_counts": np.zeros(3, np.int64)}, "COUNTS came with head counts"),
    "head above count": (HEAD_GRID, {"head_counts": np.array([1, 1, 1])}, "position 1 has 1 head entries; 0 to 0"),
    "head below 0": (HEAD_GRID, {"head_counts": np.array([1, 0, -1])}, "position 2 has -1 head entries"),
    "unknown statistic": (COUNTS, {"statistics": {"mood": np.zeros(3, np.float32)}}, "no statistic 'mood'"),
    "statistic too short": (COUNTS, {"statistics": {"entropy": np.zeros(2, np.float32)}}, "entropy has 2 values; 3"),
    "statistic of float64": (COUNTS, {"statistics": {"entropy": np.zeros(3)}}, "entropy is float64"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_arrays_that_break_a_rule_are_refused(name):
    arrays, change, text = REFUSED[name]
    with pytest.raises(InvalidInput, match=text):
        encode(replace(arrays, **change))


@pytest.mark.parametrize(("num_tokens", "num_entries"), [(MAX_TOKENS + 1, 0), (1000, MAX_ENTRIES + 1), (1, 65_536)])
def test_sequences_beyond_the_limits_are_refused(num_tokens, num_entries):
    # zeros of stride 0 take no memory; sizes are looked at first
    arrays = replace(
        COUNTS,
        tokens=np.broadcast_to(np.int32(0), num_tokens),
        ids=np.broadcast_to(np.int32(0), num_entries),
    )
    with pytest.raises(InvalidInput, match="is the most that one blob holds"):
        encode(arrays)
