"""Threshold sampling: the heavy tokens exactly, the tail by one shared weight, with the least variance per entry."""

# T positions, V vocabulary, R rows of a block, B blocks of columns, C candidates for the head, E entries

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from logitstore.errors import InvalidInput
from logitstore.samplers.column_blocks import Blocks, ColumnBlocks, blocks_of_logits
from logitstore.samplers.distribution import check_logits
from logitstore.samplers.grid import default_grid, round_to_grid
from logitstore.samplers.philox import Purpose, uniforms
from logitstore.samplers.threshold_rule import Solution, solve_threshold
from logitstore.targets import SparseTargets

#: the format counts entries of a position in 16 bits
MAX_DRAWS = 65_535
MAX_GRID = 1 << 20


@dataclass(frozen=True)
class Threshold:
    """Keep the heavy tokens of each position, and sample its tail so that every kept tail token weighs the same.

    Unbiased: the expected weight of every token is its teacher probability, and the weights of a position sum to 1.
    A position gets k = ceil(sum_i min(1, draws * p_i)) entries and the threshold t <= 1/draws that solves
    sum_i min(1, p_i / t) = k: tokens with p_i >= t form the head, the others are in with chance p_i / t and weigh t.
    No unbiased scheme with k entries has a smaller sum of variances. The tail is drawn systematically, with one
    uniform number, in the order of token ids.

    Head probabilities are rounded onto a linear grid, without bias (`round_to_grid`); the tail's entries share what
    is left. Entries whose weight becomes 0 are dropped, so a position may have fewer than k.

    Args:
        draws: sampling budget n, 1 to 65,535.
        grid: the head's weights are multiples of 1/grid; a power of two up to 2^20. None takes the one that adds at
            most 2 % to the variance (`default_grid`).

    Raises:
        InvalidInput: an argument out of range; see `probability_blocks` for logits.

    Source: Fearnhead & Clifford 2003, "On-line inference for hidden Markov models via particle filters"; Cohen,
        Duffield, Kaplan, Lund, Thorup, "VarOpt", arXiv 0803.0473.
    """

    draws: int = 20
    grid: int | None = None
    name: ClassVar[str] = "threshold"
    unbiased: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.draws, int) or not 1 <= self.draws <= MAX_DRAWS:
            raise InvalidInput(f"draws is {self.draws!r}; a whole number from 1 to {MAX_DRAWS} was wanted.")
        if self.grid is None:
            object.__setattr__(self, "grid", default_grid(self.draws))
        grid = self.head_grid
        if not isinstance(grid, int) or not 1 <= grid <= MAX_GRID or grid & (grid - 1):
            raise InvalidInput(f"grid is {grid!r}; a power of two from 1 to {MAX_GRID} was wanted.")

    @property
    def head_grid(self) -> int:
        """The grid in use."""
        assert self.grid is not None
        return self.grid

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
            Targets of T positions on the logits' device: in each position its head entries (`head_counts`), then its
            tail entries, ids ascending in both.
        """
        check_logits(logits)
        positions = torch.arange(first_position, first_position + len(logits), device=logits.device)
        sampling, rounding = (
            uniforms(positions, 1, seed=seed, index=index, purpose=purpose).squeeze(1)
            for purpose in (Purpose.SAMPLING, Purpose.ROUNDING)
        )
        drawn = [
            draw_rows(blocks, self.draws, sampling[rows]) for rows, blocks in blocks_of_logits(logits, first_position)
        ]
        if not drawn:
            return _no_targets(logits.device)
        # many small operations: once for all rows, not once for every block
        head_ids, head, tail_ids, is_tail = (_stack(parts) for parts in zip(*drawn, strict=True))
        return assemble_targets(head_ids, head, tail_ids, is_tail, self.head_grid, rounding)


def sample_threshold(
    probabilities: Tensor, draws: int, grid: int, sampling_uniforms: Tensor, rounding_uniforms: Tensor
) -> SparseTargets:
    """Return the threshold sample of some rows.

    Args:
        probabilities: [R, V] float32, rows sum to 1 but for rounding; used as scratch.
        draws: sampling budget n.
        grid: the head's weights are multiples of 1/grid.
        sampling_uniforms: where each row's systematic sample of the tail starts, [R] float64 in [0, 1).
        rounding_uniforms: the same for the rounding of the head, [R] float64 in [0, 1).
    """
    return assemble_targets(*draw_rows(ColumnBlocks(probabilities), draws, sampling_uniforms), grid, rounding_uniforms)


def draw_rows(blocks: Blocks, draws: int, uniforms: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return what `assemble_targets` makes the targets of some rows from; see `sample_threshold`. Uses up `blocks`.

    Returns:
        ids of the head [R, C] int64, ascending, beyond V where there is none; its probabilities [R, C] float64, 0
        where there is none; ids of the tail [R, S] int64, ascending; which of these count, [R, S] bool.
    """
    # the candidates are taken out first, so that what remains is summed without cancellation
    masses, ids, sums = blocks.take_heavy(draws)
    values = masses.double()
    solution = solve_threshold(values, sums.sum(dim=-1), draws)
    sums = blocks.give_back(masses, ids, solution.head_counts, sums)
    tail_ids, is_tail = _systematic_tail(blocks, sums, solution, uniforms)
    is_head = torch.arange(values.shape[1], device=values.device) < solution.head_counts[:, None]
    head_ids, order = torch.where(is_head, ids, blocks.num_columns).sort(dim=-1)
    head = torch.where(is_head, values / solution.total[:, None], 0.0).gather(1, order)
    return head_ids, head, tail_ids, is_tail


