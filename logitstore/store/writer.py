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
from numpy.typing import ArrayLike, NDArray

from logitstore import codec
from logitstore.errors import InvalidInput, StoreError
from logitstore.store import layout, manifest
from logitstore.store.convert import Weighting, to_arrays
from logitstore.store.index import Rows, read_commit, write_index
from logitstore.store.shard import ShardFile, ShardReader, ShardWriter, array_metadata
from logitstore.targets import Sampler, SparseTargets

_SEQUENCES_PER_SHARD = 256


class UnitWriter:
    """Writes one work unit: a range of sequences, which is one shard and one commit record.

    Used as a context; without `commit` nothing of it stays.
    """

    def __init__(self, root: Path, unit: int, stored: Mapping[str, Any]) -> None:
        self._root, self._unit, self._manifest = root, unit, stored
        self._weighting = Weighting.of(stored["sampler"], stored["teacher_temperature"])
        self._first = unit * stored["sequences_per_shard"]
        self._shard = ShardWriter(root, stored["sequences_per_shard"])
        self._rows = Rows()
        self.num_sequences = self.num_positions = self.num_entries = self.num_bytes = 0

    def append(self, tokens: NDArray[np.int32], targets: SparseTargets, document_starts: NDArray[np.int32]) -> None:
        """Add the next sequence: tokens [S], targets of S positions."""
        index = self._first + self.num_sequences
        arrays = to_arrays(tokens, targets, self._weighting, self._manifest["vocab_size"], f"sequence {index}")
        try:
            blob = codec.encode(arrays)
        except InvalidInput as error:
            raise InvalidInput(f"sequence {index}: {error}", kind=error.kind) from None
        self._rows.append(**describe_blob(index, blob, arrays), document_starts=document_starts.tolist())
        self._shard.append(blob)
        self.num_sequences += 1
        self.num_positions += self._rows.columns["positions"][-1]
        self.num_entries += targets.num_entries
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
            found = describe_blob(self._first + place, blob, codec.decode(blob))
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
        "totals": totals,
        "shards": [{name: shard[name] for name in ("shard", "bytes", "sha256")} for shard in shards],
    }
    layout.publish_bytes(root, layout.SEALED, manifest.sealed_bytes(sealed))
    layout.remove_scaffolding(root)


def _narrow(ids: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
    """Return ids as int32; what does not fit becomes -1, which no vocabulary has."""
    fits = (ids >= 0) & (ids < manifest.MAX_VOCAB_SIZE)
    return np.where(fits, ids, -1).astype(np.int32)


class StoreWriter:
    """Writes a store sequence by sequence, in order; see `create_store`."""

    def __init__(self, root: Path, stored: dict[str, Any]) -> None:
        self.path, self.manifest = root, stored
        self._per_shard: int = stored["sequences_per_shard"]
        self._unit: UnitWriter | None = None
        done = committed_units(root)
        if done != list(range(len(done))):
            raise StoreError(f"{root} has gaps between its committed units {done}; build it anew.", kind="damaged")
        self._units = len(done)
        #: sequences that are in the store; after a resume, the number to go on with
        self.num_sequences = sum(read_commit(root / layout.commit_name(unit))[0].num_rows for unit in done)
        if self.num_sequences != self._units * self._per_shard:
            raise StoreError(f"the last shard of {root} is a short one: nothing can follow it.", kind="damaged")

    def append(self, tokens: ArrayLike, targets: SparseTargets, *, document_starts: ArrayLike = ()) -> None:
        """Add the next sequence.

        Args:
            tokens: token ids, [S], S >= 1, each below the store's vocabulary.
            targets: of S positions; position t is the teacher's distribution after tokens[0..t]. A position without
                entries is masked.
            document_starts: ascending offsets into `tokens` at which documents begin.

        Raises:
            InvalidInput: anything that does not fit; the sequence is not added, and the writer can go on.
            StoreError: kind "disk-full" or "unwritable".
        """
        ids = np.asarray(tokens)
        if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
            raise InvalidInput(f"tokens are {ids.dtype} with shape {ids.shape}; whole numbers [S] were wanted.")
        if self._unit is None:
            self._unit = UnitWriter(self.path, self._units, self.manifest)
        starts = np.asarray(document_starts, dtype=np.int32).reshape(-1)
        self._unit.append(_narrow(ids), targets, starts)
        self.num_sequences += 1
        if self._unit.num_sequences == self._per_shard:
            self._commit()

    def _commit(self) -> None:
        if self._unit is not None:
            with self._unit as unit:
                unit.commit()
            self._unit, self._units = None, self._units + 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            if self._unit is not None:
                self._unit.__exit__(kind, error, trace)
            return
        if self.num_sequences == 0:
            raise InvalidInput(f"nothing was appended to {self.path}; a store holds at least one sequence.")
        self._commit()
        seal_store(self.path, self.manifest, self._units)


def create_store(
    path: str | Path,
    *,
    vocab_size: int,
    sampler: Sampler | Mapping[str, Any],
    teacher_temperature: float = 1.0,
    sequences_per_shard: int = _SEQUENCES_PER_SHARD,
    resume: bool = False,
    **provenance: Any,
) -> StoreWriter:
    """Return a writer for a new store, for those who run the teacher themselves.

    Use it as a context: the store is sealed on a clean exit only. After an error what was committed (whole shards)
    stays; call again with `resume=True` and go on with sequence `writer.num_sequences`.

    Args:
        path: folder to make.
        vocab_size: V, columns of the teacher's logits, up to 2^20.
        sampler: what made the targets (its `to_dict` is recorded and says how weights are stored).
        teacher_temperature: temperature the logits were divided by before sampling.
        sequences_per_shard: sequences of a shard, which is what is committed at a time.
        resume: go on with an unfinished store of equal settings; make it where it is absent.
        provenance: further JSON fields of the manifest; `tokenizer_sha256`, `bos_id`, `eod_id`, `seed`, `teacher` and
            `data` have a meaning to readers.

    Raises:
        InvalidInput: an argument out of range.
        StoreError: kind "exists", "settings-differ", "unwritable".
    """
    if sequences_per_shard < 1:
        raise InvalidInput(f"sequences_per_shard is {sequences_per_shard}; at least 1 was wanted.")
    config = sampler if isinstance(sampler, Mapping) else sampler.to_dict()
    known = {"tokenizer_sha256": None, "bos_id": None, "eod_id": None} | provenance
    wanted = manifest.new_manifest(
        vocab_size=vocab_size,
        sampler=config,
        teacher_temperature=teacher_temperature,
        sequences_per_shard=sequences_per_shard,
        **known,
    )
    Weighting.of(config, teacher_temperature)
    root = Path(path)
    if resume and (root / layout.MANIFEST).exists():
        stored = manifest.read_manifest(root)
        manifest.check_same_settings(root, stored, wanted)
        if (root / layout.SEALED).exists():
            raise StoreError(f"{root} is complete; nothing can be added to it.", kind="exists")
        return StoreWriter(root, stored)
    refuse_existing(root)
    with layout.disk_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        layout.publish_bytes(root, layout.MANIFEST, manifest.to_bytes(wanted))
    return StoreWriter(root, wanted)


def refuse_existing(root: Path) -> None:
    """Raise StoreError, kind "exists", where something is at `root` already; an empty folder is fine."""
    if root.is_dir() and not root.is_symlink() and not any(root.iterdir()):
        return
    if root.exists() or root.is_symlink():
        raise StoreError(
            f"{root} exists. Choose another path, or go on with an unfinished store by --resume.", kind="exists"
        )
