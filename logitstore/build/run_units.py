"""The units of an unfinished store, one after the other, beside any number of other processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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
        with unless_sealed(store.storage):
            run_unit(store, claim.unit, maker, on_sequence)
    except _OvertakenError:
        with unless_sealed(store.storage):
            progress.advance(_num_tokens(store.storage, claim.unit) - done)


class _Committed:
    """The units whose tokens are counted already."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.units: set[int] = set()

    def update(self) -> int:
        """Return the tokens of units that others have committed since the last call."""
        new = [unit for unit in committed_units(self._storage) if unit not in self.units]
        self.units.update(new)
        found: list[int] = []
        with unless_sealed(self._storage):
            found = [_num_tokens(self._storage, unit) for unit in new]
        return sum(found)


def _num_tokens(storage: Storage, unit: int) -> int:
    return int(np.asarray(read_commit(storage, unit)[0]["tokens"]).sum())


def is_sealed(storage: Storage) -> bool:
    """Return whether the store is finished."""
    return storage.exists(SEALED)


@contextmanager
def unless_sealed(storage: Storage) -> Iterator[None]:
    """Do what is within; an error is none if another process has sealed the store, as then what it needs goes away."""
    try:
        yield
    except StoreError:
        if not is_sealed(storage):
            raise


def seal(storage: Storage, manifest: dict[str, Any], num_units: int) -> None:
    """Seal the store, if no other process does it first."""
    if not is_sealed(storage):
        with unless_sealed(storage):
            seal_store(storage, manifest, num_units)
            return
    storage.remove_below(SCAFFOLDING)  # what this process left there since
