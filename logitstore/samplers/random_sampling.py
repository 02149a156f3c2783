"""The published sampler: draws with replacement, kept as counts."""

# T positions, V vocabulary, R rows of a block, n draws, B blocks of columns, E entries

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from logitstore.errors import InvalidInput
from logitstore.samplers.column_blocks import Blocks, blocks_of_logits
from logitstore.samplers.distribution import check_logits, probability_blocks
from logitstore.samplers.philox import Purpose, uniforms
from logitstore.targets import SparseTargets

#: the format counts draws in 16 bits
MAX_DRAWS = 65_535


@dataclass(frozen=True)
class RandomSampling:
    """Sample `draws` tokens of each position with replacement, and keep how often each came out.

    Tokens are drawn from q, proportional to p^proposal_power; an entry weighs count/draws * p/q. Unbiased: the
    expected weight of every token is its teacher probability. With `proposal_power` 1 the weights are count/draws
    and sum to 1. With another power they are importance weights and are left unnormalised, as dividing them by
    their sum would be biased.

    Args:
        draws: sampling budget n of a position, 1 to 65,535.
        proposal_power: tau > 0; 1 is best by the paper's measurements.

    Raises:
        InvalidInput: an argument out of range; see `probability_blocks` for logits.

    Source: "Sparse Logit Sampling", arXiv 2503.16870, section 4.
    """

    draws: int = 50
    proposal_power: float = 1.0
    name: ClassVar[str] = "random-sampling"
    unbiased: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.draws, int) or not 1 <= self.draws <= MAX_DRAWS:
            raise InvalidInput(f"draws is {self.draws!r}; a whole number from 1 to {MAX_DRAWS} was wanted.")
        if not 0 < self.proposal_power < float("inf"):
            raise InvalidInput(f"proposal_power is {self.proposal_power!r}; a number above 0 was wanted.")

    def to_dict(self) -> dict[str, Any]:
        """Return the sampler's name and parameters, as a store records them."""
        return {"name": self.name, **asdict(self)}

    def __call__(self, logits: Tensor, *, seed: int = 0, index: int = 0, first_position: int = 0) -> SparseTargets:
        """Return the sampled targets of some positions of one sequence.

        Args:
            logits: [T, V] floating point; row r belongs to position `first_position + r`.
            seed: key of the random numbers, in [0, 2^64).
            index: index of the sequence in its store.
            first_position: position of row 0.

        Returns:
            Targets of T positions on the logits' device, ids ascending within a position.
        """
        check_logits(logits)
        positions = torch.arange(first_position, first_position + len(logits), device=logits.device)
        chances = uniforms(positions, self.draws, seed=seed, index=index, purpose=Purpose.SAMPLING)
        drawn = [
            draw_ids(blocks, chances[rows])
            for rows, blocks in blocks_of_logits(logits, first_position, self.proposal_power)
        ]
        ids = torch.cat(drawn) if drawn else torch.empty((0, self.draws), dtype=torch.int64, device=logits.device)
        offsets, unique_ids, multiplicities = count_draws(ids)
        weights = multiplicities.float() / self.draws
        if self.proposal_power != 1.0:
            weights = (weights.double() * self._importance(logits, offsets, unique_ids)).float()
        return SparseTargets(offsets, unique_ids.int(), weights, sampler=self.name)

    def _importance(self, logits: Tensor, offsets: Tensor, ids: Tensor) -> Tensor:
        """Return p/q of each entry, [E] float64."""
        rows = torch.repeat_interleave(torch.arange(len(logits), device=ids.device), offsets.diff())
        picked = logits[rows, ids].double()
        numerator, denominator = log_sum_exp(logits, 1.0), log_sum_exp(logits, self.proposal_power)
        return torch.exp((picked - numerator[rows]) - (picked * self.proposal_power - denominator[rows]))


def draw_ids(blocks: Blocks, uniforms: Tensor) -> Tensor:
    """Invert each row's cumulative distribution at its uniforms, in two levels: blocks of columns, then columns.

    Args:
        blocks: masses of R rows, which sum to about 1.
        uniforms: [R, n] float64 in [0, 1).

    Returns:
        Token ids, [R, n] int64; a token of probability 0 never comes out.
    """
    block_ends = blocks.sums().cumsum(dim=-1)
    return blocks.invert(block_ends, uniforms * block_ends[:, -1:])


def count_draws(ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count equal ids of each row: ids [T, n] in; offsets [T + 1], unique ids [E] ascending and counts [E] out."""
    num_rows, draws = ids.shape
    ordered = ids.sort(dim=1).values
    is_first = torch.ones_like(ordered, dtype=torch.bool)
    is_first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    starts = is_first.flatten().nonzero().squeeze(1)
    counts = torch.diff(starts, append=starts.new_full((1,), num_rows * draws))
    offsets = torch.cat([starts.new_zeros(1), is_first.sum(dim=1).cumsum(0)])
    return offsets, ordered.flatten()[starts], counts


def log_sum_exp(logits: Tensor, power: float) -> Tensor:
    """Return log(sum(exp(power * logits))) of each row, [T] float64, whatever the row's neighbours."""
    parts = []
    for start, probabilities in probability_blocks(logits, power=power):
        top = probabilities.max(dim=-1)
        peak = logits[start : start + len(probabilities)].gather(1, top.indices[:, None]).squeeze(1).double() * power
        parts.append(peak - top.values.double().log())
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64, device=logits.device)
