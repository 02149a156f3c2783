"""What a resumed build finds and can use: a repair that was cut off, a plan that is gone, shards without a record."""

# S tokens of a sequence

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from logitstore.errors import StoreError
from logitstore.store import layout, manifest
from logitstore.store.commit import commit_record, read_unit
from logitstore.store.frequency_table import read_store_table
from logitstore.store.index import Rows
from logitstore.store.plan_file import read_plan
from logitstore.store.shard import ShardFile
from logitstore.store.storage import LocalStorage, Storage, disk_errors, sync_folder
from logitstore.store.writer import committed_units

#: what a repair has decided to remove; it is there while it does
INTENT = f"{layout.ATTEMPTS}/repair.json"
#: kinds of errors that say that stored bytes are not what they were; a server that does not answer says nothing of them
DAMAGE = (
    *("damaged", "checksum-mismatch", "truncated", "missing-file", "missing-shard", "missing-sequence"),
    *("corrupt-blob", "corrupt-table", "wrong-table", "missing-table", "newer-format", "unsupported-format"),
)


def prepare_resume(storage: Storage, plan: Path) -> None:
    """Make an unfinished store ready for its units to be built: all that is left of them is kept.

    A repair that was cut off is finished; a plan that is not there, as a repair of a sealed store leaves none, is put
    there; and shards without a commit record get one, if they are whole and hold the planned tokens, or else go away.
    Several processes may do this at once.

    Args:
        storage: the unfinished store, whose settings are those of the build.
        plan: the plan file that this build has made.

    Raises:
        StoreError: kind "disk-full", "unwritable", "unreadable"; "missing-table" and the like.
    """
    if storage.exists(INTENT):
        finish_repair(storage)
    if not storage.exists(layout.PLAN):
        attempt = storage.scratch()
        with disk_errors(storage.where(layout.PLAN)):
            shutil.copyfile(plan, attempt)
            with attempt.open("rb+") as file:
                os.fsync(file.fileno())
        storage.create_from(layout.PLAN, attempt)
    committed = set(committed_units(storage))
    uncommitted = [unit for unit in shard_units(storage) if unit not in committed]
    if not uncommitted:
        return
    stored, table = manifest.read_manifest(storage), read_store_table(storage)
    for unit in uncommitted:
        start = unit * stored["sequences_per_shard"]
        planned = list(read_plan(storage, start, start + stored["sequences_per_shard"]))
        try:
            shard, rows = read_unit(storage, stored, table, unit, [starts for _, starts in planned])
            _check_tokens(storage, unit, rows, [tokens for tokens, _ in planned])
        except StoreError as error:
            if error.kind not in DAMAGE:
                raise
            _remove_uncommitted(storage, [layout.shard_name(unit)])
        else:
            commit_unit(storage, stored, unit, shard, rows)


def finish_repair(storage: Storage) -> None:
    """Remove what a repair has decided to remove, the seal first; what was committed since stays."""
    try:
        names = list(json.loads(storage.read(INTENT))["remove"])
    except StoreError as error:
        if error.kind != "missing-file":
            raise
        return  # another process has finished it
    if layout.SEALED in names:
        storage.remove([layout.SEALED])
    _remove_uncommitted(storage, names)
    if isinstance(storage, LocalStorage):
        for folder in {(storage.root / name).parent for name in names}:
            if folder.is_dir():
                sync_folder(folder)
    storage.remove([INTENT])


def _remove_uncommitted(storage: Storage, names: Iterable[str]) -> None:
    for name in names:
        unit = unit_of(name)
        if unit is None or not storage.exists(layout.commit_name(unit)):
            storage.remove([name])


def commit_unit(storage: Storage, stored: Mapping[str, Any], unit: int, shard: ShardFile, rows: Rows) -> None:
    """Give a unit its commit record, if it has none yet."""
    storage.create(layout.commit_name(unit), rows.to_bytes(commit_record(stored, unit, shard)))


def shard_units(storage: Storage) -> list[int]:
    """Return the units that have a shard, ascending."""
    return sorted(unit for name in storage.names(layout.ARRAY) if (unit := unit_of(name)) is not None)


def unit_of(name: str) -> int | None:
    """Return the unit whose shard a file is, None where it is none."""
    text = PurePosixPath(name).name
    return int(text) if text.isdecimal() and name == layout.shard_name(int(text)) else None


def _check_tokens(storage: Storage, unit: int, rows: Rows, planned: list[NDArray[np.int32]]) -> None:
    wanted = [hashlib.sha256(tokens.astype("<i4").tobytes()).digest() for tokens in planned]
    if rows.columns["tokens_sha256"] != wanted:
        where = storage.where(layout.shard_name(unit))
        raise StoreError(f"{where} holds other tokens than unit {unit} of this build.", kind="damaged")
