import tracemalloc
from collections import Counter

import numpy as np
import pytest

from logitstore.codec.arrays import MAX_ENTRIES, MAX_TOKENS, WeightForm
from logitstore.codec.coding import decode, encode
from logitstore.codec.front import read_header
from logitstore.codec.table import FrequencyTable
from logitstore.errors import StoreError
from tests.codec.coded_sequences import assert_keeps_the_rules, build, random_sequence, table_for
from tests.codec.coded_surgery import put_together, seal, take_apart
from tests.codec.make_golden import FOLDER

GOLDEN = ("small-counts", "small-head-grid", "no-tokens")
FORMS = list(WeightForm)
#: before the entries are counted, a blob can ask for arrays of MAX_TOKENS numbers: 3 of int64, some of 1 to 4 bytes
TOKEN_ARRAYS_BYTES = 6 * 8 * MAX_TOKENS


def golden(case):
    table = FrequencyTable.from_bytes((FOLDER / f"{case}.table").read_bytes())
    return (FOLDER / f"{case}.bin").read_bytes(), table


def refusal(blob, table):
    with pytest.raises(StoreError) as caught:
        decode(blob, table)
    return caught.value


@pytest.mark.parametrize("case", GOLDEN)
def test_every_flipped_bit_is_noticed(case):
    blob, table = golden(case)
    for bit in range(8 * len(blob)):
        damaged = bytearray(blob)
        damaged[bit // 8] ^= 1 << bit % 8
        kinds = {"checksum-mismatch", "corrupt-blob", "newer-format", "unsupported-format"}
        assert refusal(bytes(damaged), table).kind in kinds


@pytest.mark.parametrize("case", GOLDEN)
def test_every_cut_is_noticed(case):
    blob, table = golden(case)
    for end in range(len(blob)):
        assert refusal(blob[:end], table).kind == "corrupt-blob"
        assert refusal(blob[end + 1 :], table).kind == "corrupt-blob"


@pytest.mark.parametrize("form", FORMS)
def test_flipped_bits_behind_the_front_are_checksum_mismatches(form):
    table = table_for(form)
    blob = encode(random_sequence(form), table)
    for bit in range(8 * read_header(blob).body_start, 8 * len(blob), 997):
        damaged = bytearray(blob)
        damaged[bit // 8] ^= 1 << bit % 8
        assert refusal(bytes(damaged), table).kind == "checksum-mismatch"


@pytest.mark.parametrize("form", FORMS)
def test_mutated_blobs_with_a_right_checksum_are_refused_or_keep_the_rules(form):
    rng, table, outcomes = np.random.default_rng(int(form)), table_for(form), Counter()
    originals = [encode(random_sequence(form, num_tokens=n, width=4), table) for n in (6, 200)]
    for trial in range(500):
        body = bytearray(originals[trial % 2][:-4])
        # a third of the mutations meets the front
        end = 24 if trial % 3 == 0 else len(body)
        for position in rng.integers(0, end, rng.integers(1, 3, endpoint=True)):
            body[position] = rng.integers(256) if trial % 5 else body[position] ^ 1 << rng.integers(8)
        if trial % 11 == 0:
            del body[rng.integers(12, len(body)) :]
        try:
            decoded = decode(seal(body), table)
        except StoreError as error:
            outcomes[error.kind] += 1
        else:
            assert_keeps_the_rules(decoded)
            outcomes["decoded"] += 1
    assert set(outcomes) <= {"decoded", "corrupt-blob", "newer-format", "unsupported-format", "wrong-table"}
    assert outcomes["corrupt-blob"] > 100


@pytest.mark.parametrize("form", FORMS)
def test_random_bodies_are_refused_or_keep_the_rules(form):
    # everything behind the front is noise, of the right length
    rng, table, kinds = np.random.default_rng(7), table_for(form), set()
    fixed, numbers, sections, rest = take_apart(encode(random_sequence(form, num_tokens=20, statistics=False), table))
    for _ in range(200):
        blob = put_together(fixed, numbers, sections, rng.bytes(len(rest)))
        try:
            assert_keeps_the_rules(decode(blob, table))
        except StoreError as error:
            kinds.add(error.kind)
    assert kinds == {"corrupt-blob"}


def peak_bytes_of_refusal(blob, table):
    tracemalloc.start()
    try:
        assert refusal(blob, table).kind == "corrupt-blob"
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "change",
    [
        {"tokens": 2**32 - 1},
        {"tokens": MAX_TOKENS + 1},
        {"entries": 2**32 - 1},
        {"entries": 65_535 * 300 + 1},
        {"entries": MAX_ENTRIES},
        {"masked": 2**32 - 1},
        {"masked": 301},
        {"token_bytes": 2**32 - 1},
        {"words": 2**32 - 1},
        {"bit_bytes": 2**32 - 1},
        {"scale": 0},
        {"scale": 51},
    ],
)
def test_a_front_that_asks_for_too_much_or_another_thing_is_refused_without_the_memory(change):
    table = table_for(WeightForm.COUNTS)
    fixed, numbers, sections, rest = take_apart(encode(random_sequence(WeightForm.COUNTS), table))
    assert peak_bytes_of_refusal(put_together(fixed, numbers | change, sections, rest), table) < 1 << 20


def test_more_tokens_than_the_body_holds_cost_no_more_than_the_limit_allows():
    table = table_for(WeightForm.COUNTS)
    fixed, numbers, sections, rest = take_apart(encode(random_sequence(WeightForm.COUNTS), table))
    blob = put_together(fixed, numbers | {"tokens": MAX_TOKENS}, sections, rest)
    assert peak_bytes_of_refusal(blob, table) < TOKEN_ARRAYS_BYTES


@pytest.mark.parametrize("name", ["token_bytes", "masked", "entries", "tokens"])
def test_a_front_that_is_off_by_one_is_refused(name):
    table = table_for(WeightForm.HEAD_GRID)
    fixed, numbers, sections, rest = take_apart(encode(random_sequence(WeightForm.HEAD_GRID), table))
    for change in (-1, 1):
        blob = put_together(fixed, numbers | {name: numbers[name] + change}, sections, rest)
        assert refusal(blob, table).kind == "corrupt-blob"


@pytest.mark.parametrize("wanted", ["words", "bits"])
@pytest.mark.parametrize("form", FORMS)
def test_words_or_bits_too_many_are_refused(form, wanted):
    table = table_for(form)
    fixed, numbers, sections, rest = take_apart(encode(random_sequence(form, num_tokens=50), table))
    end_of_words = 4 + 2 * numbers["words"]
    if wanted == "words":
        rest, numbers["words"] = rest[:end_of_words] + b"\0\0" + rest[end_of_words:], numbers["words"] + 1
    else:
        end = end_of_words + numbers["bit_bytes"]
        rest, numbers["bit_bytes"] = rest[:end] + b"\0" + rest[end:], numbers["bit_bytes"] + 1
    assert "more than the sequence" in str(refusal(put_together(fixed, numbers, sections, rest), table))


def test_varints_longer_than_they_need_be_and_too_large_are_refused():
    blob, table = golden("small-counts")
    assert blob[11] == 50
    for wrong in (b"\xb2\0", b"\xb2\x80\x80\x80\x80\0", b"\xff\xff\xff\xff\x1f", b"\xff" * 6):
        error = refusal(seal(blob[:11] + wrong + blob[12:-4]), table)
        assert "longer than it need be" in str(error)


@pytest.mark.parametrize(("form", "flags"), [(0, 0), (5, 0), (255, 0), (1, 0x10), (1, 0x80)])
def test_forms_and_flags_that_mean_nothing_are_refused(form, flags):
    blob, table = golden("small-counts")
    error = refusal(seal(blob[:5] + bytes([form, flags]) + blob[7:-4]), table)
    assert "mean nothing in this format" in str(error)


@pytest.mark.parametrize("storage", [0x00, 0x03, 0x08, 0x21, 0xF4])
def test_an_unknown_storage_of_a_section_is_refused(storage):
    blob, table = golden("small-head-grid")
    fixed, numbers, sections, rest = take_apart(blob)
    sections[0][0] = storage
    assert "storage byte" in str(refusal(put_together(fixed, numbers, sections, rest), table))


def test_stored_floats_that_are_not_finite_are_refused():
    table = table_for(WeightForm.FLOAT32)
    arrays = build(WeightForm.FLOAT32, [([1, 2], [])], [1.0, 2.0])
    fixed, numbers, sections, rest = take_apart(encode(arrays, table))
    assert sections == [[0x04, 8]]
    for bits in (0x7F800000, 0x7FC00000):
        blob = put_together(fixed, numbers, sections, rest[:-4] + bits.to_bytes(4, "little"))
        assert "FLOAT32 value" in str(refusal(blob, table))


def test_a_blob_of_another_table_is_refused_by_its_hash():
    table, other = table_for(WeightForm.COUNTS), table_for(WeightForm.COUNTS, samples=0)
    error = refusal(encode(random_sequence(WeightForm.COUNTS), table), other)
    assert error.kind == "wrong-table"
    assert table.sha256[:8] in str(error)
    assert other.sha256[:8] in str(error)


def test_a_table_for_another_form_under_the_right_hash_is_refused():
    table, other = table_for(WeightForm.COUNTS), table_for(WeightForm.HEAD_GRID)
    blob = encode(random_sequence(WeightForm.COUNTS), table)
    assert refusal(seal(blob[:7] + other.short_hash + blob[11:-4]), other).kind == "corrupt-blob"


def test_versions_are_named_whatever_else_the_blob_holds():
    blob, table = golden("small-counts")
    for rest in (blob[5:], b"", b"\xff" * 500):
        newer, older = refusal(b"\x93LGS\x03" + rest, table), refusal(b"\x93LGS\x01" + rest, table)
        assert (newer.kind, older.kind) == ("newer-format", "unsupported-format")
        assert "format version 3" in str(newer)
        assert "format version 1" in str(older)


def test_what_is_no_blob_is_called_so():
    _, table = golden("small-counts")
    for blob in (b"", b"\x93", b"\x93LGS", b"\x93LGS\x02", b"PK\3\4" + bytes(60), b"\x93LGS\0" + bytes(60)):
        assert refusal(blob, table).kind == "corrupt-blob"
