"""Sequences as Parquet files: one row each, a list of entries for each position."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from logitstore.store.reader import Sequence
from logitstore.targets import STATISTIC_FIELDS

#: entries of a row group, about: bounds memory, and keeps Arrow's 32-bit offsets
_GROUP_ENTRIES = 1 << 22
#: row groups of a file
_GROUPS_PER_FILE = 16


def write_parquet(folder: Path, sequences: Iterator[Sequence], origin: dict[str, Any]) -> None:
    """Write sequences to `part-00000.parquet` and on."""
    metadata = {"logitstore": json.dumps(origin)}
    for number, groups in enumerate(_files(sequences)):
        writer = None
        try:
            for group in groups:
                table = _table(group).replace_schema_metadata(metadata)
                if writer is None:
                    path = folder / f"part-{number:05d}.parquet"
                    writer = pq.ParquetWriter(path, table.schema, compression="zstd", write_page_checksum=True)
                writer.write_table(table)
        finally:
            if writer is not None:
                writer.close()


def _files(sequences: Iterator[Sequence]) -> Iterator[Iterator[list[Sequence]]]:
    """Yield the row groups of each file, to be consumed in order."""
    groups = _groups(sequences)
    for first in groups:

        def of_this_file(first: list[Sequence] = first) -> Iterator[list[Sequence]]:
            yield first
            for _ in range(_GROUPS_PER_FILE - 1):
                following = next(groups, None)
                if following is None:
                    return
                yield following

        yield of_this_file()


def _groups(sequences: Iterator[Sequence]) -> Iterator[list[Sequence]]:
    group: list[Sequence] = []
    entries = 0
    for sequence in sequences:
        group.append(sequence)
        entries += sequence.targets.num_entries + len(sequence.tokens)
        if entries >= _GROUP_ENTRIES:
            yield group
            group, entries = [], 0
    if group:
        yield group


def _table(group: list[Sequence]) -> pa.Table:
    lengths = np.array([len(sequence.tokens) for sequence in group])
    counts = np.concatenate([sequence.targets.counts.numpy() for sequence in group])
    columns: dict[str, Any] = {
        "sequence": pa.array([sequence.index for sequence in group], pa.int64()),
        "tokens": _lists(lengths, np.concatenate([sequence.tokens.numpy() for sequence in group])),
        "document_starts": pa.array([s.document_starts.numpy() for s in group], pa.list_(pa.int32())),
    }
    for name in ("ids", "weights"):
        values = np.concatenate([getattr(sequence.targets, name).numpy() for sequence in group])
        columns[name] = _lists(lengths, _lists(counts, values))
    for name, attribute in STATISTIC_FIELDS.items():
        found = [getattr(sequence.targets, attribute) for sequence in group]
        if all(values is not None for values in found):
            columns[name] = _lists(lengths, np.concatenate([values.numpy() for values in found]))
    return pa.table(columns)


def _lists(lengths: NDArray[Any], values: Any) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    inner = values if isinstance(values, pa.Array) else pa.array(values)
    return pa.ListArray.from_arrays(pa.array(offsets), inner)
