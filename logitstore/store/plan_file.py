"""The plan of a build: every sequence's tokens, fixed before the teacher runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from logitstore.errors import StoreError
from logitstore.store.layout import PLAN
from logitstore.store.storage import Storage, disk_errors

_SCHEMA = pa.schema([("tokens", pa.list_(pa.int32())), ("document_starts", pa.list_(pa.int32()))])
_ROWS_PER_GROUP = 256


@dataclass(frozen=True)
class PlanTotals:
    """How much a plan holds."""

    sequences: int
    tokens: int


def write_plan(path: Path, sequences: Iterable[tuple[NDArray[np.int32], NDArray[np.int32]]]) -> PlanTotals:
    """Write (tokens, document starts) of each sequence to a Parquet file; return the totals."""
    num_sequences = num_tokens = 0
    rows: list[tuple[NDArray[np.int32], NDArray[np.int32]]] = []
    with disk_errors(path), pq.ParquetWriter(path, _SCHEMA, compression="zstd", write_page_checksum=True) as writer:
        for row in sequences:
            rows.append(row)
            num_sequences += 1
            num_tokens += len(row[0])
            if len(rows) == _ROWS_PER_GROUP:
                writer.write_table(_table(rows))
                rows.clear()
        if rows:
            writer.write_table(_table(rows))
    return PlanTotals(num_sequences, num_tokens)


def read_plan(storage: Storage, start: int, stop: int) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32]]]:
    """Yield (tokens, document starts) of the sequences `start:stop`.

    Raises:
        StoreError: kind "damaged".
    """
    try:
        with storage.open(PLAN) as stream, pq.ParquetFile(stream, page_checksum_verification=True) as file:
            for group in range(start // _ROWS_PER_GROUP, -(-stop // _ROWS_PER_GROUP)):
                first = group * _ROWS_PER_GROUP
                table = file.read_row_group(group)
                for row in range(max(start - first, 0), min(stop - first, table.num_rows)):
                    yield tuple(table[name][row].values.to_numpy() for name in _SCHEMA.names)
    except (OSError, pa.ArrowException) as error:
        raise StoreError(
            f"the plan {storage.where(PLAN)} cannot be read: {error}. Build the store anew.", kind="damaged"
        ) from None


def _table(rows: list[tuple[NDArray[np.int32], NDArray[np.int32]]]) -> Any:
    return pa.table(
        [pa.array(column, _SCHEMA.field(i).type) for i, column in enumerate(zip(*rows, strict=True))], _SCHEMA
    )
