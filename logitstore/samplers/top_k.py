"""The largest entries of each position: simple, deterministic, and biased."""

# T positions, V vocabulary, K entries kept

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from logitstore.errors import InvalidInput
from logitstore.samplers.column_blocks import kernels_for
from logitstore.samplers.distribution import check_logits, probability_blocks
from logitstore.samplers.philox import check_key
from logitstore.targets import SparseTargets

#: the format counts entries of a position in 16 bits
MAX_K = 65_535


@dataclass(frozen=True)
class TopK:
    """Keep the `k` most probable tokens of each position, with their exact probabilities.

    Biased: the tail gets no weight, so a student learns too sharp a distribution; at small k that is worse than no
    distillation at all (arXiv 2503.16870, table 1). The weights are not renormalised: 1 minus their sum is the
    missing mass. Between equal logits the lower id wins; tokens of probability 0 are left out.

    Args:
        k: entries of a position, 1 to 65,535.

    Raises:
        InvalidInput: k out of range or above the vocabulary; see `probability_blocks` for logits.
    """

    k: int = 50
    name: ClassVar[str] = "top-k"
    unbiased: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not isinstance(self.k, int) or not 1 <= self.k <= MAX_K:
            raise InvalidInput(f"k is {self.k!r}; a whole number from 1 to {MAX_K} was wanted.")

    def to_dict(self) -> dict[str, Any]:
        """Return the sampler's name and parameters, as a store records them."""
        return {"name": self.name, **asdict(self)}

    def __call__(self, logits: Tensor, *, seed: int = 0, index: int = 0, first_position: int = 0) -> SparseTargets:
        """Return the top-k targets of some positions of one sequence; `seed` and `index` change nothing.

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
        if self.k > logits.shape[1]:
            raise InvalidInput(f"k is {self.k}, more than the {logits.shape[1]} columns of the logits; lower k.")
        ids, weights = [], []
        for start, probabilities in probability_blocks(logits, first_position):
            kept = largest_ids(logits[start : start + len(probabilities)], self.k)
            ids.append(kept)
            weights.append(probabilities.gather(1, kept))
        if not ids:
            return SparseTargets(*_empty(logits.device), sampler=self.name)
        kept, weight = torch.cat(ids), torch.cat(weights)
        positive = weight > 0
        offsets = torch.cat([kept.new_zeros(1), positive.sum(dim=1).cumsum(0)])
        return SparseTargets(offsets, kept[positive].int(), weight[positive], sampler=self.name)


def largest_ids(logits: Tensor, k: int) -> Tensor:
    """Return the ids of each row's k largest logits, ascending, [T, k] int64; of equal logits the lower id wins."""
    kernels = kernels_for(logits)
    if kernels is not None:
        found: Tensor = kernels.largest_ids(logits, k)
        return found
    vocab_size = logits.shape[1]
    top = logits.topk(min(k + 1, vocab_size), dim=-1)
    ids = top.indices[:, :k].clone()
    if k < vocab_size:
        # only where the first value left out equals the last one kept is the choice open
        for row in (top.values[:, k - 1] == top.values[:, k]).nonzero().squeeze(1).tolist():
            bound = top.values[row, k - 1]
            above = (logits[row] > bound).nonzero().squeeze(1)
            equal = (logits[row] == bound).nonzero().squeeze(1)
            ids[row] = torch.cat([above, equal[: k - len(above)]])
    return ids.sort(dim=-1).values


def _empty(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    zero = torch.zeros(1, dtype=torch.int64, device=device)
    return zero, zero[:0].int(), zero[:0].float()
