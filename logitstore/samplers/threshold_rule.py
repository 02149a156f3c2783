"""How many entries a position gets, and which of them are kept exactly."""

# R rows, C candidates

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: a sum of min(1, n p) this little above a whole number counts as that number: rounding of probabilities, no more
_ROUNDING_SLACK = 1e-5


@dataclass(frozen=True)
class Solution:
    """The threshold of each row.

    Attributes:
        total: sum of the row's masses, [R] float64.
        head_counts: how many of the largest masses are kept exactly, [R] int64.
        tail_counts: how many entries the others get, [R] int64.
        tail: sum of the others, [R] float64; the threshold is tail / (total * tail_counts).
    """

    total: Tensor
    head_counts: Tensor
    tail_counts: Tensor
    tail: Tensor


def solve_threshold(values: Tensor, rest: Tensor, draws: int) -> Solution:
    """Return the threshold t of each row: sum_i min(1, p_i / t) is whole, and t <= 1/draws.

    The number of entries is k = ceil(sum_i min(1, draws * p_i) - 1e-5), at least one more than the head where any
    mass is left, so that no token is without a chance, and no more than there are tokens with mass. With h tokens
    in the head, t = (1 - sum of the head) / (k - h); the head is the smallest whose next token lies below t.

    Args:
        values: masses of each row, falling, [R, C] float64, the head's among them; C >= draws, or all there are.
        rest: sum of all other masses of the row, [R] float64.
        draws: sampling budget n.
    """
    num_rows, width = values.shape
    # sums from the small end: the tail of a peaked row would cancel to noise as 1 - sum of the head
    tails = torch.cat([rest[:, None], values.flip(1)], dim=1).cumsum(dim=1).flip(1)
    total = tails[:, :1]
    is_heavy = values * draws >= total
    num_heavy = is_heavy.sum(dim=1)
    expected = num_heavy + draws * (tails.gather(1, num_heavy[:, None]) / total).squeeze(1)
    sizes = (expected - _ROUNDING_SLACK).ceil().long()
    # where masses beyond the candidates exist, there are at least `draws` candidates, and never more entries
    num_positive = (values > 0).sum(dim=1) + (rest > 0)
    heads = torch.arange(width + 1, device=values.device)
    sizes = torch.minimum(
        torch.maximum(sizes, num_heavy + (tails.gather(1, num_heavy[:, None]).squeeze(1) > 0)), num_positive
    )
    entries_left = sizes[:, None] - heads
    following = torch.cat([values, values.new_zeros(num_rows, 1)], dim=1)
    is_enough = (following * entries_left < tails) | (entries_left <= 0)
    # masses of at least total / draws are never below t; where they equal it, rounding could say so
    head_counts = torch.maximum(torch.where(is_enough, heads, width).amin(dim=1), num_heavy)
    tail = tails.gather(1, head_counts[:, None]).squeeze(1)
    tail_counts = torch.where(tail > 0, (sizes - head_counts).clamp(min=1), 0)
    return Solution(total.squeeze(1), head_counts, tail_counts, tail)
