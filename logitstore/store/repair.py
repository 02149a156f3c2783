"""Repairing a store: what is damaged goes away, so that a resumed build makes just that again.

A sealed store stays sealed until all is prepared: the commit records of its healthy units are written beside it, then
what is to go is written down, then the seal goes, and then the rest. Whatever stops it, the store is as it was, or
unfinished with every healthy unit committed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from logitstore import codec
from logitstore.errors import StoreError
from logitstore.store import layout, manifest
from logitstore.store.damage import Damage, find_damage, read_sealed, rows_of
from logitstore.store.frequency_table import read_store_table
from logitstore.store.generation import check_file
from logitstore.store.index import read_table
from logitstore.store.recover import DAMAGE, INTENT, commit_unit, finish_repair
from logitstore.store.storage import Storage, open_storage
from logitstore.store.writer import seal_store


@dataclass(frozen=True)
class DroppedUnit:
    """A unit that has to be made again.

    Attributes:
        unit: its number in its generation.
        first_sequence: the first of its sequences, as the store counts them.
        reason: what was wrong with it.
        generation: 0 for the store as it was built, above for what was appended.
    """

    unit: int
    first_sequence: int
    reason: str
    generation: int = 0


@dataclass(frozen=True)
class Repair:
    """What a repair has done, or would do.

    Attributes:
        units: units that were dropped.
        removed: files that were removed, with the reason; shards of dropped units are among them.
        restored: files that were written anew in place; a store that was sealed anew has further ones.
        is_sealed: whether the store is a finished one afterwards.
        next_step: how to go on; empty where nothing is left to do.
    """

    units: tuple[DroppedUnit, ...]
    removed: dict[str, str]
    restored: tuple[str, ...]
    is_sealed: bool
    next_step: str

    def to_dict(self) -> dict[str, Any]:
        """Return the repair as JSON."""
        return asdict(self)


def repair_store(path: str | os.PathLike[str], *, dry_run: bool = False) -> Repair:
    """Drop what is damaged or missing of a store, and what does not belong there.

    Nothing else may work on the store meanwhile.

    Damaged shards and their records go, whole units at a time; the store is unfinished then, and the call that made it
    makes just them again (`Repair.next_step`), to the same bytes. What follows from the rest, such as Zarr's metadata
    or a seal over units that are all there, is written anew. What was appended is treated in the same way; while one of
    its generations waits to be made again the store cannot be opened, as it would be a smaller one. A manifest or a
    frequency table that is damaged cannot be repaired: everything else depends on them.

    Args:
        path: the store's folder or address, finished or not.
        dry_run: look, and change nothing.

    Raises:
        StoreError: kind "not-a-store"; "cannot-repair", saying what can be done; "unreadable", "unwritable".
    """
    storage = open_storage(path)
    if not dry_run:
        for _, place in _generations(storage):
            _finish_earlier(place)
    found = []
    for number, place in _generations(storage):
        stored = _read_manifest(place)
        found.append(_Examined(number, place, stored, find_damage(place, stored, _read_table(place))))
    if not dry_run:
        # while one that was appended has no seal, the store cannot be opened: none is taken for all there is
        for one in reversed(found):
            _carry_out(one.storage, one.stored, one.damage)
    open_ones = [one for one in found if not one.is_sealed]
    return Repair(
        units=tuple(unit for one in found for unit in one.dropped),
        removed={f"{one.prefix}{name}": reason for one in found for name, reason in one.damage.removed.items()},
        restored=tuple(f"{one.prefix}{name}" for one in found for name in one.damage.restored),
        is_sealed=not open_ones,
        next_step=", then by ".join(_next_step(storage, one) for one in open_ones),
    )


@dataclass(frozen=True)
class _Examined:
    """A generation, its manifest, and what is wrong with it."""

    number: int
    storage: Storage
    stored: Mapping[str, Any]
    damage: Damage

    @property
    def prefix(self) -> str:
        return f"{layout.generation_name(self.number)}/" if self.number else ""

    @property
    def is_sealed(self) -> bool:
        return self.damage.is_sealed or self.damage.is_whole

    @property
    def dropped(self) -> Iterator[DroppedUnit]:
        first, per_shard = self.stored.get("first_sequence", 0), self.stored["sequences_per_shard"]
        for unit, reason in sorted(self.damage.dropped.items()):
            yield DroppedUnit(unit, first + unit * per_shard, reason, self.number)


def _finish_earlier(storage: Storage) -> None:
    if not storage.exists(INTENT):
        return
    if storage.exists(layout.SEALED):
        storage.remove([INTENT])  # nothing was removed yet, and the store may have been mended since
    else:
        finish_repair(storage)


def _generations(storage: Storage) -> Iterator[tuple[int, Storage]]:
    """Yield the store as it was built, and what was or is being appended, with their numbers."""
    yield 0, storage
    number = 1
    while (later := storage.below(layout.generation_name(number))).exists(layout.MANIFEST):
        yield number, later
        number += 1


def _read_manifest(storage: Storage) -> dict[str, Any]:
    """Return the manifest, which is as it was sealed where the store was."""
    try:
        stored = manifest.read_manifest(storage)
        sealed = read_sealed(storage)
        if sealed is not None:
            check_file(storage, layout.MANIFEST, sealed.get("manifest_sha256"))
    except StoreError as error:
        if error.kind not in ("damaged", "checksum-mismatch"):
            raise
        advice = "It says what everything else must be: undo the change, or copy the file from a copy of the store."
        raise StoreError(f"{error} {advice}", kind="cannot-repair") from None
    return stored


def _read_table(storage: Storage) -> codec.FrequencyTable:
    sealed = read_sealed(storage)
    try:
        return read_store_table(storage, sealed["table_sha256"] if sealed else None)
    except StoreError as error:
        if error.kind not in DAMAGE:
            raise
        raise StoreError(
            f"{error} No sequence can be read without it, so none can be kept. Copy {layout.TABLE} from a copy of the "
            "store; or begin the same build in another folder, which writes the same file before its first unit, and "
            "copy it from there.",
            kind="cannot-repair",
        ) from None


def _carry_out(storage: Storage, stored: Mapping[str, Any], damage: Damage) -> None:
    """Do what was decided; see the module for the order."""
    if damage.is_sealed:
        storage.remove(damage.removed)
        for name, content in damage.restored.items():
            storage.remove([name])
            storage.create(name, content)
        return
    if damage.kept:
        storage.remove_below([layout.COMMITS])  # of a seal that was just made, or of a repair that was stopped
        index, per_shard = read_table(storage), stored["sequences_per_shard"]
        for unit in _in_reach(stored, damage):
            commit_unit(storage, stored, unit, damage.kept[unit], rows_of(index, unit, per_shard))
    if damage.removed:
        names = [*map(layout.commit_name, damage.dropped), *damage.removed]
        storage.create(INTENT, json.dumps({"remove": names}).encode())
        finish_repair(storage)
    if damage.is_whole:
        seal_store(storage, stored, len(damage.kept))


def _in_reach(stored: Mapping[str, Any], damage: Damage) -> list[int]:
    """Return the kept units that the store can go on after: those before the first gap, if it is made in order."""
    first_gap = min(damage.dropped, default=len(damage.kept))
    return [unit for unit in sorted(damage.kept) if _is_planned(stored) or unit < first_gap]


def _is_planned(stored: Mapping[str, Any]) -> bool:
    """Return whether units are made in any order, and not sequence by sequence."""
    return "plan" in stored or any(field in stored for field in manifest.DERIVED.values())


def _next_step(storage: Storage, one: _Examined) -> str:
    stored = one.stored
    if one.number:
        return f"`logitstore append {storage.url} ... --resume`, with the data of {one.prefix}"
    made_by = [command for command, field in manifest.DERIVED.items() if field in stored]
    if made_by:
        return f"the `logitstore {' or '.join(made_by)}` that made it, with --resume"
    if _is_planned(stored):
        return f"`logitstore build {storage.url} ... --resume`, with the options and the data it was built with"
    sequence = len(_in_reach(stored, one.damage)) * stored["sequences_per_shard"]
    return f"create_store({storage.url!r}, ..., resume=True), and append the sequences from {sequence} on"
