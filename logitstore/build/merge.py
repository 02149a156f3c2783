"""Several stores of equal settings as one."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from logitstore.build.derive import derive_store, origin_of
from logitstore.build.options import OF_ITS_DATA
from logitstore.codec import SequenceArrays
from logitstore.errors import InvalidInput
from logitstore.store import Store, open_store
from logitstore.store.manifest import check_same_settings, new_manifest
from logitstore.store.storage import open_storage

#: what a merged store says anew
_OWN_FIELDS = ("format", "format_version", "created", "versions", "seed", "merged_from", *OF_ITS_DATA)


@dataclass(frozen=True)
class Merger:
    """The sequences of some stores, one store after the other."""

    sources: list[Store]
    title: str = "merging"

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each sequence, [N] int64."""
        return np.concatenate([source.sequence_lengths for source in self.sources])

    @cached_property
    def _firsts(self) -> list[int]:
        return [0, *np.cumsum([len(source) for source in self.sources]).tolist()]

    def manifest(self) -> dict[str, Any]:
        """Return the manifest of the merged store."""
        first = self.sources[0].manifest
        seeds = {source.manifest.get("seed") for source in self.sources}
        return new_manifest(
            **{name: value for name, value in first.items() if name not in _OWN_FIELDS},
            **origin_of(self.sources),
            sequences_per_shard=max(source.manifest["sequences_per_shard"] for source in self.sources),
            seed=seeds.pop() if len(seeds) == 1 else None,
            merged_from=[_record_of(source) for source in self.sources],
        )

    def sequence(self, index: int) -> tuple[SequenceArrays, NDArray[np.int32]]:
        """Return what is stored of a sequence, and its document starts."""
        number = bisect_right(self._firsts, index) - 1
        source, place = self.sources[number], index - self._firsts[number]
        return source.read_arrays(place), source.document_starts(place)


def merge_stores(
    paths: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    quiet: bool = False,
) -> Store:
    """Write the sequences of some stores, in order, to a new one. Returns it, sealed.

    The stores have the same teacher, tokenizer, sampler and packing; data and seed may differ. What was stored is kept
    exactly; it is encoded anew, with a frequency table that is fitted to all of it. `merged_from` in the manifest lists
    {manifest_sha256, sequences, seed} of each, and its own `merged_from` where it was merged itself. Work is committed
    shard by shard, as in a build.

    Args:
        paths: two sealed stores or more.
        out: folder of the new store, or `s3://bucket/name`; must not exist, unless `resume`.
        resume: go on with an unfinished store of the same stores; a finished one is left as it is.
        quiet: no progress on stderr.

    Raises:
        InvalidInput: fewer than two stores, or one twice.
        StoreError: kind "settings-differ", the stores do not belong together, or not to the unfinished one; as
            `derive_store` otherwise.
    """
    if isinstance(paths, str | os.PathLike) or len(paths) < 2:
        raise InvalidInput("at least two stores were wanted, to merge them.")
    sources = [open_store(path) for path in paths]
    if len({source.manifest_sha256 for source in sources}) < len(sources):
        raise InvalidInput("a store is named twice, or is a copy of another; each sequence would be there twice.")
    first = _common(sources[0])
    for source in sources[1:]:
        check_same_settings(source.storage, _common(source), first)
    return derive_store(open_storage(out), Merger(sources), resume=resume, quiet=quiet)


def _record_of(source: Store) -> dict[str, Any]:
    """Return what the merged store's manifest says of one that it is made of: enough to draw its targets again."""
    manifest = source.manifest
    record = {
        "manifest_sha256": source.manifest_sha256,
        "sequences": len(source),
        "seed": manifest.get("seed"),
    }
    return record | ({"merged_from": manifest["merged_from"]} if "merged_from" in manifest else {})


def _common(store: Store) -> dict[str, Any]:
    """Return the fields that stores to be merged share."""
    fields = {
        name: value for name, value in store.manifest.items() if name not in (*OF_ITS_DATA, "seed", "merged_from")
    }
    if "packing" in fields:
        fields["packing"] = {**fields["packing"], "limit_tokens": None}
    return fields
