"""Writing a store: shards, commit records, and the seal that makes them one."""

# S tokens of a sequence

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import PurePosixPath
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from logitstore import codec
from logitstore.errors import InvalidInput, StoreError
from logitstore.store import layout, manifest
from logitstore.store.commit import commit_record, describe_blob, read_unit
from logitstore.store.convert import Weighting, to_arrays
from logitstore.store.frequency_table import read_store_table
from logitstore.store.index import Rows, read_commit, write_index
from logitstore.store.shard import ShardFile, ShardWriter, array_metadata
from logitstore.store.storage import Storage, disk_errors
from logitstore.targets import SparseTargets


class UnitWriter:
    """Writes one work unit: a range of sequences, which is one shard and one commit record.

    Used as a context; without `commit` nothing of it stays.
    """

    def __init__(self, storage: Storage, unit: int, stored: Mapping[str, Any], table: codec.FrequencyTable) -> None:
        self._storage, self._unit, self._manifest, self._table = storage, unit, stored, table
        self._weighting = Weighting.of(stored)
        self._first = unit * stored["sequences_per_shard"]
        self._before = stored.get("first_sequence", 0)
        self._shard = ShardWriter(storage, stored["sequences_per_shard"])
        self._rows = Rows()
        self.num_sequences = self.num_positions = self.num_entries = self.num_bytes = 0

    def append(self, tokens: NDArray[np.int32], targets: SparseTargets, document_starts: NDArray[np.int32]) -> None:
        """Add the next sequence: tokens [S], targets of S positions."""
        where = f"sequence {self._before + self._first + self.num_sequences}"
        arrays = to_arrays(tokens, targets, self._weighting, self._manifest["vocab_size"], where)
        self.append_arrays(arrays, document_starts)

    def append_arrays(self, arrays: codec.SequenceArrays, document_starts: NDArray[np.int32]) -> None:
        """Add the next sequence, converted already."""
        try:
            blob = codec.encode(arrays, self._table)
        except InvalidInput as error:
            where = f"sequence {self._before + self._first + self.num_sequences}"
            raise InvalidInput(f"{where}: {error}", kind=error.kind) from None
        self._append(blob, arrays, document_starts)

    def append_blob(self, blob: bytes, document_starts: NDArray[np.int32]) -> None:
        """Add the next sequence, encoded already."""
        self._append(blob, codec.decode(blob, self._table), document_starts)

    def _append(self, blob: bytes, arrays: codec.SequenceArrays, document_starts: NDArray[np.int32]) -> None:
        row = describe_blob(self._first + self.num_sequences, blob, arrays)
        self._rows.append(**row, document_starts=document_starts.tolist())
        self._shard.append(blob)
        self.num_sequences += 1
        self.num_positions += row["positions"]
        self.num_entries += row["entries"]
        self.num_bytes += len(blob)

    def commit(self) -> None:
        """Publish the shard, then its commit record; a unit that somebody else committed first is left as it is.

        Raises:
            StoreError: kind "duplicate-differs", where the copy committed first has other bytes.
        """
        won, shard = self._shard.publish(layout.shard_name(self._unit))
        rows = self._rows
        if not won:
            shard, rows = self._adopt(shard)
        record = commit_record(self._manifest, self._unit, shard)
        if not self._storage.create(layout.commit_name(self._unit), rows.to_bytes(record)):
            _, first = read_commit(self._storage, self._unit)
            if first != record:
                text = f"unit {self._unit} was committed with shard hash {first.get('sha256')}, this run made {shard.sha256}."
                raise StoreError(f"{text} The first copy stays; resume to go on.", kind="duplicate-differs")

    def _adopt(self, ours: ShardFile) -> tuple[ShardFile, Rows]:
        """Return the shard that an earlier attempt published: ours if it is equal, else what it holds."""
        if self._storage.sha256(layout.shard_name(self._unit)) == ours.sha256:
            return ours, self._rows
        starts = map(np.asarray, self._rows.columns["document_starts"])
        shard, rows = read_unit(self._storage, self._manifest, self._table, self._unit, starts)
        if rows.columns["tokens_sha256"] != self._rows.columns["tokens_sha256"]:
            where = self._storage.where(layout.shard_name(self._unit))
            text = f"{where} is there already and holds other tokens than unit {self._unit} of this build."
            raise StoreError(f"{text} Build another store.", kind="duplicate-differs")
        return shard, rows

    @property
    def note(self) -> str:
        """What the unit comes to so far, for people."""
        so_far = max(self.num_positions, 1)
        return f"{self.num_entries / so_far:.1f} entries and {self.num_bytes / so_far:.1f} B a position"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shard.__exit__(kind, error, trace)


def committed_units(storage: Storage) -> list[int]:
    """Return the work units that have a commit record, ascending."""
    return sorted(int(PurePosixPath(name).stem) for name in storage.names(layout.COMMITS))


def seal_store(storage: Storage, stored: Mapping[str, Any], num_units: int) -> None:
    """Finish a store whose units are all committed: index, Zarr metadata, and last the sealed manifest.

    Raises:
        StoreError: kind "not-sealed", where units are missing.
    """
    missing = sorted(set(range(num_units)) - set(committed_units(storage)))
    if missing:
        raise StoreError(
            f"{storage.url} lacks {len(missing)} of {num_units} units, the first is {missing[0]}.", kind="not-sealed"
        )
    shards = [read_commit(storage, unit)[1] for unit in range(num_units)]
    attempt = storage.scratch()
    try:
        with disk_errors(storage.where(layout.INDEX)):
            totals = write_index(attempt, storage, range(num_units))
            with attempt.open("rb+") as file:
                os.fsync(file.fileno())
        storage.create_from(layout.INDEX, attempt)
    finally:
        with suppress(OSError):
            attempt.unlink(missing_ok=True)
    group, array = array_metadata(totals["sequences"], stored["sequences_per_shard"])
    storage.create(layout.GROUP, group)
    storage.create(f"{layout.ARRAY}/{layout.GROUP}", array)
    sealed = {
        "format_version": stored["format_version"],
        "manifest_sha256": storage.sha256(layout.MANIFEST),
        "index_sha256": storage.sha256(layout.INDEX),
        "table_sha256": read_store_table(storage).sha256,
        "metadata_sha256": {name: storage.sha256(name) for name in layout.METADATA},
        "totals": totals,
        "shards": [{name: shard[name] for name in ("shard", "bytes", "sha256")} for shard in shards],
    }
    storage.create(layout.SEALED, manifest.sealed_bytes(sealed))
    storage.remove_below(layout.SCAFFOLDING)


def refuse_existing(storage: Storage) -> None:
    """Raise StoreError, kind "exists", where something is at the store's place already; an empty folder is fine."""
    if storage.is_occupied():
        raise StoreError(
            f"{storage.url} exists. Choose another path, or go on with an unfinished store by --resume.", kind="exists"
        )
