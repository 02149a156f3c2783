"""Sequences as plain Zarr v3 arrays, one after the other: compressed sparse rows, or dense rows."""

# P positions, E entries, N sequences, V vocabulary

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from logitstore.store.reader import Sequence
from logitstore.targets import STATISTIC_FIELDS

#: values of a chunk, about
_CHUNK_VALUES = 1 << 20
_DENSE_CHUNK_VALUES = 1 << 22


class _Column:
    """A Zarr array that grows row by row and is written in whole chunks."""

    def __init__(self, group: Any, name: str, dtype: str, row: tuple[int, ...] = ()) -> None:
        from zarr.codecs import ZstdCodec

        limit = _DENSE_CHUNK_VALUES if row else _CHUNK_VALUES
        self._rows = max(1, limit // max(1, int(np.prod(row))))
        self._array = group.create_array(
            name,
            shape=(0, *row),
            chunks=(self._rows, *row),
            dtype=dtype,
            compressors=ZstdCodec(level=3, checksum=True),
        )
        self._parts: list[NDArray[Any]] = []
        self._waiting = 0

    def append(self, values: NDArray[Any]) -> None:
        """Add rows, [R, ...]."""
        self._parts.append(values)
        self._waiting += len(values)
        if self._waiting >= self._rows:
            whole = self._waiting - self._waiting % self._rows
            joined = np.concatenate(self._parts)
            self._write(joined[:whole])
            self._parts, self._waiting = [joined[whole:].copy()], self._waiting - whole

    def finish(self) -> None:
        """Write what is left."""
        if self._waiting:
            self._write(np.concatenate(self._parts))
            self._parts, self._waiting = [], 0

    def _write(self, values: NDArray[Any]) -> None:
        start = self._array.shape[0]
        self._array.resize((start + len(values), *self._array.shape[1:]))
        self._array[start:] = values


class _Columns:
    """The columns of an export, made as they are first used; `sequence_offsets` and statistics are in each."""

    def __init__(self, folder: Path, origin: dict[str, Any]) -> None:
        import zarr

        self._group = zarr.create_group(store=folder, attributes={"logitstore": origin})
        self._columns: dict[str, _Column] = {}
        self._positions = 0
        self.append("sequence_offsets", np.zeros(1, np.int64))

    def append(self, name: str, values: NDArray[Any]) -> None:
        if name not in self._columns:
            self._columns[name] = _Column(self._group, name, values.dtype.name, values.shape[1:])
        self._columns[name].append(values)

    def append_common(self, sequence: Sequence) -> None:
        """Add what every format has of a sequence."""
        self._positions += len(sequence.tokens)
        self.append("sequence_offsets", np.array([self._positions], np.int64))
        self.append("tokens", sequence.tokens.numpy())
        for name, attribute in STATISTIC_FIELDS.items():
            values = getattr(sequence.targets, attribute)
            if values is not None:
                self.append(name, values.numpy())

    def finish(self) -> None:
        for column in self._columns.values():
            column.finish()


def write_flat(folder: Path, sequences: Iterator[Sequence], origin: dict[str, Any]) -> None:
    """Write `offsets` [P + 1], `ids` [E], `weights` [E], `tokens` [P], `sequence_offsets` [N + 1], statistics [P]."""
    columns, entries = _Columns(folder, origin), 0
    columns.append("offsets", np.zeros(1, np.int64))
    for sequence in sequences:
        columns.append_common(sequence)
        columns.append("offsets", sequence.targets.offsets[1:].numpy() + entries)
        columns.append("ids", sequence.targets.ids.numpy())
        columns.append("weights", sequence.targets.weights.numpy())
        entries += sequence.targets.num_entries
    columns.finish()


def write_dense(folder: Path, sequences: Iterator[Sequence], origin: dict[str, Any]) -> None:
    """Write `probabilities` [P, V] float32, `tokens` [P], `sequence_offsets` [N + 1], statistics [P]."""
    columns, vocab_size = _Columns(folder, origin), int(origin["vocab_size"])
    height = max(1, _DENSE_CHUNK_VALUES // vocab_size)
    for sequence in sequences:
        columns.append_common(sequence)
        for start in range(0, len(sequence.tokens), height):
            rows = sequence.targets.slice(start, min(start + height, len(sequence.tokens)))
            columns.append("probabilities", rows.to_dense(vocab_size).numpy())
    columns.finish()
