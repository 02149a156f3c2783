import numpy as np
import pytest
from hypothesis import given, settings

from logitstore.codec.arrays import STATISTICS, WeightForm
from logitstore.codec.coding import decode, encode, max_encoded_bytes
from logitstore.codec.front import FORMAT_VERSION, read_header
from logitstore.codec.probability_codes import probability_error
from tests.codec.coded_sequences import (
    LARGEST_VOCABULARY,
    SCALES,
    VOCAB_SIZE,
    assert_keeps_the_rules,
    assert_same,
    build,
    random_sequence,
    sequences,
    split_evenly,
    table_for,
)

FORMS = list(WeightForm)
EXACT_FORMS = [form for form in FORMS if form != WeightForm.PROBABILITIES]


@pytest.mark.parametrize("samples", [0, 2])
@pytest.mark.parametrize(
    ("form", "scale"),
    [
        (WeightForm.COUNTS, 1),
        (WeightForm.COUNTS, 50),
        (WeightForm.COUNTS, 2**32 - 1),
        (WeightForm.FLOAT32, 0),
        (WeightForm.HEAD_GRID, 64),
        (WeightForm.HEAD_GRID, 2**32 - 1),
    ],
)
def test_round_trip_is_exact(form, scale, samples):
    table = table_for(form, scale, samples=samples if scale in SCALES.values() else 0)

    @settings(max_examples=40, deadline=None, derandomize=True, database=None)
    @given(sequences(form, scale))
    def check(arrays):
        blob = encode(arrays, table)
        assert_same(decode(blob, table), arrays)
        assert len(blob) <= max_encoded_bytes(len(arrays.tokens), len(arrays.ids))

    check()


@pytest.mark.parametrize("scale", [1, 255, 65_535])
def test_round_trip_of_probabilities_is_within_the_stated_error_and_idempotent(scale):
    table = table_for(WeightForm.PROBABILITIES, scale)

    @settings(max_examples=40, deadline=None, derandomize=True, database=None)
    @given(sequences(WeightForm.PROBABILITIES, scale))
    def check(arrays):
        blob = encode(arrays, table)
        decoded = decode(blob, table)
        assert_same(decoded, arrays, values=False)
        assert encode(decoded, table) == blob
        for found, wanted in zip(decoded.values.tolist(), arrays.values.tolist(), strict=True):
            assert abs(found - wanted) <= probability_error(wanted, scale)

    check()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("num_tokens", [1, 127, 128, 301])
def test_round_trip_of_long_and_short_sequences(form, num_tokens):
    arrays, table = random_sequence(form, num_tokens=num_tokens), table_for(form)
    decoded = decode(encode(arrays, table), table)
    assert_same(decoded, arrays, values=form != WeightForm.PROBABILITIES)
    assert_keeps_the_rules(decoded)


@pytest.mark.parametrize("form", FORMS)
def test_a_sequence_without_tokens_round_trips(form):
    arrays, table = build(form, [], []), table_for(form)
    assert_same(decode(encode(arrays, table), table), arrays)


@pytest.mark.parametrize("num_tokens", [1, 2000])
def test_a_sequence_without_entries_round_trips(num_tokens):
    arrays = build(WeightForm.COUNTS, [([], [])] * num_tokens, [], tokens=[7] * num_tokens)
    blob = encode(arrays, table_for(WeightForm.COUNTS))
    assert_same(decode(blob, table_for(WeightForm.COUNTS)), arrays)
    assert read_header(blob).num_positions == 0


def test_the_largest_vocabulary_counts_and_positions_round_trip():
    table = table_for(WeightForm.COUNTS, 70_000, LARGEST_VOCABULARY, 0)
    start = LARGEST_VOCABULARY - 65_535
    positions = [([], []), (range(start, LARGEST_VOCABULARY), []), ([3], [])]
    values = [*split_evenly(70_000, 65_535), 70_000]
    arrays = build(WeightForm.COUNTS, positions, values, tokens=[1, 2, LARGEST_VOCABULARY - 1], scale=70_000)
    assert_same(decode(encode(arrays, table), table), arrays)


@pytest.mark.parametrize("size", [2, 3, 16, 17, 63, 64, 65, 66, 300])
def test_groups_of_every_size_class_come_back_sorted(size):
    rng = np.random.default_rng(size)
    positions, tokens = [], [0]
    for _ in range(200):
        ids = rng.choice(VOCAB_SIZE, size, replace=False).tolist()
        positions.append((ids[:1], ids[1:]))
        tokens.append(ids[-1])
    arrays = build(WeightForm.HEAD_GRID, positions, [1] * 200, tokens=tokens[:-1])
    table = table_for(WeightForm.HEAD_GRID)
    assert_same(decode(encode(arrays, table), table), arrays)


