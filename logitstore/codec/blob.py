"""The blob of one sequence: arrays in, bytes out, and back. FORMAT.md is the specification."""

# S tokens of a sequence, E entries

from __future__ import annotations

from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from logitstore.codec.arrays import (
    SequenceArrays,
    WeightForm,
    check_arrays,
    check_counts,
    check_tokens,
    check_values,
)
from logitstore.codec.gaps import group_lengths, join_ids, split_ids
from logitstore.codec.header import (
    CHECKSUM,
    MAX_FRAME_BYTES,
    STATISTIC_KINDS,
    BlobHeader,
    broken_rule_is_corruption,
    read_header,
    write_front,
)
from logitstore.codec.probabilities import LARGEST_CODE, from_codes, to_codes
from logitstore.codec.sections import Kind, corrupt, decode_section, encode_section
from logitstore.errors import StoreError


def max_encoded_bytes(num_tokens: int, num_entries: int) -> int:
    """Return a length that no blob with so many tokens and entries exceeds."""
    by_token = 4 + 2 + 2 + 4 * len(STATISTIC_KINDS)  # token, entries, head entries, statistics
    by_entry = 4 + 4  # id, weight
    return MAX_FRAME_BYTES + by_token * num_tokens + by_entry * num_entries


def encode(arrays: SequenceArrays) -> bytes:
    """Return the blob that holds `arrays`.

    Raises:
        InvalidInput: the arrays break a rule of `SequenceArrays`; the position is named.
    """
    check_arrays(arrays)
    sections = {kind: encode_section(part) for kind, part in _parts(arrays).items()}
    front = write_front(
        arrays.form,
        arrays.scale,
        sections,
        num_tokens=len(arrays.tokens),
        num_entries=len(arrays.ids),
        num_positions=int(np.count_nonzero(arrays.counts)),
    )
    body = front + b"".join(section.payload for section in sections.values())
    return body + CHECKSUM.pack(google_crc32c.value(body))


def decode(blob: bytes | memoryview) -> SequenceArrays:
    """Return the arrays that a blob holds, after checking all of it; they own their memory.

    Undoes `encode` exactly, but for the values of PROBABILITIES (`PROBABILITY_RELATIVE_ERROR`).

    Raises:
        StoreError: checksum-mismatch, corrupt-blob, or newer-format.
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
    with broken_rule_is_corruption():
        return _BlobContents(header, blob).decode()


class _BlobContents:
    """The sections of a blob whose header and checksum hold; what they say of each other is checked on the way."""

    def __init__(self, header: BlobHeader, blob: bytes) -> None:
        self._header = header
        self._payloads = {s.kind: (s.storage, blob[s.start : s.start + s.num_bytes]) for s in header.sections}

    def decode(self) -> SequenceArrays:
        header = self._header
        tokens = self._section(Kind.TOKENS, header.num_tokens)
        check_tokens(tokens)
        counts, head_counts = self._counts()
        return SequenceArrays(
            tokens=tokens.astype(np.int32),
            counts=counts,
            ids=self._ids(counts, head_counts),
            form=header.form,
            values=self._values(counts if head_counts is None else head_counts),
            scale=header.scale,
            head_counts=head_counts,
            statistics={
                name: self._section(kind, header.num_tokens).astype(np.uint32).view(np.float32)
                for name, kind in STATISTIC_KINDS.items()
                if kind in self._payloads
            },
        )

    def _section(self, kind: Kind, num_values: int) -> NDArray[Any]:
        storage, payload = self._payloads[kind]
        return decode_section(kind, storage, payload, num_values)

    def _counts(self) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
        header, head_counts = self._header, None
        counts = self._section(Kind.COUNTS, header.num_tokens).astype(np.int64)
        if header.form == WeightForm.HEAD_GRID:
            head_counts = self._section(Kind.HEAD_COUNTS, header.num_tokens).astype(np.int64)
        check_counts(counts, head_counts, header.num_entries)
        num_positions = np.count_nonzero(counts)
        if num_positions != header.num_positions:
            raise corrupt(f"{num_positions} positions have entries, the header says {header.num_positions}")
        return counts, head_counts

    def _ids(self, counts: NDArray[np.int64], head_counts: NDArray[np.int64] | None) -> NDArray[np.int32]:
        lengths = group_lengths(counts, head_counts)
        first_ids = self._section(Kind.FIRST_IDS, len(lengths))
        later_gaps = self._section(Kind.LATER_GAPS, self._header.num_entries - len(lengths))
        return join_ids(first_ids, later_gaps, lengths, counts)

    def _values(self, counts: NDArray[np.int64]) -> NDArray[Any]:
        header = self._header
        integers = self._section(Kind.VALUES, int(counts.sum()))
        values: NDArray[Any]
        if header.form == WeightForm.PROBABILITIES:
            if integers.max(initial=0) > LARGEST_CODE:
                raise corrupt(f"a probability has code {integers.max()}; {LARGEST_CODE} is the last one")
            return from_codes(integers)
        values = integers.astype(np.uint32)
        if header.form == WeightForm.FLOAT32:
            values = values.view(np.float32)
        check_values(header.form, header.scale, values, counts)
        return values


def _parts(arrays: SequenceArrays) -> dict[Kind, NDArray[Any]]:
    """Return what each section holds, in ascending order of kind."""
    parts: dict[Kind, NDArray[Any]] = {Kind.TOKENS: arrays.tokens, Kind.COUNTS: arrays.counts}
    if arrays.head_counts is not None:
        parts[Kind.HEAD_COUNTS] = arrays.head_counts
    lengths = group_lengths(arrays.counts, arrays.head_counts)
    parts[Kind.FIRST_IDS], parts[Kind.LATER_GAPS] = split_ids(arrays.ids, lengths, arrays.counts)
    if arrays.form == WeightForm.PROBABILITIES:
        parts[Kind.VALUES] = to_codes(arrays.values)
    elif arrays.form == WeightForm.FLOAT32:
        parts[Kind.VALUES] = _bits(arrays.values)
    else:
        parts[Kind.VALUES] = arrays.values
    for name, kind in STATISTIC_KINDS.items():
        if name in arrays.statistics:
            parts[kind] = _bits(arrays.statistics[name])
    return parts


def _bits(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    return np.ascontiguousarray(values).view(np.uint32)
