"""One sealed generation of a store: the store as it was built, or what was appended at one time."""

from __future__ import annotations

from collections import OrderedDict
from functools import cached_property
from typing import Any

from logitstore import codec
from logitstore.errors import StoreError
from logitstore.store import layout, manifest
from logitstore.store.convert import Weighting
from logitstore.store.frequency_table import read_store_table
from logitstore.store.index import Index, read_index
from logitstore.store.shard import ShardReader
from logitstore.store.storage import Storage

#: shards kept open, a file descriptor and an index each
_OPEN_SHARDS = 64


class Generation:
    """Reads one generation; `place` counts its own sequences, errors name them as the store counts them.

    Attributes:
        storage: where it lies.
        first: how many sequences of the store come before it.
        manifest: what it was made from, and under "sealed" what it came to.
        weighting: how its weights are stored.
    """

    def __init__(self, storage: Storage, first: int = 0) -> None:
        self.storage, self.first = storage, first
        self.manifest: dict[str, Any] = manifest.read_manifest(storage)
        sealed = manifest.read_sealed(storage)
        check_file(storage, layout.MANIFEST, sealed.get("manifest_sha256"))
        self.manifest["sealed"] = sealed
        self.weighting = Weighting.of(self.manifest)
        self._per_shard: int = self.manifest["sequences_per_shard"]
        self._shards: OrderedDict[int, ShardReader] = OrderedDict()

    def __len__(self) -> int:
        return int(self.manifest["sealed"]["totals"]["sequences"])

    @cached_property
    def index(self) -> Index:
        """The index, a row a sequence."""
        check_file(self.storage, layout.INDEX, self.manifest["sealed"]["index_sha256"])
        return read_index(self.storage)

    @cached_property
    def table(self) -> codec.FrequencyTable:
        """The frequency table, which all sequences were encoded with."""
        return read_store_table(self.storage, self.manifest["sealed"]["table_sha256"])

    @cached_property
    def sha256(self) -> str:
        """One hash over the settings and every shard's hash, whenever and wherever it was made."""
        shards = "".join(shard["sha256"] for shard in self.manifest["sealed"]["shards"])
        settings = {name: value for name, value in self.manifest.items() if name != "sealed"}
        return manifest.sha256(f"{manifest.settings_sha256(settings)}{shards}".encode())

    def read_blob(self, place: int) -> bytes:
        """Return a sequence's blob as stored, after comparing its checksum with the index."""
        unit, within = divmod(place, self._per_shard)
        number = self.first + place
        try:
            blob = self._shard(unit).read(within)
        except StoreError as error:
            raise StoreError(f"sequence {number}: {error}", kind=error.kind) from None
        stored, wanted = int.from_bytes(blob[-4:], "little"), int(self.index.crc32c[place])
        if stored != wanted:
            raise StoreError(
                f"sequence {number} in shard {unit} carries crc32c {stored:08x}, the index says {wanted:08x}. The shard "
                "is damaged or not this store's; `logitstore verify STORE` lists every bad sequence.",
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


def read_generations(storage: Storage, *, to_go_on: bool = False) -> list[Generation]:
    """Return all sealed generations of a store, the first one first.

    Args:
        storage: the store.
        to_go_on: whether those before one that lost its seal are wanted, to make that one anew.

    Raises:
        StoreError: as `open_store`.
    """
    found = [Generation(storage)]
    while (later := storage.below(layout.generation_name(len(found)))).exists(layout.SEALED):
        generation = Generation(later, found[-1].first + len(found[-1]))
        if generation.manifest.get("first_sequence") != generation.first:
            raise StoreError(
                f"{later.url} follows {generation.manifest.get('first_sequence')} sequences, and {generation.first} come "
                "before it: it is another store's.",
                kind="alignment-mismatch",
            )
        found.append(generation)
    if not to_go_on:
        _check_none_is_missing(storage, len(found))
    return found


def _check_none_is_missing(storage: Storage, number: int) -> None:
    """Raise StoreError where generation `number`, which has no seal, must have had one; an append may be at work on it."""
    this, after = (storage.below(layout.generation_name(each)) for each in (number, number + 1))
    # a plan is there from the manifest's first moment to the seal
    was_sealed = this.exists(layout.MANIFEST) and not this.exists(layout.PLAN)
    if (was_sealed or after.exists(layout.SEALED)) and not this.exists(layout.SEALED):
        raise StoreError(
            f"{this.url}, which was appended, has lost its {layout.SEALED}, or was repaired: without it the store would "
            "be a smaller one. `logitstore repair` keeps what is whole of it, and `logitstore append ... --resume` with "
            "the same data makes the rest.",
            kind="not-sealed",
        )


def check_file(storage: Storage, name: str, sha256: Any) -> None:
    """Raise StoreError where a file's hash is not the one its record says."""
    found = storage.sha256(name)
    if found != sha256:
        raise StoreError(
            f"{storage.where(name)} has SHA-256 {found}, its record says {sha256}. It was changed.",
            kind="checksum-mismatch",
        )
