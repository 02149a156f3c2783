import hashlib
import struct
import tracemalloc
import zlib
from dataclasses import replace

import google_crc32c
import numpy as np
import pytest

from logitstore.codec.arrays import WeightForm
from logitstore.codec.coding import decode, encode
from logitstore.codec.table import MAX_LISTED_IDS, MAX_TABLE_BYTES, FrequencyTable
from logitstore.errors import InvalidInput, StoreError
from tests.codec.coded_sequences import LARGEST_VOCABULARY, VOCAB_SIZE, assert_same, build, random_sequence, table_for

FORMS = list(WeightForm)
#: of a table's file, before its compressed content
FRONT_BYTES = 16


@pytest.mark.parametrize("samples", [0, 2])
@pytest.mark.parametrize("form", FORMS)
def test_a_table_survives_its_file(form, samples):
    table = table_for(form, samples=samples)
    content = table.to_bytes()
    again = FrequencyTable.from_bytes(content)
    assert again.to_bytes() == content
    assert again.sha256 == table.sha256
    arrays = random_sequence(form, seed=9)
    assert_same(decode(encode(arrays, table), again), decode(encode(arrays, again), table))


def test_the_name_of_a_table_does_not_depend_on_how_well_its_file_is_compressed():
    table = table_for(WeightForm.COUNTS)
    file = table.to_bytes()
    content = zlib.decompress(file[FRONT_BYTES:])
    other = resealed(content, level=1)
    assert other != file
    assert FrequencyTable.from_bytes(other).sha256 == table.sha256 == hashlib.sha256(content).hexdigest()


def test_a_table_takes_a_third_of_its_plain_size():
    # of a pilot of 8 sequences of a small vocabulary, nearly all is frequencies
    table = table_for(WeightForm.COUNTS, samples=8)
    plain = 3 * len(table.listed_ids) + len(table.cell_widths) + 2 * table.frequencies.size
    assert len(table.to_bytes()) < plain / 3


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
    shuffled = replace(table, listed_ids=rng.permutation(LARGEST_VOCABULARY)[:MAX_LISTED_IDS].astype(np.int32))
    assert 0.75 * MAX_TABLE_BYTES < len(shuffled.to_bytes()) <= MAX_TABLE_BYTES
    assert np.array_equal(FrequencyTable.from_bytes(shuffled.to_bytes()).listed_ids, shuffled.listed_ids)


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
    # the last bits of a deflate stream may mean nothing, but are under the checksum
    for bit in [
        *range(8 * 24),
        *range(8 * 24, 8 * len(content), 499),
        *range(8 * (len(content) - 12), 8 * len(content)),
    ]:
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        assert kind_of(bytes(damaged)) in {"corrupt-table", "newer-format"}
    for end in [*range(60), *range(60, len(content), 97)]:
        assert kind_of(content[:end]) == "corrupt-table"
    assert kind_of(b"\x93LGT\x02" + content[5:]) == "newer-format"


def resealed(content, level=9, length=None):
    """Return a file with a right checksum over a content."""
    stream = zlib.compress(content, level)
    length = len(content) if length is None else length
    return struct.pack("<4sB3xII", b"\x93LGT", 1, length, google_crc32c.value(stream)) + stream


@pytest.mark.parametrize("field", range(5))
def test_a_table_whose_header_asks_for_too_much_is_refused(field):
    content = bytearray(zlib.decompress(table_for(WeightForm.COUNTS).to_bytes()[FRONT_BYTES:]))
    assert FrequencyTable.from_bytes(resealed(bytes(content))).form == WeightForm.COUNTS
    struct.pack_into("<I", content, 4 * field, 2**32 - 1)
    if field == 1:
        struct.pack_into("<I", content, 0, WeightForm.PROBABILITIES)
    assert kind_of(resealed(bytes(content))) == "corrupt-table"


def test_a_table_that_unpacks_to_more_than_it_says_is_refused_before_it_is_unpacked():
    file = table_for(WeightForm.COUNTS).to_bytes()
    bomb = resealed(bytes(1 << 28), length=struct.unpack_from("<I", file, 8)[0])
    tracemalloc.start()
    assert kind_of(bomb) == "corrupt-table"
    assert tracemalloc.get_traced_memory()[1] < 1 << 22
    tracemalloc.stop()
    for length in (0, 19, MAX_TABLE_BYTES * 2, 2**32 - 1):
        assert kind_of(file[:8] + struct.pack("<I", length) + file[12:]) == "corrupt-table"


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
