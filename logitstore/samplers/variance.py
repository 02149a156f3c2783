"""The variance of a sampler's weights, in closed form: what there is to compare samplers by without drawing."""

# T positions, V vocabulary, R rows of a block, C candidates for the head

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from logitstore.errors import InvalidInput
from logitstore.samplers.column_blocks import ColumnBlocks
from logitstore.samplers.distribution import probability_blocks
from logitstore.samplers.random_sampling import RandomSampling
from logitstore.samplers.threshold import Threshold
from logitstore.samplers.threshold_rule import solve_threshold
from logitstore.targets import Sampler


def total_variance(sampler: Sampler, logits: Tensor) -> Tensor:
    """Return sum_i Var(w_i) over the vocabulary, of each position, [T] float64.

    The variance of a logit gradient, sum over the vocabulary, is the same number wherever the weights sum to 1.

    Args:
        sampler: an unbiased one.
        logits: [T, V] floating point.

    Raises:
        InvalidInput: a biased sampler (its error is no variance); see `probability_blocks` for logits.
    """
    if isinstance(sampler, Threshold):
        grids = [sampler.head_grid]
        parts = [threshold_variances(block, sampler.draws, grids)[0] for _, block in probability_blocks(logits)]
    elif isinstance(sampler, RandomSampling):
        parts = [
            random_sampling_variance(block, sampler.draws, sampler.proposal_power)
            for _, block in probability_blocks(logits)
        ]
    else:
        raise InvalidInput(f"{sampler.name} is biased: what it leaves out is no variance, and no draw averages it out.")
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64, device=logits.device)


def random_sampling_variance(probabilities: Tensor, draws: int, proposal_power: float = 1.0) -> Tensor:
    """Return sum_i p_i^2 (1 - q_i) / (n q_i) of each row, [R] float64, with q proportional to p^proposal_power.

    Args:
        probabilities: [R, V] float32.
        draws: n.
        proposal_power: tau; at 1 the sum is (1 - sum_i p_i^2) / n.
    """
    if proposal_power == 1.0:
        cells = ColumnBlocks(probabilities).cells
        total = cells.sum(dim=-1).double().sum(dim=1)
        return (1 - cells.square().sum(dim=-1).double().sum(dim=1) / total**2) / draws
    p = probabilities.double()
    p = p / p.sum(dim=1, keepdim=True)
    # p^2 / q = p^(2 - tau) * sum_j p_j^tau
    powers = torch.where(p > 0, p**proposal_power, 0.0).sum(dim=1)
    rest = torch.where(p > 0, p ** (2 - proposal_power), 0.0).sum(dim=1)
    return (powers * rest - (p * p).sum(dim=1)) / draws


def threshold_variances(probabilities: Tensor, draws: int, grids: Sequence[int | None]) -> Tensor:
    """Return the variance of a threshold sample of each row, for some grids at once, [len(grids), R] float64.

    A tail token weighs W with chance p / t, where W is the rounded tail mass over the tail's entries, with mean t: its
    variance is p (t - p) + p / t Var(W). A head token m / grid with a fractional part f has f (1 - f) / grid^2.

    Args:
        probabilities: [R, V] float32.
        draws: n.
        grids: of the head; None for no rounding at all.
    """
    blocks = ColumnBlocks(probabilities)
    candidates, ids = blocks.largest(draws)
    blocks.put(ids, torch.zeros_like(candidates))
    rest, squares_of_rest = blocks.sums().sum(dim=1), blocks.cells.square().sum(dim=-1).double().sum(dim=1)
    blocks.put(ids, candidates)
    values = candidates.double()
    solution = solve_threshold(values, rest, draws)
    total = solution.total
    is_head = torch.arange(values.shape[1], device=values.device) < solution.head_counts[:, None]
    squares = (squares_of_rest + torch.where(is_head, 0.0, values).square().sum(dim=1)) / total**2
    entries = solution.tail_counts.clamp(min=1)
    plain = ((solution.tail / total) ** 2 / entries - squares).clamp(min=0.0)
    head = torch.where(is_head, values / total[:, None], 0.0)
    whole = solution.tail_counts == 0
    variances = []
    for grid in grids:
        added = torch.zeros_like(plain)
        if grid is not None:
            of_tail = torch.where(whole, 0.0, _rounding_variance(head.sum(dim=1) * grid) / entries)
            added = (_rounding_variance(head * grid).sum(dim=1) + of_tail) / grid**2
        variances.append(plain + added)
    return torch.stack(variances)


def _rounding_variance(value: Tensor) -> Tensor:
    fraction = value - value.floor()
    return fraction * (1 - fraction)
