"""Making a store sequence by sequence, for those who run the teacher themselves."""

# S tokens of a sequence

from __future__ import annotations

import os
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from logitstore import codec
from logitstore.errors import InvalidInput, StoreError
from logitstore.store import layout, manifest
from logitstore.store.convert import PROBABILITY_BITS, Weighting, probability_fields, to_arrays
from logitstore.store.frequency_table import fit_table, publish_table, read_store_table
from logitstore.store.index import read_commit
from logitstore.store.storage import Storage, open_storage
from logitstore.store.writer import UnitWriter, committed_units, refuse_existing, seal_store
from logitstore.targets import Sampler, SparseTargets

_SEQUENCES_PER_SHARD = 256
#: positions of the first sequences that the frequency table is fitted to; more would save less than 2 % of a store
_PILOT_POSITIONS = 1 << 15


def _narrow(ids: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
    """Return ids as int32; what does not fit becomes -1, which no vocabulary has."""
    fits = (ids >= 0) & (ids < manifest.MAX_VOCAB_SIZE)
    return np.where(fits, ids, -1).astype(np.int32)


class StoreWriter:
    """Writes a store sequence by sequence, in order; see `create_store`."""

    def __init__(self, storage: Storage, stored: dict[str, Any]) -> None:
        self.path, self.manifest, self._storage = storage.url, stored, storage
        self._per_shard: int = stored["sequences_per_shard"]
        self._weighting = Weighting.of(stored)
        self._unit: UnitWriter | None = None
        self._table = read_store_table(storage) if storage.exists(layout.TABLE) else None
        #: sequences that wait for the frequency table, which is fitted to them
        self._held: list[tuple[codec.SequenceArrays, NDArray[np.int32]]] = []
        done = committed_units(storage)
        if done != list(range(len(done))):
            raise StoreError(
                f"{storage.url} has gaps between its committed units {done}; build it anew.", kind="damaged"
            )
        self._units = len(done)
        #: sequences that are in the store; after a resume, the number to go on with
        self.num_sequences = sum(read_commit(storage, unit)[0].num_rows for unit in done)
        if self.num_sequences != self._units * self._per_shard:
            raise StoreError(f"the last shard of {storage.url} is a short one: nothing can follow it.", kind="damaged")

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
        where = f"sequence {self.num_sequences}"
        arrays = to_arrays(_narrow(ids), targets, self._weighting, self.manifest["vocab_size"], where)
        try:
            codec.check_sequence(arrays)
        except InvalidInput as error:
            raise InvalidInput(f"{where}: {error}", kind=error.kind) from None
        self._held.append((arrays, np.asarray(document_starts, dtype=np.int32).reshape(-1)))
        self.num_sequences += 1
        is_pilot = self._table is None and len(self._held) < self._per_shard
        if not is_pilot or sum(len(held.tokens) for held, _ in self._held) >= _PILOT_POSITIONS:
            self._write_held()

    def _write_held(self) -> None:
        if self._table is None:
            pilot = [arrays for arrays, _ in self._held]
            self._table = publish_table(self._storage, fit_table(pilot, self.manifest))
        for arrays, starts in self._held:
            if self._unit is None:
                self._unit = UnitWriter(self._storage, self._units, self.manifest, self._table)
            self._unit.append_arrays(arrays, starts)
            if self._unit.num_sequences == self._per_shard:
                self._commit()
        self._held.clear()

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
        self._write_held()
        self._commit()
        seal_store(self._storage, self.manifest, self._units)


def create_store(
    path: str | os.PathLike[str],
    *,
    vocab_size: int,
    sampler: Sampler | Mapping[str, Any],
    teacher_temperature: float = 1.0,
    sequences_per_shard: int = _SEQUENCES_PER_SHARD,
    probability_bits: int = PROBABILITY_BITS,
    resume: bool = False,
    **provenance: Any,
) -> StoreWriter:
    """Return a writer for a new store, for those who run the teacher themselves.

    Use it as a context: the store is sealed on a clean exit only. After an error what was committed (whole shards)
    stays; call again with `resume=True` and go on with sequence `writer.num_sequences`. The first sequences, up to a
    shard or 32,768 positions, wait in memory: the store's frequency table is fitted to them.

    Args:
        path: folder to make, or `s3://bucket/name`.
        vocab_size: V, columns of the teacher's logits, up to 2^20.
        sampler: what made the targets (its `to_dict` is recorded and says how weights are stored).
        teacher_temperature: temperature the logits were divided by before sampling.
        sequences_per_shard: sequences of a shard, which is what is committed at a time.
        probability_bits: how exactly the probabilities of top-k and top-p are stored, 8 to 16 bits each
            (`logitstore.codec.probability_error`); other samplers' weights are stored exactly.
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
        **probability_fields(config, probability_bits),
        **known,
    )
    Weighting.of(wanted)
    storage = open_storage(path)
    if resume and storage.exists(layout.MANIFEST):
        stored = manifest.read_manifest(storage)
        manifest.check_same_settings(storage, stored, wanted)
        if storage.exists(layout.SEALED):
            raise StoreError(f"{storage.url} is complete; nothing can be added to it.", kind="exists")
        return StoreWriter(storage, stored)
    refuse_existing(storage)
    if not storage.create(layout.MANIFEST, manifest.to_bytes(wanted)):
        raise StoreError(f"{storage.url} exists by now: another process was quicker.", kind="exists")
    return StoreWriter(storage, wanted)
