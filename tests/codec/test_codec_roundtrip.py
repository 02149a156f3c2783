import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings

from logitstore.codec import (
    FORMAT_VERSION,
    STATISTICS,
    SequenceArrays,
    WeightForm,
    decode,
    encode,
    max_encoded_bytes,
    read_header,
)
from tests.codec.blob_surgery import put_together, take_apart
from tests.codec.sequence_arrays import (
    LAST_ID,
    assert_keeps_the_rules,
    assert_same,
    build,
    random_sequence,
    sequences,
)

EXACT_FORMS = [WeightForm.COUNTS, WeightForm.FLOAT32, WeightForm.HEAD_GRID]
FORMS = list(WeightForm)


@pytest.mark.parametrize("form", EXACT_FORMS)
def test_round_trip_is_exact(form):
    @settings(max_examples=60, deadline=None, derandomize=True, database=None)
    @given(sequences(form))
    def check(arrays):
        blob = encode(arrays)
        assert_same(decode(blob), arrays)
        assert len(blob) <= max_encoded_bytes(len(arrays.tokens), len(arrays.ids))

    check()


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(sequences(WeightForm.PROBABILITIES))
def test_round_trip_of_probabilities_is_exact_but_for_the_values_and_idempotent(arrays):
    blob = encode(arrays)
    decoded = decode(blob)
    assert_same(decoded, arrays, values=False)
    assert encode(decoded) == blob


@pytest.mark.parametrize("form", FORMS)
def test_round_trip_of_compressed_sections(form):
    arrays = random_sequence(form)
    blob = encode(arrays)
    _, sections = take_apart(blob)
    assert sum(storage >> 4 == 1 for _, storage, _ in sections) >= 4
    decoded = decode(blob)
    assert_same(decoded, arrays, values=form != WeightForm.PROBABILITIES)
    assert_keeps_the_rules(decoded)


@pytest.mark.parametrize("form", FORMS)
def test_a_sequence_without_tokens_round_trips(form):
    scale = 7 if form in (WeightForm.COUNTS, WeightForm.HEAD_GRID) else 0
    arrays = build(form, [], [], scale=scale)
    assert_same(decode(encode(arrays)), arrays)


@pytest.mark.parametrize("num_tokens", [1, 2000])
def test_a_sequence_without_entries_round_trips(num_tokens):
    arrays = build(WeightForm.COUNTS, [([], [])] * num_tokens, [], scale=50)
    assert_same(decode(encode(arrays)), arrays)
    assert read_header(encode(arrays)).num_positions == 0


@pytest.mark.parametrize("start", [0, LAST_ID - 65_534])
def test_a_position_with_65535_entries_round_trips(start):
    arrays = build(WeightForm.COUNTS, [([], []), (range(start, start + 65_535), []), ([3], [])], [2] * 65_536, scale=50)
    assert_same(decode(encode(arrays)), arrays)


def test_the_largest_gaps_and_ids_round_trip():
    positions = [([0, LAST_ID], [0, LAST_ID]), ([LAST_ID], [0]), ([], [LAST_ID])] * 500
    arrays = build(WeightForm.HEAD_GRID, positions, [1] * 1500, tokens=[LAST_ID] * 1500, scale=2)
    assert_same(decode(encode(arrays)), arrays)


def test_every_finite_float_keeps_its_bits():
    values = np.array([0.0, -0.0, 1e-45, -1e-45, np.finfo(np.float32).max, np.finfo(np.float32).tiny, -1.5], np.float32)
    arrays = build(WeightForm.FLOAT32, [(range(7), [])], values)
    assert_same(decode(encode(arrays)), arrays)


def test_statistics_keep_the_bits_of_nan():
    nan = np.array([0x7FC00001, 0x7F800001, 0xFF800000], np.uint32).view(np.float32)
    arrays = build(WeightForm.FLOAT32, [([], [])] * 3, [], statistics={"entropy": nan})
    assert_same(decode(encode(arrays)), arrays)


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
def test_blobs_are_read_from_any_buffer(wrap):
    arrays = random_sequence(WeightForm.COUNTS, num_tokens=50)
    assert_same(decode(wrap(encode(arrays))), arrays)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("num_tokens", [2, 600])
def test_decoded_arrays_own_writable_memory(form, num_tokens):
    decoded = decode(encode(random_sequence(form, num_tokens=num_tokens)))
    arrays = [decoded.tokens, decoded.counts, decoded.ids, decoded.values, *decoded.statistics.values()]
    assert all(array.flags.writeable and array.flags.c_contiguous for array in arrays)


