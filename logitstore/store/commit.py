"""What the commit record of a work unit says, and what it says of a shard that is there already."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from logitstore import codec
from logitstore.errors import StoreError
from logitstore.store import layout, manifest
from logitstore.store.index import Rows
from logitstore.store.shard import ShardFile, ShardReader
from logitstore.store.storage import Storage

#: what an inner chunk has beside its blob, a shard beside its chunks, and its index for each sequence
_CHUNK_BYTES, _SHARD_BYTES, _ROW_BYTES = 8, 4, 16


def commit_record(stored: Mapping[str, Any], unit: int, shard: ShardFile) -> dict[str, Any]:
    """Return what a commit says of its shard."""
    return {
        "unit": unit,
        "shard": layout.shard_name(unit),
        "bytes": shard.num_bytes,
        "sha256": shard.sha256,
        "settings_sha256": manifest.settings_sha256(stored),
    }


def describe_blob(index: int, blob: bytes, arrays: codec.SequenceArrays) -> dict[str, Any]:
    """Return the index row of a sequence, but for its document starts."""
    header = codec.read_header(blob)
    return {
        "sequence": index,
        "tokens": header.num_tokens,
        "positions": header.num_positions,
        "entries": header.num_entries,
        "max_id": int(max(arrays.tokens.max(initial=0), arrays.ids.max(initial=0))),
        "token_bytes": header.token_bytes,
        "entry_bytes": header.entry_bytes,
        "statistics_bytes": header.statistics_bytes,
        "blob_bytes": len(blob),
        "crc32c": int.from_bytes(blob[-4:], "little"),
        "tokens_sha256": hashlib.sha256(arrays.tokens.astype("<i4").tobytes()).digest(),
    }


def read_unit(
    storage: Storage,
    stored: Mapping[str, Any],
    table: codec.FrequencyTable,
    unit: int,
    document_starts: Iterable[NDArray[np.int32]] | None = None,
) -> tuple[ShardFile, Rows]:
    """Read a whole shard, and return what its commit record says.

    Args:
        storage: the store.
        stored: its manifest.
        table: its frequency table.
        unit: the work unit.
        document_starts: of each sequence that the shard must have; None takes those that it has, with no starts.

    Raises:
        StoreError: of a kind in `recover.DAMAGE`, where the shard is not whole or has more in it.
    """
    per_shard = stored["sequences_per_shard"]
    name, rows, size = layout.shard_name(unit), Rows(), _SHARD_BYTES + _ROW_BYTES * per_shard
    reader = ShardReader(storage, name, per_shard)
    try:
        nothing = repeat(np.zeros(0, np.int32), per_shard)
        for place, starts in enumerate(nothing if document_starts is None else document_starts):
            try:
                blob = reader.read(place)
            except StoreError as error:
                if document_starts is None and place > 0 and error.kind == "missing-sequence":
                    break
                raise
            found = describe_blob(unit * per_shard + place, blob, codec.decode(blob, table))
            rows.append(**found, document_starts=starts.tolist())
            size += _CHUNK_BYTES + len(blob)
        if reader.num_bytes != size:
            text = f"shard {reader.where} has {reader.num_bytes} bytes, its sequences are {size}. It has more in it."
            raise StoreError(text, kind="damaged")
    finally:
        reader.close()
    return ShardFile(size, storage.sha256(name)), rows
