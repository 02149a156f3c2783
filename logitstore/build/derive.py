"""Stores that are made of other stores, without a teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from logitstore.build.pilot import pilot_indexes
from logitstore.build.plan import Plan
from logitstore.codec import FrequencyTable, SequenceArrays
from logitstore.errors import InvalidInput
from logitstore.progress import Progress, say
from logitstore.store import Store, open_store
from logitstore.store.frequency_table import fit_table, publish_table, read_store_table
from logitstore.store.layout import MANIFEST, SCAFFOLDING, SEALED
from logitstore.store.manifest import check_same_settings, read_manifest, to_bytes
from logitstore.store.staging import publish_folder, staging_folder
from logitstore.store.storage import LocalStorage, Storage
from logitstore.store.writer import UnitWriter, committed_units, refuse_existing, seal_store


class Derivation(Protocol):
    """How the sequences of a new store come from others.

    Attributes:
        title: what is being done, for people.
        sources: the stores it is made of.
        lengths: tokens of each new sequence, [N] int64.
    """

    @property
    def title(self) -> str: ...

    @property
    def sources(self) -> list[Store]: ...

    @property
    def lengths(self) -> NDArray[np.int64]: ...

    def manifest(self) -> dict[str, Any]:
        """Return the manifest of the new store."""
        ...

    def sequence(self, index: int) -> tuple[SequenceArrays, NDArray[np.int32]]:
        """Return what is stored of a new sequence, and its document starts."""
        ...


def derive_store(storage: Storage, derivation: Derivation, *, resume: bool, quiet: bool) -> Store:
    """Make or resume the store; work is committed shard by shard. Returns it, sealed.

    Raises:
        InvalidInput: the new store lies inside of one that it is made of.
        StoreError: kind "exists", "settings-differ", "disk-full", "unwritable"; or what is wrong with a source,
            whereupon the new store stays unfinished, or is not begun.
    """
    for source in derivation.sources:
        if Path(source.path).resolve() in Path(storage.url).resolve().parents:
            raise InvalidInput(f"{storage.url} lies inside of the store {source.path}; choose a folder beside it.")
    manifest = _begin(storage, derivation, resume)
    plan = Plan(len(derivation.lengths), manifest["sequences_per_shard"])
    if storage.exists(SEALED):
        storage.remove_below(SCAFFOLDING)  # a stop right after the seal may have left it
        say(f"{storage.url} is complete.", quiet=quiet)
    else:
        _run_units(storage, manifest, plan, derivation, quiet)
        seal_store(storage, manifest, plan.num_units)
    return open_store(storage)


def _begin(storage: Storage, derivation: Derivation, resume: bool) -> dict[str, Any]:
    """Let an unfinished store be there, with manifest and frequency table, or find it there; return its manifest."""
    manifest = derivation.manifest()
    if resume and storage.exists(MANIFEST):
        stored = read_manifest(storage)
        check_same_settings(storage, stored, manifest)
        return stored
    refuse_existing(storage)
    with staging_folder(storage) as folder:
        staging = LocalStorage(folder)
        publish_table(staging, _fit(derivation, manifest))
        staging.create(MANIFEST, to_bytes(manifest))
        publish_folder(folder, storage)
    return manifest


def _fit(derivation: Derivation, manifest: dict[str, Any]) -> FrequencyTable:
    """Return the table for what sequences from all over the new store are like."""
    lengths = derivation.lengths
    indexes = pilot_indexes(len(lengths), int(lengths.sum()), largest_share=1)
    return fit_table([derivation.sequence(index)[0] for index in indexes], manifest)


def _run_units(storage: Storage, manifest: dict[str, Any], plan: Plan, derivation: Derivation, quiet: bool) -> None:
    done = set(committed_units(storage))
    left = [unit for unit in range(plan.num_units) if unit not in done]
    if done:
        say(f"{len(done)} of {plan.num_units} units are committed already.", quiet=quiet)
    lengths, table = derivation.lengths, read_store_table(storage)
    positions = sum(int(lengths[slice(*plan.bounds(unit))].sum()) for unit in left)
    with Progress(derivation.title, positions, unit="positions", quiet=quiet) as progress:
        for unit in left:
            with UnitWriter(storage, unit, manifest, table) as writer:
                for index in range(*plan.bounds(unit)):
                    writer.append_arrays(*derivation.sequence(index))
                    progress.advance(int(lengths[index]), note=writer.note)
                writer.commit()


def origin_of(stores: list[Store]) -> dict[str, Any]:
    """Return the manifest's fields on the data of stores, all of their generations."""
    parts = [generation.manifest for store in stores for generation in store.generations]
    origin: dict[str, Any] = {}
    if all("data" in part for part in parts):
        origin["data"] = [file for part in parts for file in part["data"]]
    if all("plan" in part for part in parts):
        sizes = {name: sum(part["plan"][name] for part in parts) for name in ("sequences", "tokens")}
        origin["plan"] = sizes if len(parts) > 1 else parts[0]["plan"]
    return origin