def test_strided_arrays_are_stored_like_contiguous_ones():
    arrays = random_sequence(WeightForm.FLOAT32, num_tokens=300)

    def strided(array):
        return np.repeat(array, 2)[::2]

    scattered = SequenceArrays(
        tokens=strided(arrays.tokens),
        counts=strided(arrays.counts),
        ids=strided(arrays.ids),
        form=arrays.form,
        values=strided(arrays.values),
        statistics={name: strided(statistic) for name, statistic in arrays.statistics.items()},
    )
    assert encode(scattered) == encode(arrays)


@pytest.mark.parametrize("form", FORMS)
def test_the_header_says_what_the_blob_holds(form):
    arrays = random_sequence(form)
    blob = encode(arrays)
    header = read_header(blob)
    assert (header.version, header.form, header.scale) == (FORMAT_VERSION, form, arrays.scale)
    assert (header.num_tokens, header.num_entries, header.num_positions) == (600, len(arrays.ids), 599)
    _, sections = take_apart(blob)
    assert header.token_bytes == sum(len(p) for kind, _, p in sections if kind == 1)
    assert header.entry_bytes == sum(len(p) for kind, _, p in sections if 2 <= kind <= 6)
    assert header.statistics_bytes == sum(len(p) for kind, _, p in sections if kind >= 16)
    frame = 24 + 6 * len(sections) + 4
    assert header.total_bytes == len(blob)
    assert header.total_bytes == frame + header.token_bytes + header.entry_bytes + header.statistics_bytes


@pytest.mark.parametrize(("num_tokens", "width", "share"), [(1, 1, 0.98), (300, 1, 0.65), (300, 40, 0.65)])
def test_no_blob_is_larger_than_the_documented_worst_case_and_noise_comes_near_it(num_tokens, width, share):
    # random bits everywhere; what the bound leaves above them is ids of 20 bits that it takes as 32
    rng = np.random.default_rng(1)
    statistics = {name: rng.integers(0, 2**32, num_tokens, np.uint32).view(np.float32) for name in STATISTICS}
    positions = [(rng.choice(LAST_ID + 1, width, replace=False).tolist(), []) for _ in range(num_tokens)]
    values = rng.integers(1, (2**32 - 1) // width, num_tokens * width)
    arrays = build(
        WeightForm.HEAD_GRID,
        positions,
        values,
        tokens=rng.integers(0, LAST_ID, num_tokens),
        scale=2**32 - 1,
        statistics=statistics,
    )
    bound = max_encoded_bytes(num_tokens, num_tokens * width)
    assert bound == 28 + 6 * 9 + 20 * num_tokens + 8 * num_tokens * width
    assert share * bound < len(encode(arrays)) <= bound


def test_a_short_document_pays_little_for_the_frame():
    arrays = build(WeightForm.COUNTS, [([5, 9], [])] * 8, [25] * 16, tokens=range(8), scale=50)
    # 24 header, 5 table rows, checksum; a byte for each of 8 tokens, 8 counts, 8 first ids, 8 gaps and 16 values
    assert len(encode(arrays)) <= 24 + 5 * 6 + 4 + 48


def test_a_blob_written_by_hand_from_the_specification_is_read():
    sections = [
        [1, 0x02, b"\x02\x00\xe8\x03\x07\x00"],  # tokens 2, 1000, 7
        [2, 0x01, b"\x03\x00\x02"],  # entries 3, 0, 2
        [3, 0x01, b"\x01\x00\x00"],  # of them head 1, 0, 0
        [4, 0x04, b"\x09\0\0\0" + b"\x05\0\0\0" + b"\xfe\xff\x0f\x00"],  # first ids: head, tail, tail
        [5, 0x01, b"\x03\x00"],  # 5 and 5 + 1 + 3; 2^20 - 2 and the next
        [6, 0x01, b"\x20"],
        [17, 0x04, b"\x00\x00\x80\x3f" * 3],
    ]
    blob = put_together([1, 4, 7, 0, 64, 3, 5, 2], sections)
    wanted = build(
        WeightForm.HEAD_GRID,
        [([9], [5, 9]), ([], []), ([], [LAST_ID - 1, LAST_ID])],
        [32],
        tokens=[2, 1000, 7],
        scale=64,
        statistics={"label_probability": np.ones(3, np.float32)},
    )
    assert_same(decode(blob), wanted)
    assert google_crc32c.value(b"123456789") == 0xE3069283  # the Castagnoli polynomial, by its published check value
