"""Thin a store: fewer draws of what is stored already, without the teacher and without bias."""

# S tokens of a sequence, n draws

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from logitstore.build.pilot import pilot_indexes
from logitstore.build.plan import Plan
from logitstore.codec import SequenceArrays
from logitstore.errors import InvalidInput
from logitstore.progress import Progress
from logitstore.samplers import RandomSampling, Threshold, sampler_from_dict, thin, thinned_sampler
from logitstore.samplers.philox import check_key
from logitstore.store import Sequence, Store, open_store
from logitstore.store.convert import Weighting, to_arrays
from logitstore.store.frequency_table import fit_table, publish_table, read_store_table
from logitstore.store.layout import MANIFEST, SCAFFOLDING, SEALED
from logitstore.store.manifest import check_same_settings, new_manifest, read_manifest, to_bytes
from logitstore.store.staging import publish_folder, staging_folder
from logitstore.store.storage import LocalStorage, Storage, open_storage
from logitstore.store.writer import UnitWriter, committed_units, refuse_existing, seal_store
from logitstore.targets import SparseTargets, concatenate_targets

#: what a thinned store says anew; everything else its manifest has from the store it was made of
_OWN_FIELDS = ("format", "format_version", "created", "versions", "sampler", "thinned_from", "sealed", "plan", "data")
#: random numbers held at once: bounds memory where a sequence is long
_BLOCK_UNIFORMS = 1 << 20


