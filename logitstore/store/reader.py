"""Reading a sealed store: any sequence by one ranged read, checked before it is decoded."""

# S tokens of a sequence

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from logitstore import codec
from logitstore.errors import StoreError
from logitstore.store import layout, manifest
from logitstore.store.convert import Weighting, to_targets
from logitstore.store.frequency_table import read_store_table
from logitstore.store.index import Index, read_index
from logitstore.store.shard import ShardReader
from logitstore.store.storage import LocalStorage, Storage, open_storage
from logitstore.targets import SparseTargets

#: shards kept open, a file descriptor and an index each
_OPEN_SHARDS = 64


@dataclass(frozen=True, eq=False)
class Sequence:
    """One stored sequence.

    Attributes:
        index: its place in the store.
        tokens: token ids, [S] int32.
        targets: sparse targets of S positions; position t is the teacher's distribution after tokens[0..t].
        document_starts: where documents begin, ascending offsets into `tokens`, int32.
    """

    index: int
    tokens: Tensor
    targets: SparseTargets
    document_starts: Tensor


class Store:
    """A sealed store, read-only: `len(store)` sequences, `store[i]`; may be pickled and used after a fork.

    Attributes:
        path: its folder or address.
        manifest: what it was made from, and under "sealed" what it came to.
    """

    def __init__(self, storage: Storage) -> None:
        self.path: Path | str = storage.root if isinstance(storage, LocalStorage) else storage.url
        self.storage = storage
        self.manifest: dict[str, Any] = manifest.read_manifest(storage)
        sealed = manifest.read_sealed(storage)
        check_file(storage, layout.MANIFEST, sealed.get("manifest_sha256"))
        self.manifest["sealed"] = sealed
        self._weighting = Weighting.of(self.manifest)
        self._per_shard: int = self.manifest["sequences_per_shard"]
        self._shards: OrderedDict[int, ShardReader] = OrderedDict()

    @cached_property
    def _index(self) -> Index:
        check_file(self.storage, layout.INDEX, self.manifest["sealed"]["index_sha256"])
        return read_index(self.storage)

    @cached_property
    def table(self) -> codec.FrequencyTable:
        """The frequency table, which all sequences were encoded with."""
        return read_store_table(self.storage, self.manifest["sealed"]["table_sha256"])

    @cached_property
    def manifest_sha256(self) -> str:
        """The store's identity: one hash over its settings and every shard's hash, whenever and wherever it was made."""
        shards = "".join(shard["sha256"] for shard in self.manifest["sealed"]["shards"])
        settings = {name: value for name, value in self.manifest.items() if name != "sealed"}
        return manifest.sha256(f"{manifest.settings_sha256(settings)}{shards}".encode())

    @property
    def sequence_lengths(self) -> NDArray[np.int64]:
        """Tokens of each sequence, [N] int64."""
        return self._index.tokens

    @property
    def max_id(self) -> int:
        """The largest token id that occurs, in tokens or entries."""
        return int(self.manifest["sealed"]["totals"]["max_id"])

    def __len__(self) -> int:
        return int(self.manifest["sealed"]["totals"]["sequences"])

    def __iter__(self) -> Iterator[Sequence]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Sequence:
        """Return one sequence; negative indices count from the end.

        Raises:
            IndexError: no such sequence.
            StoreError: it is missing, damaged, or not the one that was committed.
        """
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"sequence {index} was asked for; the store has {len(self)}")
        arrays = self.read_arrays(place)
        starts = torch.from_numpy(self._index.document_starts(place).copy())
        return Sequence(place, torch.from_numpy(arrays.tokens), to_targets(arrays, self._weighting), starts)

    def read_arrays(self, index: int) -> codec.SequenceArrays:
        """Return what is stored of a sequence, index 0 or more, as plain arrays, all of it checked."""
        blob = self.read_blob(index)
        try:
            return codec.decode(blob, self.table)
        except StoreError as error:
            raise StoreError(f"sequence {index}: {error}", kind=error.kind) from None

    def read_blob(self, index: int) -> bytes:
        """Return a sequence's blob as stored, after comparing its checksum with the index."""
        unit, place = divmod(index, self._per_shard)
        try:
            blob = self._shard(unit).read(place)
        except StoreError as error:
            raise StoreError(f"sequence {index}: {error}", kind=error.kind) from None
        stored, wanted = int.from_bytes(blob[-4:], "little"), int(self._index.crc32c[index])
        if stored != wanted:
            raise StoreError(
                f"sequence {index} in shard {unit} carries crc32c {stored:08x}, the index says {wanted:08x}. The shard is "
                "damaged or not this store's; `logitstore verify STORE` lists every bad sequence.",
                kind="checksum-mismatch",
            )
        return blob

    def _shard(self, unit: int) -> ShardReader:
        if unit in self._shards:
            self._shards.move_to_end(unit)
            return self._shards[unit]
        reader = ShardReader(self.storage, layout.shard_name(unit), self._per_shard)
        self._shards[unit] = reader
        if len(self._shards) > _OPEN_SHARDS:
            self._shards.popitem(last=False)[1].close()
        return reader

    def __reduce__(self) -> tuple[Any, ...]:
        return Store, (self.storage,)

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r}, {len(self)} sequences, {self.manifest['sampler']})"


def open_store(path: str | os.PathLike[str] | Storage) -> Store:
    """Open a sealed store, a folder or `s3://bucket/name`, for reading.

    Raises:
        StoreError: kind "not-a-store", "not-sealed", "newer-format", "damaged" or "checksum-mismatch".
    """
    return Store(open_storage(path))


def check_file(storage: Storage, name: str, sha256: Any) -> None:
    """Raise StoreError where a file's hash is not the one its record says."""
    found = storage.sha256(name)
    if found != sha256:
        raise StoreError(
            f"{storage.where(name)} has SHA-256 {found}, its record says {sha256}. It was changed.",
            kind="checksum-mismatch",
        )
