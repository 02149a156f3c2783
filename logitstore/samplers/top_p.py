"""The most probable tokens that together reach a given mass: adaptive in size, and biased."""

# T positions, V vocabulary, R rows of a block, C candidates

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from logitstore.errors import InvalidInput
from logitstore.samplers.column_blocks import ColumnBlocks
from logitstore.samplers.distribution import check_logits, probability_blocks
from logitstore.samplers.philox import check_key
from logitstore.samplers.top_k import MAX_K, largest_ids
from logitstore.targets import SparseTargets

#: candidates looked at first; more are taken where their mass is too small
_FIRST_CANDIDATES = 64
#: a block's rows are sorted in so many parts: what a sort of many candidates needs is several times its values
_PARTS = 16


@dataclass(frozen=True)
class TopP:
    """Keep the fewest tokens of each position whose probabilities reach `p` together, with these probabilities.

    Biased: the tail gets no weight. The weights are not renormalised: 1 minus their sum is the missing mass, at most
    1 - p where `max_k` did not cut. Between equal logits the lower id wins; tokens of probability 0 are left out.

    Args:
        p: mass to reach, in (0, 1].
        max_k: never keep more entries than this, also where their mass is below p; None for no bound but the format's
            65,535, beyond which a position is refused.

    Raises:
        InvalidInput: an argument out of range, a position that needs more than 65,535 entries; see
            `probability_blocks` for logits.

    Source: the cache of Peng et al., arXiv 2410.16215, with p = .95 and max_k = 100.
    """

    p: float = 0.95
    max_k: int | None = None
    name: ClassVar[str] = "top-p"
    unbiased: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if isinstance(self.p, bool) or not isinstance(self.p, int | float) or not 0 < self.p <= 1:
            raise InvalidInput(f"p is {self.p!r}; a number above 0, at most 1, was wanted.")
        if self.max_k is not None and (not isinstance(self.max_k, int) or not 1 <= self.max_k <= MAX_K):
            raise InvalidInput(f"max_k is {self.max_k!r}; a whole number from 1 to {MAX_K} was wanted.")

    def to_dict(self) -> dict[str, Any]:
        """Return the sampler's name and parameters, as a store records them."""
        return {"name": self.name, **asdict(self)}

    def __call__(self, logits: Tensor, *, seed: int = 0, index: int = 0, first_position: int = 0) -> SparseTargets:
        """Return the top-p targets of some positions of one sequence; `seed` and `index` change nothing.

        Args:
            logits: [T, V] floating point; row r belongs to position `first_position + r`.
            seed: not used; every sampler takes it.
            index: not used; every sampler takes it.
            first_position: position of row 0, for messages.

        Returns:
            Targets of T positions on the logits' device, ids ascending within a position.
        """
        check_logits(logits)
        check_key(seed, index)
        zero = torch.zeros(1, dtype=torch.int64, device=logits.device)
        counts, ids, weights = [zero], [zero[:0]], [zero[:0].float()]
        for start, block in probability_blocks(logits, first_position):
            height = max(1, len(block) // _PARTS)
            for first in range(0, len(block), height):
                part = slice(first, first + height)
                kept = self._kept(logits[start : start + len(block)][part], block[part], first_position + start + first)
                for found, more in zip((counts, ids, weights), kept, strict=True):
                    found.append(more)
        return SparseTargets(torch.cat(counts).cumsum(0), torch.cat(ids).int(), torch.cat(weights), sampler=self.name)

    def _kept(self, logits: Tensor, probabilities: Tensor, position: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return counts [R], ids [E] int64 and weights [E] of some rows."""
        sizes = self._sizes(probabilities, position)
        widest, vocab_size = int(sizes.max()), logits.shape[1]
        kept = largest_in_order(logits, widest)
        is_kept = torch.arange(widest, device=kept.device) < sizes[:, None]
        ascending = torch.where(is_kept, kept, vocab_size).sort(dim=1).values
        is_kept = ascending < vocab_size
        chosen = probabilities.gather(1, torch.where(is_kept, ascending, 0))
        is_kept &= chosen > 0
        return is_kept.sum(dim=1), ascending[is_kept], chosen[is_kept]

    def _sizes(self, probabilities: Tensor, position: int) -> Tensor:
        """Return how many of the largest tokens each row keeps, [R] int64."""
        blocks = ColumnBlocks(probabilities)
        limit = min(self.max_k or MAX_K, probabilities.shape[1])
        wanted = self.p * blocks.sums().sum(dim=1, keepdim=True)
        candidates = min(_FIRST_CANDIDATES, limit)
        while True:
            reached = blocks.largest(candidates)[0].double().cumsum(dim=1) >= wanted * (1 - 1e-7)
            if candidates == limit or bool(reached[:, -1].all()):
                break
            candidates = min(4 * candidates, limit)
        if self.max_k is None and limit < probabilities.shape[1] and not bool(reached[:, -1].all()):
            row = int((~reached[:, -1]).nonzero()[0, 0])
            raise InvalidInput(
                f"position {position + row} needs more than {MAX_K} entries to reach p = {self.p:g}, the most that a "
                "store can hold; lower p, or give max_k."
            )
        return (~reached).sum(dim=1).clamp(max=candidates - 1) + 1


def largest_in_order(logits: Tensor, k: int) -> Tensor:
    """Return the ids of each row's k largest logits, the largest first, [T, k] int64; ties go to the lower id."""
    ids = largest_ids(logits, k)
    # ids ascend, so a stable sort by value leaves the lower id in front
    order = logits.gather(1, ids).sort(dim=1, descending=True, stable=True).indices
    return ids.gather(1, order)