@dataclass(frozen=True)
class Thinning:
    """How the sequences of one store become those of another.

    Attributes:
        source: the store that is thinned.
        sampler: what made its targets.
        draws: budget of the new targets.
        seed: key of the random numbers.
    """

    source: Store
    sampler: RandomSampling | Threshold
    draws: int
    seed: int

    @property
    def history(self) -> list[dict[str, Any]]:
        """The thinnings that the source went through before, oldest first."""
        return list(self.source.manifest.get("thinned_from", []))

    def manifest(self) -> dict[str, Any]:
        """Return the manifest of the thinned store."""
        source = self.source.manifest
        this = {"draws": self.sampler.draws, "manifest_sha256": self.source.manifest_sha256, "seed": self.seed}
        return new_manifest(
            **{name: value for name, value in source.items() if name not in _OWN_FIELDS},
            **self._origin(),
            sampler=thinned_sampler(self.sampler, self.draws).to_dict(),
            thinned_from=[*self.history, this],
        )

    def _origin(self) -> dict[str, Any]:
        """Return the fields on the data of all generations."""
        parts = [generation.manifest for generation in self.source.generations]
        origin: dict[str, Any] = {}
        if "data" in parts[0]:
            origin["data"] = [file for part in parts for file in part["data"]]
        if "plan" in parts[0]:
            sizes = {name: sum(part["plan"][name] for part in parts) for name in ("sequences", "tokens")}
            origin["plan"] = sizes if len(parts) > 1 else parts[0]["plan"]
        return origin

    def targets(self, sequence: Sequence) -> SparseTargets:
        """Return the thinned targets of a sequence; each thinning of a store has random numbers of its own."""
        height = max(1, _BLOCK_UNIFORMS // self.sampler.draws)
        options: dict[str, Any] = {"sampler": self.sampler, "seed": self.seed, "index": sequence.index}
        parts = [
            thin(
                sequence.targets.slice(start, start + height),
                self.draws,
                first_position=start,
                generation=len(self.history),
                **options,
            )
            for start in range(0, sequence.targets.num_positions, height)
        ]
        return concatenate_targets(parts)


def thin_store(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    draws: int,
    seed: int | None = None,
    resume: bool = False,
    quiet: bool = False,
) -> Store:
    """Make a store with fewer draws of a store of unbiased targets. Returns the new, sealed store.

    Its targets are as unbiased as the old ones. Tokens, document starts, the teacher's statistics and what the
    manifest says of the store's origin stay; `thinned_from` in the manifest lists {draws, manifest_sha256, seed} of
    every store on the way here, the oldest first. Work is committed shard by shard, as in a build.

    Args:
        path: a sealed store of threshold or random-sampling targets (with proposal_power 1).
        out: folder of the new store; must not exist, unless `resume`.
        draws: budget of the new store, below that of the old one.
        seed: key of the random numbers; by default the seed the store was built with, or 0. They are not those of
            the sampling, nor of an earlier thinning, also at the same seed.
        resume: go on with an unfinished store of the same settings; a finished one is left as it is.
        quiet: no progress on stderr.

    Raises:
        InvalidInput: the sampler cannot be thinned, or not to so many draws; a seed out of range.
        StoreError: kind "exists", "settings-differ", "disk-full", "unwritable"; or what is wrong with the old store,
            whereupon the new one stays unfinished, or is not begun.
    """
    source, storage = open_store(path), open_storage(out)
    sampler = sampler_from_dict(source.manifest["sampler"])
    thinned_sampler(sampler, draws)
    assert isinstance(sampler, RandomSampling | Threshold)
    thinning = Thinning(source, sampler, draws, _seed(source, seed))
    if Path(source.path).resolve() in Path(storage.url).resolve().parents:
        raise InvalidInput(f"{storage.url} lies inside of the store {source.path}; choose a folder beside it.")
    _begin(storage, thinning, resume)
    manifest = read_manifest(storage)
    plan = Plan(len(source), manifest["sequences_per_shard"])
    if storage.exists(SEALED):
        storage.remove_below(SCAFFOLDING)  # a stop right after the seal may have left it
        _say(f"{storage.url} is complete.", quiet=quiet)
    else:
        _thin_units(storage, manifest, plan, thinning, quiet)
        seal_store(storage, manifest, plan.num_units)
    return open_store(storage)


def _seed(source: Store, seed: int | None) -> int:
    chosen = source.manifest.get("seed", 0) if seed is None else seed
    if isinstance(chosen, bool) or not isinstance(chosen, int):
        whose = f"the seed of {source.path}" if seed is None else "seed"
        raise InvalidInput(f"{whose} is {chosen!r}; a whole number was wanted. Give another by --seed (seed=).")
    check_key(chosen, 0)
    return chosen


def _begin(storage: Storage, thinning: Thinning, resume: bool) -> None:
    """Let an unfinished store be there, with manifest and frequency table, or find it there."""
    manifest = thinning.manifest()
    if resume and storage.exists(MANIFEST):
        check_same_settings(storage, read_manifest(storage), manifest)
        return
    refuse_existing(storage)
    with staging_folder(storage) as folder:
        staging = LocalStorage(folder)
        publish_table(staging, fit_table(list(_pilot(thinning, manifest)), manifest))
        staging.create(MANIFEST, to_bytes(manifest))
        publish_folder(folder, storage)


def _pilot(thinning: Thinning, manifest: dict[str, Any]) -> Iterator[SequenceArrays]:
    """Yield sequences from all over the store, thinned, that tell what all will be like."""
    source, weighting = thinning.source, Weighting.of(manifest)
    for index in pilot_indexes(len(source), int(source.sequence_lengths.sum()), largest_share=1):
        sequence = source[index]
        targets = thinning.targets(sequence)
        yield to_arrays(sequence.tokens.numpy(), targets, weighting, manifest["vocab_size"], f"sequence {index}")


def _thin_units(storage: Storage, manifest: dict[str, Any], plan: Plan, thinning: Thinning, quiet: bool) -> None:
    done = set(committed_units(storage))
    left = [unit for unit in range(plan.num_units) if unit not in done]
    if done:
        _say(f"{len(done)} of {plan.num_units} units are committed already.", quiet=quiet)
    lengths, table = thinning.source.sequence_lengths, read_store_table(storage)
    positions = sum(int(lengths[slice(*plan.bounds(unit))].sum()) for unit in left)
    with Progress("thinning", positions, unit="positions", quiet=quiet) as progress:
        for unit in left:
            with UnitWriter(storage, unit, manifest, table) as writer:
                for index in range(*plan.bounds(unit)):
                    sequence = thinning.source[index]
                    targets = thinning.targets(sequence)
                    writer.append(sequence.tokens.numpy(), targets, sequence.document_starts.numpy())
                    progress.advance(len(sequence.tokens), note=_note(writer))
                writer.commit()


def _note(writer: UnitWriter) -> str:
    so_far = max(writer.num_positions, 1)
    return f"{writer.num_entries / so_far:.1f} entries and {writer.num_bytes / so_far:.1f} B a position"


def _say(text: str, *, quiet: bool) -> None:
    if not quiet:
        print(text, file=sys.stderr, flush=True)
