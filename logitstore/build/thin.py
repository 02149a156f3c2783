"""Thin a store: fewer draws of what is stored already, without the teacher and without bias."""

# S tokens of a sequence, n draws

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from logitstore.build.derive import derive_store, origin_of
from logitstore.codec import SequenceArrays
from logitstore.errors import InvalidInput
from logitstore.samplers import RandomSampling, Threshold, sampler_from_dict, thin, thinned_sampler
from logitstore.samplers.philox import check_key
from logitstore.store import Sequence, Store, open_store
from logitstore.store.convert import Weighting, to_arrays
from logitstore.store.manifest import new_manifest
from logitstore.store.storage import open_storage
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
        title: what is being done, for people.
    """

    source: Store
    sampler: RandomSampling | Threshold
    draws: int
    seed: int
    title: str = "thinning"

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
            **origin_of(self.sources),
            sampler=thinned_sampler(self.sampler, self.draws).to_dict(),
            thinned_from=[*self.history, this],
        )

    @property
    def sources(self) -> list[Store]:
        """The store that is thinned."""
        return [self.source]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each sequence, [N] int64."""
        return self.source.sequence_lengths

    @cached_property
    def _weighting(self) -> Weighting:
        return Weighting.of(self.source.manifest | {"sampler": thinned_sampler(self.sampler, self.draws).to_dict()})

    def sequence(self, index: int) -> tuple[SequenceArrays, NDArray[np.int32]]:
        """Return what is stored of a thinned sequence, and its document starts."""
        sequence, vocab_size = self.source[index], self.source.manifest["vocab_size"]
        targets, where = self.targets(sequence), f"sequence {index}"
        arrays = to_arrays(sequence.tokens.numpy(), targets, self._weighting, vocab_size, where)
        return arrays, sequence.document_starts.numpy()

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
    source = open_store(path)
    sampler = sampler_from_dict(source.manifest["sampler"])
    thinned_sampler(sampler, draws)
    assert isinstance(sampler, RandomSampling | Threshold)
    thinning = Thinning(source, sampler, draws, _seed(source, seed))
    return derive_store(open_storage(out), thinning, resume=resume, quiet=quiet)


def _seed(source: Store, seed: int | None) -> int:
    chosen = source.manifest.get("seed", 0) if seed is None else seed
    if isinstance(chosen, bool) or not isinstance(chosen, int):
        whose = f"the seed of {source.path}" if seed is None else "seed"
        raise InvalidInput(f"{whose} is {chosen!r}; a whole number was wanted. Give another by --seed (seed=).")
    check_key(chosen, 0)
    return chosen
