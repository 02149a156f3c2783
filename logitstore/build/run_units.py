"""The units of an unfinished store, one after the other, beside any number of other processes."""

from __future__ import annotations

from typing import Any

import numpy as np

from logitstore.build.claims import Claim, Claims
from logitstore.build.sampling import TargetMaker
from logitstore.build.unit import Begun, run_unit
from logitstore.errors import StoreError
from logitstore.progress import Progress
from logitstore.store.index import read_commit
from logitstore.store.layout import SCAFFOLDING, SEALED
from logitstore.store.storage import Storage
from logitstore.store.writer import UnitWriter, committed_units, seal_store


class _OvertakenError(Exception):
    """Another process has committed the unit that this one is at."""


def run_units(store: Begun, maker: TargetMaker, *, quiet: bool) -> None:
    """Make units until all are committed, by whomever; then seal the store.

    Raises:
        TeacherError, StoreError, InvalidInput: as `run_unit` and `seal_store`.
    """
    claims = Claims(store.storage, store.plan.num_units)
    committed = _Committed(store.storage)
    left = store.manifest["plan"]["tokens"] - committed.update()
    with Progress("building", left, unit="positions", quiet=quiet) as progress:
        while (claim := claims.take()) is not None:
            progress.advance(committed.update())
            _run(store, claim, claims, maker, progress)
            committed.units.add(claim.unit)
        if not is_sealed(store.storage):
            progress.advance(committed.update())
    seal(store.storage, store.manifest, store.plan.num_units)


def _run(store: Begun, claim: Claim, claims: Claims, maker: TargetMaker, progress: Progress) -> None:
    done = 0

    def on_sequence(positions: int, writer: UnitWriter) -> None:
        nonlocal done
        if claims.is_overtaken(claim):
            raise _OvertakenError
        done += positions
        progress.advance(positions, note=writer.note)

    try:
        run_unit(store, claim.unit, maker, on_sequence)
    except _OvertakenError:
        progress.advance(_tokens_of(store, claim.unit) - done)
    except StoreError:
        # what a unit needs goes away when another process seals the store
        if not is_sealed(store.storage):
            raise


def _tokens_of(store: Begun, unit: int) -> int:
    try:
        return _num_tokens(store.storage, unit)
    except StoreError:
        if not is_sealed(store.storage):
            raise
        return 0


class _Committed:
    """The units whose tokens are counted already."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.units: set[int] = set()

    def update(self) -> int:
        """Return the tokens of units that others have committed since the last call."""
        new = [unit for unit in committed_units(self._storage) if unit not in self.units]
        self.units.update(new)
        try:
            return sum(_num_tokens(self._storage, unit) for unit in new)
        except StoreError:
            if not is_sealed(self._storage):
                raise
            return 0


def _num_tokens(storage: Storage, unit: int) -> int:
    return int(np.asarray(read_commit(storage, unit)[0]["tokens"]).sum())


def is_sealed(storage: Storage) -> bool:
    """Return whether the store is finished."""
    return storage.exists(SEALED)


def seal(storage: Storage, manifest: dict[str, Any], num_units: int) -> None:
    """Seal the store, if no other process does it first."""
    try:
        if not is_sealed(storage):
            seal_store(storage, manifest, num_units)
    except StoreError:
        if not is_sealed(storage):
            raise
    storage.remove_below(SCAFFOLDING)
