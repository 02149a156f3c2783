"""What is damaged in a store or one of its generations, and what of it can be kept: the deciding half of a repair."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from logitstore import codec
from logitstore.errors import StoreError
from logitstore.store import layout, manifest
from logitstore.store.commit import read_unit
from logitstore.store.generation import check_file
from logitstore.store.index import Rows, read_commit, read_table
from logitstore.store.pilot_file import read_pilot
from logitstore.store.plan_file import read_plan
from logitstore.store.recover import DAMAGE, shard_units
from logitstore.store.shard import ShardFile, array_metadata
from logitstore.store.storage import Storage
from logitstore.store.writer import committed_units

#: files beside shards that a store has, finished or about to be
_FILES = {layout.MANIFEST, layout.TABLE, layout.SEALED, layout.INDEX, *layout.METADATA}
_ORPHAN = "it is no part of the store."
_MADE_ANEW = "it is made anew when the store is sealed."


@dataclass
class Damage:
    """What is wrong, and what to do about it.

    Attributes:
        dropped: units that must be made again, with the reason.
        removed: files to remove, with the reason, in order; the shards of dropped units are among them.
        restored: files to write anew.
        kept: shards whose units need a commit record; their rows are in the index.
        is_sealed: whether the store is a finished one afterwards.
    """

    dropped: dict[int, str] = field(default_factory=dict)
    removed: dict[str, str] = field(default_factory=dict)
    restored: dict[str, bytes] = field(default_factory=dict)
    kept: dict[int, ShardFile] = field(default_factory=dict)
    is_sealed: bool = True

    def drop(self, unit: int, reason: str) -> None:
        """Let a unit be made again."""
        self.dropped[unit] = reason
        self.removed[layout.shard_name(unit)] = reason

    @property
    def is_whole(self) -> bool:
        """Whether all units are there: an unfinished store can be sealed at once."""
        return bool(self.kept) and not self.dropped

    def remove_orphans(self, storage: Storage, shards: Iterable[str], *, scaffolding: bool) -> None:
        """Remove what is neither a file of the store nor one of its shards; `scaffolding` may stay or not."""
        known = _FILES | set(shards)
        others = {layout.GENERATIONS, *(layout.SCAFFOLDING if scaffolding else ())}
        for name in storage.names():
            if name not in known and name.split("/")[0] not in others:
                self.removed[name] = _ORPHAN


def read_sealed(storage: Storage) -> dict[str, Any] | None:
    """Return the sealed manifest, None where it is missing or damaged."""
    found: dict[str, Any] = {}
    return None if why_not(lambda: found.update(manifest.read_sealed(storage))) else found


def why_not(attempt: Callable[[], object]) -> str | None:
    """Return what is damaged that `attempt` reads; None where nothing is.

    Raises:
        StoreError: it cannot be told, as the place does not answer.
    """
    try:
        attempt()
    except StoreError as error:
        if error.kind not in (*DAMAGE, "not-sealed"):
            raise
        return str(error)
    return None


def find_damage(storage: Storage, stored: Mapping[str, Any], table: codec.FrequencyTable) -> Damage:
    """Return what is wrong with a store, finished or not, whose manifest and frequency table are good.

    Raises:
        StoreError: kind "unreadable" and the like: the place does not answer.
    """
    sealed = read_sealed(storage)
    if sealed is not None:
        return _of_sealed(storage, stored, sealed)
    damage = Damage(is_sealed=False)
    for name in (layout.SEALED, layout.INDEX, *layout.METADATA):
        if storage.exists(name):
            damage.removed[name] = _MADE_ANEW
    if committed_units(storage) or not storage.exists(layout.INDEX):
        _of_unfinished(storage, stored, table, damage)
    else:
        _of_index(storage, stored, table, damage)
    return damage


def _of_sealed(storage: Storage, stored: Mapping[str, Any], sealed: dict[str, Any]) -> Damage:
    """Look at a finished store: the seal has the hash of every file."""
    damage, shards, totals = Damage(), sealed["shards"], sealed["totals"]
    for unit, shard in enumerate(shards):
        if reason := why_not(partial(check_file, storage, shard["shard"], shard["sha256"])):
            damage.drop(unit, reason)
    of_index = why_not(partial(check_file, storage, layout.INDEX, sealed["index_sha256"]))
    written = array_metadata(totals["sequences"], stored["sequences_per_shard"])
    for name, content in zip(layout.METADATA, written, strict=True):
        wanted = sealed["metadata_sha256"][name]
        if why_not(partial(check_file, storage, name, wanted)):
            damage.restored[name] = content
            # another version of zarr may write other bytes; a new seal takes them up
            damage.is_sealed &= manifest.sha256(content) == wanted
    damage.is_sealed &= not damage.dropped and of_index is None
    damage.remove_orphans(storage, [shard["shard"] for shard in shards], scaffolding=not damage.is_sealed)
    if damage.is_sealed:
        return damage
    damage.restored.clear()
    for name in (layout.SEALED, layout.INDEX, *layout.METADATA):
        damage.removed[name] = (of_index if name == layout.INDEX else None) or _MADE_ANEW
    if of_index is None:
        damage.kept = {
            unit: ShardFile(shard["bytes"], shard["sha256"])
            for unit, shard in enumerate(shards)
            if unit not in damage.dropped
        }
    return damage


def _of_index(storage: Storage, stored: Mapping[str, Any], table: codec.FrequencyTable, damage: Damage) -> None:
    """Look at a store whose seal and commit records are gone: its index and its shards vouch for each other."""
    if reason := why_not(partial(read_table, storage)):
        damage.removed[layout.INDEX] = reason
        _of_unfinished(storage, stored, table, damage)
        return
    index, per_shard = read_table(storage), stored["sequences_per_shard"]
    units = range(-(-index.num_rows // per_shard))

    def check(unit: int) -> None:
        rows = rows_of(index, unit, per_shard)
        shard, found = read_unit(storage, stored, table, unit, map(np.asarray, rows.columns["document_starts"]))
        if found != rows:
            text = f"{storage.where(layout.shard_name(unit))} does not hold what the index says of it."
            raise StoreError(text, kind="damaged")
        damage.kept[unit] = shard

    for unit in units:
        if reason := why_not(partial(check, unit)):
            damage.drop(unit, reason)
    damage.remove_orphans(storage, map(layout.shard_name, units), scaffolding=True)


def _of_unfinished(storage: Storage, stored: Mapping[str, Any], table: codec.FrequencyTable, damage: Damage) -> None:
    """Look at a store that is being built: a commit record has its shard's hash, other shards speak for themselves."""
    committed = committed_units(storage)
    for unit in committed:
        if reason := why_not(partial(_check_commit, storage, stored, unit)):
            damage.removed[layout.commit_name(unit)] = reason
            damage.drop(unit, reason)
    for unit in set(shard_units(storage)).difference(committed):
        if reason := why_not(partial(read_unit, storage, stored, table, unit)):
            damage.drop(unit, reason)
    scaffolding: dict[str, Callable[[], object]] = {
        layout.PLAN: partial(_check_plan, storage, stored),
        layout.PILOT: partial(read_pilot, storage),
    }
    for name, check in scaffolding.items():
        if storage.exists(name) and (reason := why_not(check)):
            damage.removed[name] = reason
    damage.remove_orphans(storage, map(layout.shard_name, shard_units(storage)), scaffolding=True)


def rows_of(index: pa.Table, unit: int, sequences_per_shard: int) -> Rows:
    """Return a unit's rows of the index."""
    return Rows(index.slice(unit * sequences_per_shard, sequences_per_shard).to_pydict())


def _check_commit(storage: Storage, stored: Mapping[str, Any], unit: int) -> None:
    record = read_commit(storage, unit)[1]
    check_file(storage, layout.shard_name(unit), record.get("sha256"))
    if record.get("settings_sha256") != manifest.settings_sha256(stored):
        text = f"{storage.where(layout.commit_name(unit))} is of a build with other settings."
        raise StoreError(text, kind="damaged")


def _check_plan(storage: Storage, stored: Mapping[str, Any]) -> None:
    wanted = stored["plan"]["sequences"]
    found = sum(1 for _ in read_plan(storage, 0, wanted))
    if found != wanted:
        text = f"{storage.where(layout.PLAN)} has {found} sequences, the manifest says {wanted}."
        raise StoreError(text, kind="damaged")
