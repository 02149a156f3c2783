"""How the targets of a store were drawn, so that they can be drawn again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from logitstore.errors import InvalidInput
from logitstore.samplers import AnySampler, RandomSampling, Threshold, sampler_from_dict, thin
from logitstore.targets import SparseTargets


@dataclass(frozen=True)
class Redraw:
    """Draws targets as those of a store were drawn: by a sampler, and then thinned as often as the store was.

    Attributes:
        sampler: what the store's targets count as.
        first: what they were drawn by; `sampler`, unless the store was thinned.
        thinnings: draws that were left, and the seed, of each thinning.
        seed: key of the first draw; None where the store does not say, or is merged of several.
    """

    sampler: AnySampler
    first: AnySampler
    thinnings: tuple[tuple[int, int], ...]
    seed: int | None

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
        seed = manifest.get("seed")
        is_seed = isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 1 << 64
        # the sequences of a merged store were drawn under the numbers that they had before
        known = seed if is_seed and "merged_from" not in manifest else None
        steps = tuple((left, step["seed"]) for left, step in zip(budgets, history, strict=True))
        return cls(sampler, first, steps, known)

    def __call__(self, logits: Tensor, index: int, first_position: int, *, seed: int | None = None) -> SparseTargets:
        """Return targets of some positions of one sequence.

        Args:
            logits: [T, V] floating point, masked and divided by the teacher temperature already.
            index: index of the sequence in its store.
            first_position: position of row 0.
            seed: key of all random numbers; the store's own where it is None.
        """
        key = self.seed if seed is None else seed
        targets = self.first(logits, seed=key or 0, index=index, first_position=first_position)
        sampler = self.first
        for generation, (draws, step_seed) in enumerate(self.thinnings):
            targets = thin(
                targets,
                draws,
                sampler=sampler,
                seed=step_seed if seed is None else seed,
                index=index,
                first_position=first_position,
                generation=generation,
            )
            assert isinstance(sampler, Threshold | RandomSampling)
            sampler = replace(sampler, draws=draws)
        return targets
