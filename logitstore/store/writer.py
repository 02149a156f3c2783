"""Writing a store: shards, commit records, and the seal that makes them one."""

# S tokens of a sequence

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from logitstore import codec
from logitstore.errors import InvalidInput, StoreError
from logitstore.store import layout, manifest
from logitstore.store.convert import Weighting, to_arrays
from logitstore.store.frequency_table import read_store_table
from logitstore.store.index import Rows, read_commit, write_index
from logitstore.store.shard import ShardFile, ShardReader, ShardWriter, array_metadata
from logitstore.targets import SparseTargets


class UnitWriter:
    """Writes one work unit: a range of sequences, which is one shard and one commit record.

    Used as a context; without `commit` nothing of it stays.
    """

    def __init__(self, root: Path, unit: int, stored: Mapping[str, Any], table: codec.FrequencyTable) -> None:
        self._root, self._unit, self._manifest, self._table = root, unit, stored, table
        self._weighting = Weighting.of(stored)
        self._first = unit * stored["sequences_per_shard"]
        self._shard = ShardWriter(root, stored["sequences_per_shard"])
        self._rows = Rows()
        self.num_sequences = self.num_positions = self.num_entries = self.num_bytes = 0

    def append(self, tokens: NDArray[np.int32], targets: SparseTargets, document_starts: NDArray[np.int32]) -> None:
        """Add the next sequence: tokens [S], targets of S positions."""
        where = f"sequence {self._first + self.num_sequences}"
        arrays = to_arrays(tokens, targets, self._weighting, self._manifest["vocab_size"], where)
        self.append_arrays(arrays, document_starts)

    def append_arrays(self, arrays: codec.SequenceArrays, document_starts: NDArray[np.int32]) -> None:
        """Add the next sequence, converted already."""
        try:
            blob = codec.encode(arrays, self._table)
        except InvalidInput as error:
            raise InvalidInput(f"sequence {self._first + self.num_sequences}: {error}", kind=error.kind) from None
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
        target = self._root / layout.shard_name(self._unit)
        won, shard = self._shard.publish(target)
        rows = self._rows
        if not won:
            shard, rows = self._adopt(target, shard)
        record = {
            "unit": self._unit,
            "shard": layout.shard_name(self._unit),
            "bytes": shard.num_bytes,
            "sha256": shard.sha256,
            "settings_sha256": manifest.settings_sha256(self._manifest),
        }
        name = layout.commit_name(self._unit)
        if not layout.publish_bytes(self._root, name, rows.to_bytes(record)):
            _, first = read_commit(self._root / name)
            if first != record:
                text = f"unit {self._unit} was committed with shard hash {first.get('sha256')}, this run made {shard.sha256}."
                raise StoreError(f"{text} The first copy stays; resume to go on.", kind="duplicate-differs")

    def _adopt(self, target: Path, ours: ShardFile) -> tuple[ShardFile, Rows]:
        """Return the shard that an earlier attempt published: ours if it is equal, else what it holds."""
        sha256 = layout.file_sha256(target)
        if sha256 == ours.sha256:
            return ours, self._rows
        rows = Rows()
        reader = ShardReader(target, self._manifest["sequences_per_shard"])
        for place, starts in enumerate(self._rows.columns["document_starts"]):
            blob = reader.read(place)
            found = describe_blob(self._first + place, blob, codec.decode(blob, self._table))
            rows.append(**found, document_starts=starts)
        if rows.columns["tokens_sha256"] != self._rows.columns["tokens_sha256"]:
            text = f"{target} is there already and holds other tokens than unit {self._unit} of this build."
            raise StoreError(f"{text} Build another store.", kind="duplicate-differs")
        return ShardFile(target.stat().st_size, sha256), rows

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shard.__exit__(kind, error, trace)


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


def committed_units(root: Path) -> list[int]:
    """Return the work units that have a commit record, ascending."""
    return sorted(int(path.stem) for path in (root / layout.COMMITS).glob("*.parquet"))


def seal_store(root: Path, stored: Mapping[str, Any], num_units: int) -> None:
    """Finish a store whose units are all committed: index, Zarr metadata, and last the sealed manifest.

    Raises:
        StoreError: kind "not-sealed", where units are missing.
    """
    missing = sorted(set(range(num_units)) - set(committed_units(root)))
    if missing:
        raise StoreError(
            f"{root} lacks {len(missing)} of {num_units} units, the first is {missing[0]}.", kind="not-sealed"
        )
    commits = [root / layout.commit_name(unit) for unit in range(num_units)]
    shards = [read_commit(path)[1] for path in commits]
    attempt = layout.attempt_path(root)
    try:
        with layout.disk_errors(root / layout.INDEX):
            totals = write_index(attempt, commits)
            with attempt.open("rb+") as file:
                os.fsync(file.fileno())
        layout.publish(attempt, root / layout.INDEX)
    finally:
        attempt.unlink(missing_ok=True)
    group, array = array_metadata(totals["sequences"], stored["sequences_per_shard"])
    layout.publish_bytes(root, layout.GROUP, group)
    layout.publish_bytes(root, f"{layout.ARRAY}/{layout.GROUP}", array)
    sealed = {
        "format_version": stored["format_version"],
        "manifest_sha256": layout.file_sha256(root / layout.MANIFEST),
        "index_sha256": layout.file_sha256(root / layout.INDEX),
        "table_sha256": read_store_table(root).sha256,
        "totals": totals,
        "shards": [{name: shard[name] for name in ("shard", "bytes", "sha256")} for shard in shards],
    }
    layout.publish_bytes(root, layout.SEALED, manifest.sealed_bytes(sealed))
    layout.remove_scaffolding(root)


def refuse_existing(root: Path) -> None:
    """Raise StoreError, kind "exists", where something is at `root` already; an empty folder is fine."""
    if root.is_dir() and not root.is_symlink() and not any(root.iterdir()):
        return
    if root.exists() or root.is_symlink():
        raise StoreError(
            f"{root} exists. Choose another path, or go on with an unfinished store by --resume.", kind="exists"
        )
