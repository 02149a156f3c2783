import hashlib
import struct
from dataclasses import replace

import numpy as np
import pytest

from logitstore.codec.arrays import WeightForm
from logitstore.codec.coding import decode, encode
from logitstore.codec.table import MAX_LISTED_IDS, MAX_TABLE_BYTES, FrequencyTable
from logitstore.errors import InvalidInput, StoreError
from tests.codec.coded_sequences import LARGEST_VOCABULARY, VOCAB_SIZE, build, random_sequence, table_for
from tests.codec.coded_surgery import seal
from tests.codec.sequence_arrays import assert_same

FORMS = list(WeightForm)


@pytest.mark.parametrize("samples", [0, 2])
@pytest.mark.parametrize("form", FORMS)
def test_a_table_survives_its_file(form, samples):
    table = table_for(form, samples=samples)
    content = table.to_bytes()
    again = FrequencyTable.from_bytes(content)
    assert again.to_bytes() == content
    assert again.sha256 == table.sha256 == hashlib.sha256(content).hexdigest()
    arrays = random_sequence(form, seed=9)
    assert_same(decode(encode(arrays, table), again), decode(encode(arrays, again), table))


def test_fitting_is_repeatable_and_depends_on_the_samples():
    samples = [random_sequence(WeightForm.COUNTS, seed=i) for i in range(2)]
    given = {"vocab_size": VOCAB_SIZE, "form": WeightForm.COUNTS, "scale": 50}
    assert FrequencyTable.fit(samples, **given).sha256 == FrequencyTable.fit(iter(samples), **given).sha256
    assert FrequencyTable.fit(samples, **given).sha256 != FrequencyTable.fit(samples[:1], **given).sha256


@pytest.mark.parametrize("vocab_size", [1, 2, 3, 65, 1000, 262_144, LARGEST_VOCABULARY])
def test_cells_hold_every_rank_once_and_every_id_has_one(vocab_size):
    table = FrequencyTable.fit([], vocab_size=vocab_size, form=WeightForm.COUNTS, scale=50)
    assert (1 << table.cell_widths.astype(np.int64)).sum() == vocab_size
    assert np.array_equal(table.id_of_rank[table.rank_of_id], np.arange(vocab_size))
    assert np.array_equal(table.cell_of_rank[table.cell_starts], np.arange(len(table.cell_widths)))


def test_every_frequency_that_can_be_needed_is_above_0():
    # a table fitted to one token and one entry can still hold any other sequence
    tiny = build(WeightForm.HEAD_GRID, [([5], [])], [64], tokens=[5])
    table = FrequencyTable.fit([tiny] * 50, vocab_size=VOCAB_SIZE, form=WeightForm.HEAD_GRID, scale=64)
    arrays = random_sequence(WeightForm.HEAD_GRID, width=60)
    assert_same(decode(encode(arrays, table), table), arrays)


def test_frequent_ids_come_first_and_have_cells_of_their_own():
    arrays = build(WeightForm.COUNTS, [([7], []), ([7, 500], [])] * 200, [50, 25, 25] * 200, tokens=[1] * 400)
    table = FrequencyTable.fit([arrays], vocab_size=VOCAB_SIZE, form=WeightForm.COUNTS, scale=50)
    assert table.listed_ids.tolist() == [1, 7, 500]
    assert table.cell_widths[:3].tolist() == [0, 0, 0]


def test_no_table_is_larger_than_a_million_bytes():
    rng = np.random.default_rng(0)
    num = MAX_LISTED_IDS + 5000
    ids = rng.permutation(LARGEST_VOCABULARY)[:num]
    arrays = [build(WeightForm.COUNTS, [([], [])] * len(part), [], tokens=part) for part in np.array_split(ids, 4)]
    table = FrequencyTable.fit(arrays, vocab_size=LARGEST_VOCABULARY, form=WeightForm.COUNTS, scale=50)
    assert len(table.listed_ids) == MAX_LISTED_IDS
    assert 0.9 * MAX_TABLE_BYTES < len(table.to_bytes()) <= MAX_TABLE_BYTES


def test_samples_of_another_kind_are_refused():
    given = {"vocab_size": VOCAB_SIZE, "form": WeightForm.COUNTS, "scale": 50}
    with pytest.raises(InvalidInput, match="a sample is HEAD_GRID"):
        FrequencyTable.fit([random_sequence(WeightForm.HEAD_GRID)], **given)
    with pytest.raises(InvalidInput, match="knows 0 to 99"):
        FrequencyTable.fit([random_sequence(WeightForm.COUNTS)], **given | {"vocab_size": 100})
    for vocab_size in (0, LARGEST_VOCABULARY + 1):
        with pytest.raises(InvalidInput, match="1 to 1048576"):
            FrequencyTable.fit([], **given | {"vocab_size": vocab_size})


def kind_of(content):
    with pytest.raises(StoreError) as caught:
        FrequencyTable.from_bytes(content)
    return caught.value.kind


def test_flipped_bits_and_cuts_of_a_table_are_noticed():
    content = table_for(WeightForm.COUNTS).to_bytes()
    for bit in [*range(8 * 24), *range(8 * 24, 8 * len(content), 4999)]:
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        assert kind_of(bytes(damaged)) in {"corrupt-table", "newer-format"}
    for end in [*range(60), *range(60, len(content), 997)]:
        assert kind_of(content[:end]) == "corrupt-table"
    assert kind_of(b"\x93LGT\x02" + content[5:]) == "newer-format"


@pytest.mark.parametrize("field", range(4))
def test_a_table_whose_header_asks_for_too_much_is_refused(field):
    content = table_for(WeightForm.COUNTS).to_bytes()
    body = bytearray(content[:-4])
    struct.pack_into("<I", body, 8 + 4 * field, 2**32 - 1)
    if field == 0:
        body[5] = WeightForm.PROBABILITIES
    assert kind_of(seal(body)) == "corrupt-table"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda t: {"listed_ids": np.array([1, 1], np.int32)}, "an id twice"),
        (lambda t: {"listed_ids": np.array([VOCAB_SIZE], np.int32)}, "below 1000"),
        (lambda t: {"cell_widths": t.cell_widths[1:]}, "cells that do not make up"),
        (lambda t: {"cell_widths": np.empty(0, np.uint8)}, "0 cells"),
        (lambda t: {"cell_widths": np.zeros(VOCAB_SIZE, np.uint8), "vocab_size": VOCAB_SIZE + 1}, "do not make up"),
        (lambda t: {"frequencies": t.frequencies // 2}, "add up to 4096"),
        (lambda t: {"frequencies": t.frequencies[:-1]}, "add up to 4096"),
        (lambda t: {"scale": 0}, "COUNTS has scale 0"),
    ],
)
def test_parts_that_make_no_table_are_refused(change, text):
    table = table_for(WeightForm.COUNTS)
    with pytest.raises(InvalidInput, match=text):
        replace(table, **change(table))
