"""Rows of masses cut into blocks of columns: finds the largest tokens, and inverts the cumulative sum, in two levels."""

# T positions, R rows, V vocabulary, B blocks of columns, C candidates, n targets

from __future__ import annotations

import importlib
from collections.abc import Iterator
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from logitstore.samplers.distribution import bad_logits, check_logits, probability_blocks

#: columns that a first search skips over at once; part of what a seed means, as it fixes the order of summation
COLUMN_BLOCK = 128
#: columns that a second search holds at once, in float64: bounds its memory where rows are many and short
_SEARCHED_COLUMNS = 1 << 22


class Blocks(Protocol):
    """Masses of tokens seen as blocks of 128 columns, wherever they are; see `ColumnBlocks` for the methods."""

    @property
    def num_columns(self) -> int:
        """V, rounded up to whole blocks."""

    def take_heavy(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the heaviest tokens' masses and ids, and what is left of the blocks."""

    def give_back(self, masses: Tensor, ids: Tensor, kept_out: Tensor, sums: Tensor) -> Tensor:
        """Return the mass of each block once all but the heaviest `kept_out` have theirs again."""

    def sums(self) -> Tensor:
        """Return the mass of each block."""

    def invert(self, block_ends: Tensor, targets: Tensor) -> Tensor:
        """Return the tokens at which the cumulative mass exceeds the targets."""


def blocks_of_logits(logits: Tensor, first_position: int = 0, power: float = 1.0) -> Iterator[tuple[slice, Blocks]]:
    """Yield (rows, their probabilities as blocks) over all rows of `logits` [T, V].

    Logits that the kernels serve (bfloat16, float16, float32 on a GPU with Triton) stay as they are, in one piece, and
    are read where they are needed; of all others the probabilities are made, some rows at a time. Both ways give the
    same entries for the same keys, but for a draw within rounding (1e-6 of a row's mass) of the edge of two tokens.

    Args:
        logits: [T, V] floating point; -inf is a probability of zero.
        first_position: position of row 0, for messages.
        power: the distribution is proportional to p^power.

    Raises:
        InvalidInput: kind "bad-logits", as `probability_blocks`.
    """
    check_logits(logits)
    kernels = kernels_for(logits)
    if kernels is None:
        for start, probabilities in probability_blocks(logits, first_position, power):
            yield slice(start, start + len(probabilities)), ColumnBlocks(probabilities)
    elif len(logits):
        blocks = kernels.LogitBlocks(logits.detach(), power)
        bad = ~blocks.log_sum_exp().isfinite()
        if bool(bad.any()):
            row = int(bad.nonzero()[0, 0])
            raise bad_logits(logits[row], first_position + row)
        yield slice(0, len(logits)), blocks


def kernels_for(logits: Tensor) -> Any | None:
    """Return the module of kernels that serve these logits, None where torch does: the one place that chooses."""
    kernels = _triton_kernels() if logits.device.type == "cuda" else None
    return kernels if kernels is not None and kernels.serves(logits) else None


@cache
def _triton_kernels() -> Any | None:
    try:
        return importlib.import_module("logitstore.triton_kernels.logit_blocks")
    except ModuleNotFoundError as missing:
        if (missing.name or "").split(".")[0] != "triton":
            raise
        return None


class ColumnBlocks:
    """Masses of tokens, [R, V] float32 and not negative, seen as [R, B, 128].

    Where V is a multiple of 128 the masses are not copied, and `put` changes them in place.

    Attributes:
        cells: the masses, [R, B, 128] float32, zero beyond V.
    """

    def __init__(self, masses: Tensor) -> None:
        num_rows, vocab_size = masses.shape
        # padding by nothing would copy
        missing = -vocab_size % COLUMN_BLOCK
        padded = functional.pad(masses, (0, missing)) if missing else masses
        self.cells = padded.view(num_rows, padded.shape[1] // COLUMN_BLOCK, COLUMN_BLOCK)
        self._vocab_size = vocab_size

    @property
    def num_columns(self) -> int:
        """V, rounded up to whole blocks: an id that no token has."""
        return self.cells.shape[1] * COLUMN_BLOCK

    def largest(self, count: int) -> tuple[Tensor, Tensor]:
        """Return the `count` largest masses of each row, [R, C] float32, falling, and their token ids, [R, C] int64.

        The blocks with the largest maxima hold the largest masses, so only they are searched. Of equal masses any
        may come out. C is `count`, or V where that is less.
        """
        num_blocks = self.cells.shape[1]
        count = min(count, self._vocab_size)
        if count * 2 >= num_blocks:
            top = self.cells.flatten(1)[:, : self._vocab_size].topk(count, dim=-1)
            return top.values, top.indices
        block = self.cells.amax(dim=-1).topk(count, dim=-1).indices
        searched = self.cells.gather(1, block[:, :, None].expand(-1, -1, COLUMN_BLOCK)).flatten(1)
        top = searched.topk(count, dim=-1)
        ids = block.gather(1, top.indices // COLUMN_BLOCK) * COLUMN_BLOCK + top.indices % COLUMN_BLOCK
        return top.values, ids

    def take_heavy(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Set the heaviest tokens of each row to 0, and return them and what is left of the blocks.

        Every token of mass m is among them whose row holds at most `count` tokens of m or more, and at most
        count + 1 blocks of m or more: so is the head of a threshold sample of `count` draws, as blocks weigh at least
        what their heaviest token does. Lighter tokens may be missing. One sum over the columns is all it takes.

        Returns:
            masses [R, C] float32, falling; their ids [R, C] int64; the mass left in each block, [R, B] float64.
        """
        sums = self.cells.sum(dim=-1)
        if (count + 1) * 2 >= sums.shape[1]:
            values, ids = self.largest(count)
            self.put(ids, torch.zeros_like(values))
            return values, ids, self.sums()
        block = sums.topk(count + 1, dim=-1).indices
        searched = self.cells.gather(1, block[:, :, None].expand(-1, -1, COLUMN_BLOCK))
        values, place = searched.flatten(1).topk(count, dim=-1)
        ids = block.gather(1, place // COLUMN_BLOCK) * COLUMN_BLOCK + place % COLUMN_BLOCK
        nothing = torch.zeros_like(values)
        self.put(ids, nothing)
        searched.flatten(1).scatter_(1, place, nothing)
        return values, ids, sums.scatter_(1, block, searched.sum(dim=-1)).double()

    def give_back(self, masses: Tensor, ids: Tensor, kept_out: Tensor, sums: Tensor) -> Tensor:
        """Give tokens that `take_heavy` took their masses back, but for the heaviest of each row.

        Args:
            masses: as `take_heavy` returned them, [R, C].
            ids: the same.
            kept_out: how many of the heaviest of each row stay at 0, [R] int64.
            sums: as `take_heavy` returned them; changed in place.

        Returns:
            The mass of each block, [R, B] float64.
        """
        stays_out = torch.arange(masses.shape[1], device=masses.device) < kept_out[:, None]
        returned = torch.where(stays_out, 0.0, masses)
        self.put(ids, returned)
        return sums.scatter_add_(1, ids // COLUMN_BLOCK, returned.double())

    def put(self, ids: Tensor, masses: Tensor) -> None:
        """Set the masses of tokens: ids [R, C] int64, unique within a row; masses [R, C] float32."""
        self.cells.flatten(1).scatter_(1, ids, masses)

    def sums(self) -> Tensor:
        """Return the mass of each block, [R, B] float64; a row's sums do not depend on the rows beside it."""
        return self.cells.sum(dim=-1).double()

    def invert(self, block_ends: Tensor, targets: Tensor) -> Tensor:
        """Return the tokens at which each row's cumulative mass, in id order, first exceeds its targets.

        Args:
            block_ends: cumulative mass at the end of each block, [R, B] float64.
            targets: [R, n] float64, not negative, below the row's total but for rounding.

        Returns:
            Token ids, [R, n] int64; a token of mass 0 never comes out of a row that has mass.
        """
        block, rest = _invert(block_ends, targets)
        column = torch.empty_like(block)
        height = max(1, _SEARCHED_COLUMNS // (COLUMN_BLOCK * max(1, targets.shape[1])))
        for start in range(0, len(targets), height):
            part = slice(start, start + height)
            picked = self.cells[part].gather(1, block[part, :, None].expand(-1, -1, COLUMN_BLOCK))
            ends = picked.double().cumsum(dim=-1).flatten(0, 1)
            column[part] = _invert(ends, rest[part].reshape(-1, 1))[0].view_as(block[part])
        return block * COLUMN_BLOCK + column


def _invert(ends: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Find, in each row, the first cell that ends above the target, and how far into it the target lies."""
    total = ends[:, -1:]
    # rounding may put a target on the very end, where no cell lies above it
    targets = torch.minimum(targets, torch.nextafter(total, torch.zeros_like(total)))
    # a row without any mass ends in its last cell
    cell = torch.searchsorted(ends, targets, right=True).clamp(max=ends.shape[1] - 1)
    before = torch.where(cell > 0, ends.gather(1, (cell - 1).clamp(min=0)), 0.0)
    return cell, (targets - before).clamp(min=0.0)
