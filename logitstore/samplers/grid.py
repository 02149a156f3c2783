"""Rounding probabilities onto a linear grid, without bias."""

# R rows, C columns

from __future__ import annotations

import math

import torch
from torch import Tensor


def default_grid(draws: int) -> int:
    """Return the coarsest power of two that adds at most 2 % to the variance of `draws` on real text.

    That is the first that reaches 2.5 times the draws: the head's rounding weighs against a variance that falls about
    as fast as the square of the grid's step (docs/decisions/0005-threshold-by-default.md has the measurement).
    """
    return 1 << math.ceil(math.log2(2.5 * draws))


def round_to_grid(values: Tensor, grid: int, uniforms: Tensor, *, whole: Tensor) -> Tensor:
    """Return numerators m with m / grid close to the values: each is m or m + 1 short of it, and right on average.

    Systematic rounding: the running sum of grid * value, shifted by one uniform number, passes m whole numbers on
    the way over a value. So the numerators of a row add up to the row's sum, rounded, and never to more than the grid
    where the values sum to at most 1.

    Args:
        values: [R, C] float64, not negative, rows sum to at most 1 but for rounding.
        grid: multiples of 1/grid are wanted.
        uniforms: [R] float64 in [0, 1).
        whole: rows whose values sum to 1 exactly, but for rounding, [R] bool: their numerators add up to the grid.

    Returns:
        [R, C] int64.
    """
    ends = values.cumsum(dim=-1)
    total = ends[:, -1:] if values.shape[1] else values.new_zeros(len(values), 1)
    scale = torch.where(whole[:, None] & (total > 0), grid / total, float(grid))
    # a sum that rounding puts above 1 must not pass one number more than there are
    passed = (ends * scale + uniforms[:, None]).floor().clamp(max=grid).long()
    passed = torch.where(whole[:, None] & (total > 0) & (ends >= total), grid, passed)
    return torch.diff(passed, dim=-1, prepend=passed.new_zeros(len(passed), 1))
