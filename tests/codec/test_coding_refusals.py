from dataclasses import replace

import numpy as np
import pytest

from logitstore.codec.arrays import MAX_ENTRIES, MAX_TOKENS, WeightForm
from logitstore.codec.coding import encode
from logitstore.errors import InvalidInput
from tests.codec.coded_sequences import VOCAB_SIZE, build, table_for

COUNTS = build(WeightForm.COUNTS, [([3, 9], [17]), ([], []), ([4], [])], [30, 19, 1, 50])
HEAD_GRID = build(WeightForm.HEAD_GRID, [([3], [9, 17]), ([], []), ([4, 5], [])], [40, 20, 44])
PROBABILITIES = build(WeightForm.PROBABILITIES, [([3, 9], []), ([], []), ([4], [])], [0.5, 0.25, 1])
FLOAT32 = build(WeightForm.FLOAT32, [([3, 9], []), ([], []), ([4], [])], [0.5, -2, 1])


def changed(array, index, value):
    copy = array.copy()
    copy[index] = value
    return copy


REFUSED = {
    "tokens of int64": (COUNTS, {"tokens": COUNTS.tokens.astype(np.int64)}, "tokens is int64"),
    "token too large": (COUNTS, {"tokens": changed(COUNTS.tokens, 1, 1 << 20)}, "position 1 is 1048576"),
    "token negative": (COUNTS, {"tokens": changed(COUNTS.tokens, 2, -1)}, "position 2 is -1"),
    "id negative": (COUNTS, {"ids": changed(COUNTS.ids, 0, -1)}, "position 0 has token id -1"),
    "ids of int64": (COUNTS, {"ids": COUNTS.ids.astype(np.int64)}, "ids is int64"),
    "ids falling": (COUNTS, {"ids": changed(COUNTS.ids, 1, 2)}, "position 0 has token id 2 after 3"),
    "ids repeated": (COUNTS, {"ids": changed(COUNTS.ids, 1, 3)}, "position 0 has token id 3 after 3"),
    "tail falling": (HEAD_GRID, {"ids": changed(HEAD_GRID.ids, 2, 8)}, "position 0 has token id 8 after 9"),
    "head and tail": (HEAD_GRID, {"ids": changed(HEAD_GRID.ids, 1, 3)}, "position 0 has token id 3 in its head and"),
    "counts too long": (COUNTS, {"counts": np.array([3, 0, 1, 0])}, "counts has 4 values; 3"),
    "counts too many": (COUNTS, {"counts": np.array([3, 0, 2])}, "5 entries together"),
    "counts negative": (COUNTS, {"counts": np.array([5, -1, 0])}, "position 1 has -1 entries"),
    "draws 0": (COUNTS, {"scale": 0}, "COUNTS has scale 0"),
    "draws too many": (COUNTS, {"scale": 1 << 32}, "COUNTS has scale 4294967296"),
    "float with a scale": (FLOAT32, {"scale": 1}, "FLOAT32 has scale 1"),
    "largest code": (PROBABILITIES, {"scale": 65_536}, "PROBABILITIES has scale 65536; 1 to 65535"),
    "count 0": (COUNTS, {"values": changed(COUNTS.values, 2, 0)}, "position 0 has the COUNTS value 0"),
    "count above": (COUNTS, {"values": changed(COUNTS.values, 3, 51)}, "position 2 has the COUNTS value 51"),
    "counts lacking": (COUNTS, {"values": changed(COUNTS.values, 3, 49)}, "counts of position 2 sum to 49; 50"),
    "counts beyond": (COUNTS, {"values": changed(COUNTS.values, 2, 2)}, "counts of position 0 sum to 51; 50"),
    "values of int64": (COUNTS, {"values": COUNTS.values.astype(np.int64)}, "values is int64"),
    "probability 0": (PROBABILITIES, {"values": changed(PROBABILITIES.values, 1, 0)}, "position 0 .* value 0.0"),
    "probability above": (PROBABILITIES, {"values": changed(PROBABILITIES.values, 0, 1.0001)}, "position 0 .* 1.0001"),
    "probability NaN": (PROBABILITIES, {"values": changed(PROBABILITIES.values, 2, np.nan)}, "position 2 .* nan"),
    "float NaN": (FLOAT32, {"values": changed(FLOAT32.values, 2, np.nan)}, "position 2 has the FLOAT32 value nan"),
    "float infinite": (FLOAT32, {"values": changed(FLOAT32.values, 1, -np.inf)}, "position 0 .* -inf"),
    "numerator 0": (HEAD_GRID, {"values": changed(HEAD_GRID.values, 1, 0)}, "position 2 has the HEAD_GRID value 0"),
    "numerator above": (HEAD_GRID, {"values": changed(HEAD_GRID.values, 0, 65)}, "position 0 .* 65"),
    "numerators lacking": (HEAD_GRID, {"values": changed(HEAD_GRID.values, 2, 43)}, "position 2 sum to 63; 64"),
    "tail without weight": (HEAD_GRID, {"values": changed(HEAD_GRID.values, 0, 64)}, "position 0 sum to 64; less"),
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
        encode(replace(arrays, **change), table_for(arrays.form))


@pytest.mark.parametrize("arrays", [COUNTS, HEAD_GRID, PROBABILITIES, FLOAT32])
def test_the_arrays_that_the_refused_ones_are_made_from_are_stored(arrays):
    assert encode(arrays, table_for(arrays.form))


@pytest.mark.parametrize(("num_tokens", "num_entries"), [(MAX_TOKENS + 1, 0), (1000, MAX_ENTRIES + 1), (1, 65_536)])
def test_sequences_beyond_the_limits_are_refused(num_tokens, num_entries):
    # zeros of stride 0 take no memory; sizes are looked at first
    arrays = replace(
        COUNTS,
        tokens=np.broadcast_to(np.int32(0), num_tokens),
        ids=np.broadcast_to(np.int32(0), num_entries),
    )
    with pytest.raises(InvalidInput, match="is the most that one blob holds"):
        encode(arrays, table_for(WeightForm.COUNTS))


@pytest.mark.parametrize("field", ["tokens", "ids"])
def test_ids_that_the_table_does_not_know_are_refused(field):
    array = getattr(COUNTS, field)
    arrays = replace(COUNTS, **{field: changed(array, len(array) - 1, VOCAB_SIZE)})
    with pytest.raises(InvalidInput, match="knows 0 to 999") as caught:
        encode(arrays, table_for(WeightForm.COUNTS))
    assert caught.value.kind == "id-out-of-range"


def test_a_table_for_another_form_or_scale_is_refused():
    for table in (table_for(WeightForm.FLOAT32), table_for(WeightForm.COUNTS, 20)):
        with pytest.raises(InvalidInput, match="frequency table is for"):
            encode(COUNTS, table)


def test_a_sequence_that_a_foreign_table_has_no_room_for_is_refused():
    table = table_for(WeightForm.COUNTS)
    frequencies = table.frequencies.copy()
    # every position has 3 entries, says this one
    frequencies[0] = 0
    frequencies[0, 3] = 4096
    with pytest.raises(InvalidInput, match="no room"):
        encode(COUNTS, replace(table, frequencies=frequencies))
