"""The pilot of a build: sequences that were run first, to fit the frequency table, and need not be run again."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from logitstore.errors import StoreError
from logitstore.store import layout
from logitstore.store.storage import Storage

_SCHEMA = pa.schema([("sequence", pa.int64()), ("blob", pa.binary())])


def publish_pilot(storage: Storage, blobs: Mapping[int, bytes]) -> None:
    """Write the blobs of the pilot, by sequence."""
    table = pa.table({"sequence": list(blobs), "blob": list(blobs.values())}, schema=_SCHEMA)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="none", write_page_checksum=True)
    storage.create(layout.PILOT, sink.getvalue().to_pybytes())


def read_pilot(storage: Storage) -> dict[int, bytes]:
    """Return the blobs of the pilot, by sequence; none where there is no pilot.

    Raises:
        StoreError: kind "damaged".
    """
    if not storage.exists(layout.PILOT):
        return {}
    try:
        table = pq.read_table(pa.BufferReader(storage.read(layout.PILOT)), page_checksum_verification=True)
        return dict(zip(table["sequence"].to_pylist(), table["blob"].to_pylist(), strict=True))
    except (OSError, KeyError, pa.ArrowException) as error:
        path = storage.where(layout.PILOT)
        raise StoreError(f"the pilot {path} cannot be read: {error}. Build the store anew.", kind="damaged") from None
