"""The index: one row per sequence, as Parquet; and the commit records that it is put together from."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from logitstore.errors import StoreError
from logitstore.store.layout import INDEX, commit_name
from logitstore.store.storage import Storage

SCHEMA = pa.schema(
    [
        ("sequence", pa.int64()),
        ("tokens", pa.int32()),
        ("positions", pa.int32()),
        ("entries", pa.int64()),
        ("max_id", pa.int32()),
        ("token_bytes", pa.int64()),
        ("entry_bytes", pa.int64()),
        ("statistics_bytes", pa.int64()),
        ("blob_bytes", pa.int64()),
        ("crc32c", pa.uint32()),
        ("tokens_sha256", pa.binary(32)),
        ("document_starts", pa.list_(pa.int32())),
    ]
)
_TOTALS = ("tokens", "positions", "entries", "token_bytes", "entry_bytes", "statistics_bytes", "blob_bytes")
_RECORD_KEY = b"logitstore"


@dataclass
class Rows:
    """Index rows of some sequences, in columns."""

    columns: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in SCHEMA.names})

    def append(self, **row: Any) -> None:
        """Add the row of one sequence; every column is wanted."""
        for name in SCHEMA.names:
            self.columns[name].append(row[name])

    def to_bytes(self, record: dict[str, Any]) -> bytes:
        """Return a commit record: the rows as a Parquet file, `record` (shard name, size, hash) in its metadata."""
        table = pa.table(self.columns, schema=SCHEMA)
        table = table.replace_schema_metadata({_RECORD_KEY: json.dumps(record, sort_keys=True).encode()})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
        return bytes(sink.getvalue().to_pybytes())


def read_commit(storage: Storage, unit: int) -> tuple[pa.Table, dict[str, Any]]:
    """Return the rows and the shard's record of one work unit's commit."""
    name = commit_name(unit)
    try:
        table = pq.read_table(pa.BufferReader(storage.read(name)), page_checksum_verification=True)
        return table.cast(SCHEMA), dict(json.loads(table.schema.metadata[_RECORD_KEY]))
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise StoreError(f"commit record {storage.where(name)} cannot be read: {error}.", kind="damaged") from None


def write_index(attempt: Path, storage: Storage, units: Iterable[int]) -> dict[str, int]:
    """Join commit records into the index; return the totals of all sequences."""
    totals = dict.fromkeys(_TOTALS, 0) | {"sequences": 0, "max_id": 0}
    with pq.ParquetWriter(attempt, SCHEMA, compression="zstd", write_page_checksum=True) as writer:
        for unit in units:
            table, _ = read_commit(storage, unit)
            writer.write_table(table.replace_schema_metadata(None))
            totals["sequences"] += table.num_rows
            totals["max_id"] = max(totals["max_id"], int(np.asarray(table["max_id"]).max(initial=0)))
            for name in _TOTALS:
                totals[name] += int(np.asarray(table[name]).sum())
    return totals


@dataclass(frozen=True)
class Index:
    """The index in memory.

    Attributes:
        tokens: length of each sequence, [N] int64.
        crc32c: checksum of each sequence's blob, [N] uint32.
    """

    tokens: NDArray[np.int64]
    crc32c: NDArray[np.uint32]
    _start_offsets: NDArray[np.int64]
    _start_values: NDArray[np.int32]

    def document_starts(self, sequence: int) -> NDArray[np.int32]:
        """Return where documents begin in a sequence, ascending offsets."""
        return self._start_values[self._start_offsets[sequence] : self._start_offsets[sequence + 1]]


def read_table(storage: Storage) -> pa.Table:
    """Return the whole index.

    Raises:
        StoreError: kind "damaged".
    """
    try:
        return pq.read_table(pa.BufferReader(storage.read(INDEX)), page_checksum_verification=True).cast(SCHEMA)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise StoreError(f"the index {storage.where(INDEX)} cannot be read: {error}.", kind="damaged") from None


def read_index(storage: Storage) -> Index:
    """Return what reading sequences needs of the index."""
    table = read_table(storage)
    starts = table["document_starts"].combine_chunks()
    if isinstance(starts, pa.ChunkedArray):
        starts = (
            pa.concat_arrays(starts.chunks) if starts.num_chunks else pa.array([], SCHEMA.field("document_starts").type)
        )
    offsets = np.concatenate([[0], np.cumsum(np.asarray(starts.value_lengths().fill_null(0)), dtype=np.int64)])
    return Index(
        tokens=np.asarray(table["tokens"]).astype(np.int64),
        crc32c=np.asarray(table["crc32c"]).astype(np.uint32),
        _start_offsets=offsets.astype(np.int64),
        _start_values=np.asarray(starts.flatten()).astype(np.int32),
    )
