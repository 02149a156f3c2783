"""Rows of masses cut into blocks of columns: finds the largest tokens, and inverts the cumulative sum, in two levels."""

# R rows, V vocabulary, B blocks of columns, C candidates, n targets

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

#: columns that a first search skips over at once; part of what a seed means, as it fixes the order of summation
COLUMN_BLOCK = 128
#: columns that a second search holds at once, in float64: bounds its memory where rows are many and short
_SEARCHED_COLUMNS = 1 << 22


class ColumnBlocks:
    """Masses of tokens, [R, V] float32 and not negative, seen as [R, B, 128].

    Where V is a multiple of 128 the masses are not copied, and `move` changes them in place.

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
