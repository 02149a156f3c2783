"""Reading a sealed store: any sequence by one ranged read, checked before it is decoded."""

# S tokens of a sequence

from __future__ import annotations

import os
from bisect import bisect_right
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
from logitstore.store import manifest
from logitstore.store.convert import to_targets
from logitstore.store.generation import Generation, read_generations
from logitstore.store.storage import LocalStorage, Storage, open_storage
from logitstore.targets import SparseTargets


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

    What is appended after it was opened is not seen.

    Attributes:
        path: its folder or address.
        storage: where it lies.
        generations: as it was built, and what was appended, in order.
        manifest: what it was made from, and under "sealed" what it came to, with the totals of all generations.
    """

    def __init__(self, storage: Storage, *, to_go_on: bool = False) -> None:
        self.path: Path | str = storage.root if isinstance(storage, LocalStorage) else storage.url
        self.storage = storage
        self.generations = read_generations(storage, to_go_on=to_go_on)
        sealed = [generation.manifest["sealed"] for generation in self.generations]
        totals = {
            name: (max if name == "max_id" else sum)(part["totals"][name] for part in sealed)
            for name in sealed[0]["totals"]
        }
        shards = [shard for part in sealed for shard in part["shards"]]
        self.manifest: dict[str, Any] = self.generations[0].manifest | {
            "sealed": sealed[0] | {"totals": totals, "shards": shards}
        }
        self._firsts = [generation.first for generation in self.generations]

    @cached_property
    def manifest_sha256(self) -> str:
        """The store's identity: one hash over its settings and every shard's hash, whenever and wherever it was made."""
        parts = [generation.sha256 for generation in self.generations]
        return parts[0] if len(parts) == 1 else manifest.sha256("".join(parts).encode())

    @cached_property
    def sequence_lengths(self) -> NDArray[np.int64]:
        """Tokens of each sequence, [N] int64."""
        return np.concatenate([generation.index.tokens for generation in self.generations])

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
        starts = torch.from_numpy(self.document_starts(place).copy())
        weighting = self._generation(place)[0].weighting
        return Sequence(place, torch.from_numpy(arrays.tokens), to_targets(arrays, weighting), starts)

    def read_arrays(self, index: int) -> codec.SequenceArrays:
        """Return what is stored of a sequence, index 0 or more, as plain arrays, all of it checked."""
        blob = self.read_blob(index)
        try:
            return codec.decode(blob, self._generation(index)[0].table)
        except StoreError as error:
            raise StoreError(f"sequence {index}: {error}", kind=error.kind) from None

    def document_starts(self, index: int) -> NDArray[np.int32]:
        """Return where documents begin in a sequence, index 0 or more: ascending offsets."""
        generation, place = self._generation(index)
        return generation.index.document_starts(place)

    def read_blob(self, index: int) -> bytes:
        """Return a sequence's blob as stored, after comparing its checksum with the index."""
        generation, place = self._generation(index)
        return generation.read_blob(place)

    def _generation(self, index: int) -> tuple[Generation, int]:
        """Return the generation that holds a sequence, and its place there."""
        generation = self.generations[bisect_right(self._firsts, index) - 1]
        return generation, index - generation.first

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
