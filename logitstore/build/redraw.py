"""How the targets of a store were drawn, so that they can be drawn again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from logitstore.errors import InvalidInput
from logitstore.samplers import AnySampler, RandomSampling, Threshold, sampler_from_dict, thin
from logitstore.targets import SparseTargets


def origin_of_draw(record: Mapping[str, Any], index: int) -> tuple[Any, int]:
    """Return the recorded seed and the index that a sequence was drawn with, before its store was merged with others.

    Args:
        record: a store's manifest, or what the manifest of a merged store says of one that it was made of.
        index: index of the sequence in that store.
    """
    first = 0
    for part in record.get("merged_from", []):
        if index < first + part["sequences"]:
            return origin_of_draw(part, index - first)
        first += part["sequences"]
    return record.get("seed"), index


def is_seed(seed: Any) -> bool:
    """Return whether a manifest's seed is one that this package draws with."""
    return isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 1 << 64


@dataclass(frozen=True)
class Redraw:
    """Draws targets as those of a store were drawn: by a sampler, and then thinned as often as the store was.

    Attributes:
        sampler: what the store's targets count as.
        first: what they were drawn by; `sampler`, unless the store was thinned.
        thinnings: draws that were left, and the seed, of each thinning.
        manifest: of the store.
    """

    sampler: AnySampler
    first: AnySampler
    thinnings: tuple[tuple[int, int], ...]
    manifest: Mapping[str, Any]

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> Redraw:
        """Return how the store of a manifest was drawn.

        Raises:
            InvalidInput: its sampler is none of this package's, so nobody knows what its weights should be.
        """
        try:
            sampler = sampler_from_dict(manifest["sampler"])
        except InvalidInput as error:
            raise InvalidInput(f"the store cannot be scored again: {error}", kind="unknown-sampler") from None
        history = manifest.get("thinned_from", [])
        budgets = [step["draws"] for step in history]
        first: AnySampler = sampler
        if isinstance(sampler, Threshold | RandomSampling) and budgets:
            first = replace(sampler, draws=budgets[0])
            budgets = [*budgets[1:], sampler.draws]
        steps = tuple((left, step["seed"]) for left, step in zip(budgets, history, strict=True))
        return cls(sampler, first, steps, manifest)

    @property
    def drawn_with(self) -> str | None:
        """The seed of the draw, in words; None where it is not recorded, or not of all stores that were merged."""
        seeds = list(_seeds(self.manifest))
        if not all(map(is_seed, seeds)):
            return None
        return " or ".join(f"seed {seed}" for seed in sorted(set(seeds)))

    def __call__(self, logits: Tensor, index: int, first_position: int, *, seed: int | None = None) -> SparseTargets:
        """Return targets of some positions of one sequence.

        Args:
            logits: [T, V] floating point, masked and divided by the teacher temperature already.
            index: index of the sequence in its store.
            first_position: position of row 0.
            seed: key of all random numbers; the store's own where it is None.
        """
        recorded, drawn_as = origin_of_draw(self.manifest, index)
        key = seed if seed is not None else recorded if is_seed(recorded) else 0
        targets = self.first(logits, seed=key, index=drawn_as, first_position=first_position)
        sampler = self.first
        for generation, (draws, step_seed) in enumerate(self.thinnings):
            targets = thin(
                targets,
                draws,
                sampler=sampler,
                seed=step_seed if seed is None else seed,
                index=index,  # what was thinned is never merged
                first_position=first_position,
                generation=generation,
            )
            assert isinstance(sampler, Threshold | RandomSampling)
            sampler = replace(sampler, draws=draws)
        return targets


def _seeds(record: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the seed of a store, or of each that it was merged from."""
    if "merged_from" not in record:
        yield record.get("seed")
    for part in record.get("merged_from", []):
        yield from _seeds(part)
