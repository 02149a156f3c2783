import tracemalloc
from collections import Counter

import numpy as np
import pytest
from pcodec import ChunkConfig, DeltaSpec, ModeSpec
from pcodec.wrapped import FileCompressor

from logitstore.codec import MAX_ENTRIES, MAX_TOKENS, WeightForm, decode, encode, read_header, sections
from logitstore.errors import StoreError
from tests.codec.blob_surgery import put_together, seal, take_apart
from tests.codec.make_golden import FOLDER
from tests.codec.sequence_arrays import assert_keeps_the_rules, random_sequence

SMALL = {case: (FOLDER / f"v1-{case}.bin").read_bytes() for case in ("small-counts", "small-head-grid")}
KINDS = {"checksum-mismatch", "corrupt-blob", "newer-format"}
#: before the counts are checked, a blob can ask for arrays of MAX_TOKENS int64 and some temporaries of that size
TOKEN_ARRAYS_BYTES = 4 * 8 * MAX_TOKENS


def refusal(blob):
    with pytest.raises(StoreError) as caught:
        decode(blob)
    return caught.value


@pytest.mark.parametrize("case", SMALL)
def test_every_flipped_bit_is_noticed(case):
    blob = SMALL[case]
    for bit in range(8 * len(blob)):
        damaged = bytearray(blob)
        damaged[bit // 8] ^= 1 << bit % 8
        assert refusal(bytes(damaged)).kind in KINDS


@pytest.mark.parametrize("case", SMALL)
def test_every_cut_is_noticed(case):
    blob = SMALL[case]
    for end in range(len(blob)):
        assert refusal(blob[:end]).kind == "corrupt-blob"
        assert refusal(blob[end + 1 :]).kind == "corrupt-blob"


@pytest.mark.parametrize("form", list(WeightForm))
def test_flipped_bits_in_compressed_sections_are_checksum_mismatches(form):
    blob = encode(random_sequence(form))
    start = read_header(blob).sections[0].start
    for bit in range(8 * start, 8 * len(blob), 997):
        damaged = bytearray(blob)
        damaged[bit // 8] ^= 1 << bit % 8
        assert refusal(bytes(damaged)).kind == "checksum-mismatch"


@pytest.mark.parametrize("form", list(WeightForm))
def test_mutated_blobs_with_a_right_checksum_are_refused_or_keep_the_rules(form):
    rng = np.random.default_rng(int(form))
    originals = [encode(random_sequence(form, num_tokens=n, vocab_size=60, width=4)) for n in (6, 300)]
    outcomes = Counter()
    for trial in range(400):
        body = bytearray(originals[trial % 2][:-4])
        # two thirds of the mutations meet the header, the table and the first bytes of sections
        positions = rng.integers(0, len(body) if trial % 3 == 0 else 120, rng.integers(1, 3, endpoint=True))
        for position in positions:
            body[position] = rng.integers(256) if trial % 5 else body[position] ^ 1 << rng.integers(8)
        if trial % 11 == 0:
            del body[rng.integers(24, len(body)) :]
        try:
            decoded = decode(seal(bytes(body)))
        except StoreError as error:
            outcomes[error.kind] += 1
        else:
            assert_keeps_the_rules(decoded)
            outcomes["decoded"] += 1
    assert set(outcomes) <= {"decoded", "corrupt-blob", "newer-format"}
    assert min(outcomes["decoded"], outcomes["corrupt-blob"]) > 20


@pytest.mark.parametrize("form", list(WeightForm))
def test_mutated_sections_are_refused_or_keep_the_rules(form):
    # every mutation lands inside one section's payload, and lengths and checksum are right again
    rng = np.random.default_rng(100 + int(form))
    fields, parts = take_apart(encode(random_sequence(form, num_tokens=300, vocab_size=60, width=4)))
    outcomes = Counter()
    for trial in range(400):
        changed = [list(part) for part in parts]
        part = changed[trial % len(changed)]
        payload = bytearray(part[2])
        end = min(len(payload), 40) if trial % 2 else len(payload)
        payload[rng.integers(end)] ^= 1 << rng.integers(8)
        part[2] = bytes(payload[: rng.integers(len(payload))] if trial % 13 == 0 else payload)
        try:
            decoded = decode(put_together(fields, changed))
        except StoreError as error:
            outcomes[error.kind] += 1
        else:
            assert_keeps_the_rules(decoded)
            outcomes["decoded"] += 1
    assert set(outcomes) == {"decoded", "corrupt-blob"}
    assert min(outcomes.values()) > 20


def peak_bytes_of_refusal(blob):
    tracemalloc.start()
    try:
        assert refusal(blob).kind == "corrupt-blob"
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# version, form, sections, 0, scale, tokens, entries, positions with a target
@pytest.mark.parametrize(
    "change",
    [{5: 2**32 - 1}, {6: 2**32 - 1}, {5: MAX_TOKENS + 1}, {6: 65_535 * 300 + 1}, {6: MAX_ENTRIES}, {7: 2**32 - 1}],
)
def test_a_header_that_asks_for_too_much_is_refused_without_the_memory(change):
    fields, parts = take_apart(encode(random_sequence(WeightForm.COUNTS, num_tokens=300)))
    for field, value in change.items():
        fields[field] = value
    assert peak_bytes_of_refusal(put_together(fields, parts)) < 1 << 20


def test_more_tokens_than_a_section_holds_cost_no_more_than_the_limit_allows():
    fields, parts = take_apart(encode(random_sequence(WeightForm.COUNTS, num_tokens=300)))
    fields[5] = MAX_TOKENS
    assert peak_bytes_of_refusal(put_together(fields, parts)) < TOKEN_ARRAYS_BYTES


def test_pco_modes_that_reserve_memory_by_their_own_numbers_are_refused():
    values = np.tile(np.arange(100, dtype=np.uint32) * 7919, 30)
    for mode, delta in [(ModeSpec.classic(), DeltaSpec.try_lookback()), (ModeSpec.try_dict(), DeltaSpec.no_op())]:
        file = FileCompressor()
        chunk = file.chunk_compressor(values, ChunkConfig(mode_spec=mode, delta_spec=delta))
        payload = bytes(file.write_header() + chunk.write_meta() + chunk.write_page(0))
        with pytest.raises(StoreError, match="of another version or mode") as caught:
            sections.decode_section(sections.Kind.TOKENS, 0x14, payload, len(values))
        assert caught.value.kind == "corrupt-blob"


@pytest.mark.parametrize("change", [b"\0", b"\0\0\0"])
def test_bytes_after_the_last_value_of_a_section_are_refused(change):
    for index in range(5):
        fields, parts = take_apart(encode(random_sequence(WeightForm.COUNTS)))
        parts[index][2] += change
        assert refusal(put_together(fields, parts)).kind == "corrupt-blob"


def test_sections_that_are_missing_doubled_out_of_order_or_unknown_are_refused():
    fields, parts = take_apart(encode(random_sequence(WeightForm.COUNTS, num_tokens=20)))
    unknown = [*parts, [19, 1, b"\0" * 20]]
    for wrong in (parts[1:], [parts[0], *parts], parts[::-1], [*parts, parts[-1]], unknown):
        fields[2] = len(wrong)
        assert refusal(put_together(fields, wrong)).kind == "corrupt-blob"


@pytest.mark.parametrize("storage", [0x00, 0x03, 0x08, 0x21, 0xF4])
def test_an_unknown_storage_is_refused(storage):
    fields, parts = take_apart(SMALL["small-counts"])
    parts[0][1] = storage
    assert "storage byte" in str(refusal(put_together(fields, parts)))


# kind, its new values in 4 bytes each, words of the message; the blob: ids 3, 9, 2^20 - 1 | none | 0; 50 draws
@pytest.mark.parametrize(
    ("kind", "values", "text"),
    [
        (1, [2, 1 << 20, 2], "position 1 is 1048576"),
        (2, [4, 0, 1], "5 entries together"),
        (2, [65_536, 0, 0], "position 0 has 65536 entries"),
        (2, [2, 1, 1], "3 positions have entries"),
        (4, [1 << 20, 0], "1048576 or more"),
        (4, [2**32 - 1, 0], "1048576 or more"),
        (5, [5, (1 << 20) - 10], "position 0 has token id 1048576"),
        (5, [5, 2**32 - 1], "1048576 or more"),
        (6, [0, 19, 1, 50], "position 0 has the COUNTS value 0"),
        (6, [30, 19, 1, 51], "position 2 has the COUNTS value 51"),
    ],
)
def test_content_that_breaks_a_rule_is_refused_and_named(kind, values, text):
    fields, parts = take_apart(SMALL["small-counts"])
    part = next(part for part in parts if part[0] == kind)
    part[1:] = 4, np.array(values, "<u4").tobytes()
    error = refusal(put_together(fields, parts))
    assert error.kind == "corrupt-blob"
    assert text in str(error)


def test_running_ids_that_pass_2_to_the_32_are_noticed():
    # 5,000 gaps of 2^20 - 1 would come round modulo 2^32
    ids = 5001
    fields = [1, 3, 5, 0, 0, 1, ids, 1]
    gaps = np.full(ids - 1, (1 << 20) - 1, "<u4").tobytes()
    parts = [[1, 1, b"\0"], [2, 2, ids.to_bytes(2, "little")], [4, 1, b"\0"], [5, 4, gaps], [6, 1, b"\0" * ids]]
    assert "has token id 1048576" in str(refusal(put_together(fields, parts)))


def test_a_probability_code_beyond_16_bits_is_refused():
    fields = [1, 2, 5, 0, 0, 1, 1, 1]
    parts = [[1, 1, b"\0"], [2, 1, b"\1"], [4, 1, b"\0"], [5, 1, b""], [6, 4, b"\0\0\1\0"]]
    assert "code 65536" in str(refusal(put_together(fields, parts)))
    parts[-1] = [6, 2, b"\xff\xff"]
    assert decode(put_together(fields, parts)).values[0] == np.float32(2 ** (-65_535 / 2048))


def test_a_newer_version_is_named_whatever_else_the_blob_holds():
    for rest in (SMALL["small-counts"][5:], b"", b"\xff" * 500):
        error = refusal(b"\x93LGS\x02" + rest)
        assert error.kind == "newer-format"
        assert "format version 2" in str(error)
        with pytest.raises(StoreError, match="format version 2"):
            read_header(b"\x93LGS\x02" + rest)


def test_what_is_no_blob_is_called_so():
    for blob in (b"", b"\x93", b"\x93LGS", b"PK\3\4" + bytes(60), b"\x93LGS\0" + bytes(60)):
        assert refusal(blob).kind == "corrupt-blob"


def test_a_panic_of_the_decompressor_is_a_corrupt_blob_and_an_interrupt_passes(monkeypatch):
    class PanicException(BaseException):
        pass

    blob = encode(random_sequence(WeightForm.COUNTS))
    for raised, wanted in [
        (PanicException("index out of range"), StoreError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ]:

        class Panicking:
            @staticmethod
            def new(payload, raised=raised):
                raise raised

        monkeypatch.setattr(sections, "FileDecompressor", Panicking)
        with pytest.raises(wanted):
            decode(blob)