def _stack(parts: tuple[Tensor, ...]) -> Tensor:
    """Put the rows of [R, S] tensors below each other, shorter ones filled up with zeros."""
    width = max(part.shape[1] for part in parts)
    return torch.cat([functional.pad(part, (0, width - part.shape[1])) for part in parts])


def _systematic_tail(blocks: Blocks, sums: Tensor, solution: Solution, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Return token ids [R, S] int64, ascending, and which of them count, [R, S] bool."""
    width = int(solution.tail_counts.max()) if len(uniforms) else 0
    ends = sums.cumsum(dim=-1)
    draw = torch.arange(width, device=ends.device)
    spacing = ends[:, -1:] / solution.tail_counts[:, None].clamp(min=1)
    counts = draw < solution.tail_counts[:, None]
    targets = torch.where(counts, (uniforms[:, None] + draw) * spacing, 0.0)
    ids = blocks.invert(ends, targets)
    # a probability of just the spacing may be hit twice by rounding: it is one entry
    counts[:, 1:] &= ids[:, 1:] != ids[:, :-1]
    return ids, counts


def assemble_targets(
    head_ids: Tensor, head: Tensor, tail_ids: Tensor, is_tail: Tensor, grid: int, rounding_uniforms: Tensor
) -> SparseTargets:
    """Round the head onto the grid, share what is left among the tail, and drop entries of weight 0.

    Args:
        head_ids: [R, C] int64, ascending where `head` is positive.
        head: probabilities of the head, [R, C] float64, 0 where there is none.
        tail_ids: [R, S] int64, ascending where `is_tail`.
        is_tail: [R, S] bool.
        grid: the head's weights are multiples of 1/grid.
        rounding_uniforms: [R] float64 in [0, 1).
    """
    tail_counts = is_tail.sum(dim=-1)
    numerators = round_to_grid(head, grid, rounding_uniforms, whole=tail_counts == 0)
    left = grid - numerators.sum(dim=-1)
    is_tail = is_tail & (left > 0)[:, None]
    share = (left.double() / (grid * tail_counts.clamp(min=1))).float()
    kept = torch.cat([numerators > 0, is_tail], dim=1)
    ids = torch.cat([head_ids, tail_ids], dim=1)
    weights = torch.cat([numerators.float() / grid, share[:, None].expand(tail_ids.shape)], dim=1)
    offsets = torch.cat([kept.new_zeros(1, dtype=torch.int64), kept.sum(dim=1).cumsum(0)])
    head_counts = (numerators > 0).sum(dim=1).int()
    return SparseTargets(offsets, ids[kept].int(), weights[kept], head_counts, sampler=Threshold.name)


def _no_targets(device: torch.device) -> SparseTargets:
    zero = torch.zeros(1, dtype=torch.int64, device=device)
    none = zero[:0]
    return SparseTargets(zero, none.int(), none.float(), none.int(), sampler=Threshold.name)
