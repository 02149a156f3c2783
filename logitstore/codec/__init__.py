"""The codec: the arrays of one sequence in, one blob of bytes out, and back. FORMAT.md is the specification."""

from __future__ import annotations

from logitstore.codec.arrays import (
    ID_LIMIT,
    MAX_ENTRIES,
    MAX_ENTRIES_PER_POSITION,
    MAX_TOKENS,
    STATISTICS,
    SequenceArrays,
    WeightForm,
)
from logitstore.codec.coding import decode, encode, max_encoded_bytes
from logitstore.codec.front import FORMAT_VERSION, BlobHeader, read_header
from logitstore.codec.probability_codes import probability_error
from logitstore.codec.rules import check_sequence
from logitstore.codec.table import MAX_TABLE_BYTES, FrequencyTable
from logitstore.codec.weights import entry_weights

__all__ = [
    "FORMAT_VERSION",
    "ID_LIMIT",
    "MAX_ENTRIES",
    "MAX_ENTRIES_PER_POSITION",
    "MAX_TABLE_BYTES",
    "MAX_TOKENS",
    "STATISTICS",
    "BlobHeader",
    "FrequencyTable",
    "SequenceArrays",
    "WeightForm",
    "check_sequence",
    "decode",
    "encode",
    "entry_weights",
    "max_encoded_bytes",
    "probability_error",
    "read_header",
]
