"""The blob of one sequence: arrays in, bytes out, and back. FORMAT.md is the specification."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from logitstore.codec import fast
from logitstore.codec.arrays import STATISTICS, SequenceArrays, WeightForm
from logitstore.codec.body import LANES, Body, lanes_for
from logitstore.codec.front import (
    CHECKSUM,
    MAX_FRONT_BYTES,
    BlobHeader,
    broken_rule_is_corruption,
    read_header,
    write_front,
)
from logitstore.codec.rules import check_sequence, check_values
from logitstore.codec.sections import EncodedSection, Kind, corrupt, decode_section, encode_section
from logitstore.codec.table import FrequencyTable, check_table_fits
from logitstore.errors import StoreError


def max_encoded_bytes(num_tokens: int, num_entries: int) -> int:
    """Return a length that no blob with so many tokens and entries exceeds."""
    # words: count, head count, place, cell, level of a token; cell, value of an entry. Then their plain bits
    by_token = 2 * 5 + 8 + 4 * len(STATISTICS)
    by_entry = 2 * 2 + 8
    return MAX_FRONT_BYTES + 4 * LANES + 1 + by_token * num_tokens + by_entry * num_entries + CHECKSUM.size


def encode(arrays: SequenceArrays, table: FrequencyTable) -> bytes:
    """Return the blob that holds `arrays`.

    Raises:
        InvalidInput: the arrays break a rule of `SequenceArrays`, the position is named; or the table is for another
            form, scale or vocabulary.
    """
    check_sequence(arrays)
    check_table_fits(table, arrays.form, arrays.scale)
    body = fast.encode_body(arrays, table, lanes_for(len(arrays.tokens)))
    sections: dict[Kind, EncodedSection] = {}
    if arrays.form == WeightForm.FLOAT32:
        sections[Kind.VALUES] = encode_section(_bits(arrays.values))
    for name in STATISTICS:
        if name in arrays.statistics:
            sections[Kind[name.upper()]] = encode_section(_bits(arrays.statistics[name]))
    numbers = [
        int(arrays.scale),
        len(arrays.tokens),
        len(arrays.ids),
        int(np.count_nonzero(arrays.counts == 0)),
        body.token_bytes,
        len(body.words),
        len(body.bits),
    ]
    blob = write_front(arrays.form, table.short_hash, len(body.states), numbers, sections)
    blob += body.states.astype("<u4").tobytes() + body.words.astype("<u2").tobytes() + body.bits
    blob += b"".join(section.payload for section in sections.values())
    return blob + CHECKSUM.pack(google_crc32c.value(blob))


def decode(blob: bytes | memoryview, table: FrequencyTable) -> SequenceArrays:
    """Return the arrays that a blob holds, after checking all of it; they own their memory.

    Undoes `encode` exactly, but for the values of PROBABILITIES (`probability_error`).

    Raises:
        StoreError: kind "checksum-mismatch", "corrupt-blob", "wrong-table", "unsupported-format", or "newer-format".
    """
    header = read_header(blob)
    blob = bytes(blob)
    (recorded,) = CHECKSUM.unpack(blob[-CHECKSUM.size :])
    found = google_crc32c.value(blob[: -CHECKSUM.size])
    if found != recorded:
        raise StoreError(
            f"the blob has crc32c {found:08x}, it says {recorded:08x}. It is damaged or half-written; "
            "`logitstore verify STORE` lists every bad sequence.",
            kind="checksum-mismatch",
        )
    if header.table_hash != table.short_hash:
        raise StoreError(
            f"the blob was written with frequency table {header.table_hash.hex()}..., this one is "
            f"{table.sha256[:8]}.... Use the table of the blob's own store.",
            kind="wrong-table",
        )
    with broken_rule_is_corruption():
        check_table_fits(table, header.form, header.scale)
        arrays = fast.decode_body(_body(header, blob), table, header.num_tokens, header.num_entries)
        num_positions = int(np.count_nonzero(arrays.counts))
        if num_positions != header.num_positions:
            raise corrupt(f"{num_positions} positions have entries, the header says {header.num_positions}")
        return _with_sections(arrays, header, blob) if header.sections else arrays


def _body(header: BlobHeader, blob: bytes) -> Body:
    words_start = header.body_start + 4 * header.lanes
    bits_start = words_start + 2 * header.num_words
    return Body(
        states=np.frombuffer(blob, "<u4", header.lanes, header.body_start),
        words=np.frombuffer(blob, "<u2", header.num_words, words_start),
        bits=blob[bits_start : bits_start + header.num_bit_bytes],
        token_bytes=header.token_bytes,
    )


def _with_sections(arrays: SequenceArrays, header: BlobHeader, blob: bytes) -> SequenceArrays:
    values, statistics = arrays.values, {}
    for section in header.sections:
        payload = blob[section.start : section.start + section.num_bytes]
        num_values = header.num_entries if section.kind == Kind.VALUES else header.num_tokens
        decoded = decode_section(section.kind, section.storage, payload, num_values)
        floats = decoded.astype(np.uint32).view(np.float32)
        if section.kind == Kind.VALUES:
            check_values(header.form, header.scale, floats, arrays.counts)
            values = floats
        else:
            statistics[section.kind.name.lower()] = floats
    return replace(arrays, values=values, statistics=statistics)


def _bits(values: NDArray[Any]) -> NDArray[np.uint32]:
    return np.ascontiguousarray(values).view(np.uint32)