def test_every_finite_float_keeps_its_bits():
    values = np.array([0.0, -0.0, 1e-45, -1e-45, np.finfo(np.float32).max, np.finfo(np.float32).tiny, -1.5], np.float32)
    arrays, table = build(WeightForm.FLOAT32, [(range(7), [])], values), table_for(WeightForm.FLOAT32)
    assert_same(decode(encode(arrays, table), table), arrays)


def test_statistics_keep_the_bits_of_nan():
    nan = np.array([0x7FC00001, 0x7F800001, 0xFF800000], np.uint32).view(np.float32)
    arrays = build(WeightForm.FLOAT32, [([], [])] * 3, [], statistics={"entropy": nan})
    table = table_for(WeightForm.FLOAT32)
    assert_same(decode(encode(arrays, table), table), arrays)


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
def test_blobs_are_read_from_any_buffer(wrap):
    arrays, table = random_sequence(WeightForm.COUNTS, num_tokens=50), table_for(WeightForm.COUNTS)
    assert_same(decode(wrap(encode(arrays, table)), table), arrays)


@pytest.mark.parametrize("form", FORMS)
def test_decoded_arrays_own_writable_memory(form):
    table = table_for(form)
    decoded = decode(encode(random_sequence(form, num_tokens=40), table), table)
    arrays = [decoded.tokens, decoded.counts, decoded.ids, decoded.values, *decoded.statistics.values()]
    assert all(array.flags.writeable and array.flags.c_contiguous for array in arrays)


@pytest.mark.parametrize("form", FORMS)
def test_the_header_says_what_the_blob_holds(form):
    arrays, table = random_sequence(form), table_for(form)
    blob = encode(arrays, table)
    header = read_header(blob)
    assert (header.version, header.form, header.scale) == (FORMAT_VERSION, form, SCALES[form])
    assert (header.num_tokens, header.num_entries, header.num_positions) == (300, len(arrays.ids), 299)
    assert header.table_hash.hex() == table.sha256[:8]
    assert header.total_bytes == len(blob)
    parts = header.token_bytes + header.entry_bytes + header.statistics_bytes
    assert header.total_bytes == header.body_start + parts + 4
    assert header.statistics_bytes >= len(STATISTICS) * 300 * 2
    assert 200 < header.token_bytes < 400


@pytest.mark.parametrize(("num_tokens", "width"), [(1, 1), (300, 1), (300, 40)])
@pytest.mark.parametrize("form", FORMS)
def test_no_blob_is_larger_than_the_documented_worst_case(form, num_tokens, width):
    # a table for other sequences, ids and values all over their range, statistics of random bits
    rng = np.random.default_rng(1)
    scale = {WeightForm.FLOAT32: 0, WeightForm.PROBABILITIES: 65_535}.get(form, 2**32 - 1)
    table = table_for(form, scale, LARGEST_VOCABULARY, 0)
    positions = [(rng.choice(LARGEST_VOCABULARY, width, replace=False).tolist(), []) for _ in range(num_tokens)]
    values = {
        WeightForm.FLOAT32: rng.standard_normal(num_tokens * width),
        WeightForm.PROBABILITIES: rng.uniform(1e-9, 1, num_tokens * width),
    }.get(form, split_evenly(scale, width) * num_tokens)
    statistics = {name: rng.integers(0, 2**32, num_tokens, np.uint32).view(np.float32) for name in STATISTICS}
    tokens = rng.integers(0, LARGEST_VOCABULARY, num_tokens)
    arrays = build(form, positions, values, tokens=tokens, scale=scale, statistics=statistics)
    bound = max_encoded_bytes(num_tokens, num_tokens * width)
    assert bound == 107 + 30 * num_tokens + 12 * num_tokens * width
    assert 0.2 * bound < len(encode(arrays, table)) <= bound


def test_a_short_document_pays_little_for_the_frame():
    arrays = build(WeightForm.COUNTS, [([5, 9], [])] * 20, [25] * 40, tokens=[5] * 20)
    header = read_header(encode(arrays, table_for(WeightForm.COUNTS)))
    # front, one state, checksum
    assert header.total_bytes - header.token_bytes - header.entry_bytes <= 24
    assert header.body_bytes - 2 * header.num_words - header.num_bit_bytes == 4


def test_a_table_fitted_to_the_sequences_makes_them_smaller():
    arrays = random_sequence(WeightForm.COUNTS, seed=5)
    fitted, blind = table_for(WeightForm.COUNTS), table_for(WeightForm.COUNTS, samples=0)
    assert read_header(encode(arrays, fitted)).entry_bytes < 0.9 * read_header(encode(arrays, blind)).entry_bytes
