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
from logitstore.codec.blob import decode, encode, max_encoded_bytes
from logitstore.codec.header import FORMAT_VERSION, BlobHeader, read_header
from logitstore.codec.probabilities import PROBABILITY_RELATIVE_ERROR

__all__ = [
    "FORMAT_VERSION",
    "ID_LIMIT",
    "MAX_ENTRIES",
    "MAX_ENTRIES_PER_POSITION",
    "MAX_TOKENS",
    "PROBABILITY_RELATIVE_ERROR",
    "STATISTICS",
    "BlobHeader",
    "SequenceArrays",
    "WeightForm",
    "decode",
    "encode",
    "max_encoded_bytes",
    "read_header",
]
