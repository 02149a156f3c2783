"""Teacher logits seen as blocks of 128 columns: what the samplers need of them, without a [T, V] of probabilities."""

# R rows, V vocabulary, B blocks of columns, C candidates, n targets

from __future__ import annotations

import torch
from torch import Tensor

from logitstore.triton_kernels.block_kernels import (
    block_masses_kernel,
    block_statistics_kernel,
    invert_blocks_kernel,
    keys_kernel,
    remaining_masses_kernel,
)
from logitstore.triton_kernels.configurations import RowAlignment, launched_warps, on_device, serves

#: the samplers' block of columns; part of what a seed means
COLUMN_BLOCK = 128
#: blocks that a program takes at a time: in the pass over the logits (fewer where rows are not aligned, as single
#: elements take more registers), in passes over chosen blocks, and in the search for a token, which is in float64
TILE_BLOCKS = {True: 64, False: 16}
TILE_WARPS = 8
CHOSEN_BLOCKS = 16
INVERTED_BLOCKS = 8
MASS_BLOCKS = 1_024
#: keys that exist at once: 128 MiB
_KEYS_AT_ONCE = 1 << 24
_NOTHING_LEFT_OUT = torch.iinfo(torch.int64).max
_ID_MASK = 0x7FFFFFFF


class LogitBlocks:
    """Probabilities proportional to exp(power * logits), seen as [R, B, 128], computed where they are needed.

    It does for logits on a GPU what the samplers' `ColumnBlocks` does for probabilities. One pass over the logits is
    made here; the methods read single blocks. Two runs give the same bits, whatever the rows beside a row.

    Compared with `ColumnBlocks` over `torch.softmax` of the same logits: `largest` finds the same tokens, exactly
    (equal logits in id order, where the other is free). Masses agree to float32 rounding. `invert` gives the same token
    unless a target lies within rounding (about 1e-6 of the row's mass) of the edge between two tokens.

    Attributes:
        tops: largest logit of each row, [R] float32; +inf, -inf or (see `log_sum_exp`) NaN logits are not refused here.
        power: the exponent.
    """

    def __init__(self, logits: Tensor, power: float = 1.0) -> None:
        """Make one pass over logits [R, V], bfloat16, float16 or float32 on a GPU, V >= 1.

        A row stride that is no multiple of 8 elements (4 in float32) is read element by element; another column stride
        than 1 costs a copy.

        Raises:
            ValueError: logits that the kernels do not serve.
        """
        if logits.ndim != 2 or logits.shape[1] < 1 or not serves(logits):
            raise ValueError(
                f"logits are {logits.dtype} {tuple(logits.shape)} on {logits.device}; the kernels take bfloat16, "
                "float16 or float32 [R, V] on a GPU. The samplers take the others too."
            )
        self._logits = logits if logits.stride(1) == 1 else logits.contiguous()
        # as the kernels take it
        self.power = float(torch.tensor(power, dtype=torch.float32))
        num_rows, vocab_size = logits.shape
        self.num_blocks = -(-vocab_size // COLUMN_BLOCK)
        self._block_tops = logits.new_empty((num_rows, self.num_blocks), dtype=torch.float32)
        self._block_sums = torch.empty_like(self._block_tops)
        self.tops = self._block_tops.new_empty(num_rows)
        self._sums = torch.empty_like(self.tops)
        self._keys = torch.empty((num_rows, 0), dtype=torch.int64, device=logits.device)
        self._cutoffs = torch.full((num_rows,), _NOTHING_LEFT_OUT, dtype=torch.int64, device=logits.device)
        if num_rows:
            alignment = RowAlignment.of(self._logits)
            with on_device(logits):
                block_statistics_kernel[(num_rows,)](
                    self._logits, self._logits.stride(0), self._block_tops, self._block_sums, self.tops, self._sums,
                    vocab_size, self.num_blocks, self.power, ALIGNED=alignment.aligned, VECTOR=alignment.vector,
                    BLOCKS=TILE_BLOCKS[alignment.aligned], WIDTH=COLUMN_BLOCK, num_warps=launched_warps(TILE_WARPS), enable_fp_fusion=True,
                )  # fmt: skip

    @property
    def num_columns(self) -> int:
        """V, rounded up to whole blocks."""
        return self.num_blocks * COLUMN_BLOCK

    def log_sum_exp(self) -> Tensor:
        """Return log(sum(exp(power * logits))) of each row, [R] float64; NaN or infinite where logits are bad."""
        return self.tops.double() * self.power + self._sums.double().log()

    def largest(self, count: int) -> tuple[Tensor, Tensor]:
        """Return the `count` largest masses of each row, [R, C] float32, falling, and their token ids, [R, C] int64.

        Of equal logits the lower id comes first. C is `count`, or V where that is less.
        """
        num_rows, vocab_size = self._logits.shape
        count = min(count, vocab_size)
        chosen = min(count, self.num_blocks)
        height = max(1, _KEYS_AT_ONCE // (chosen * COLUMN_BLOCK))
        parts = [
            self._largest_keys(slice(start, start + height), count, chosen) for start in range(0, num_rows, height)
        ]
        self._keys = torch.cat(parts) if parts else self._keys.new_empty((0, count))
        ids = _ID_MASK - (self._keys & _ID_MASK)
        distance = self._logits.gather(1, ids).double() - self.tops.double()[:, None]
        return (torch.exp(distance * self.power) / self._sums.double()[:, None]).float(), ids

    def leave_out(self, counts: Tensor) -> None:
        """Take the `counts` [R] largest tokens of each row, in the order of the last `largest`, to have no mass."""
        above_all = self._keys.new_full((len(self._keys), 1), _NOTHING_LEFT_OUT)
        self._cutoffs = torch.cat([above_all, self._keys], dim=1).gather(1, counts[:, None]).squeeze(1)

    def take_heavy(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Leave the `count` largest tokens out; return their masses and ids as `largest` does, and `sums()`."""
        masses, ids = self.largest(count)
        self.leave_out(torch.full((len(ids),), ids.shape[1], device=ids.device))
        return masses, ids, self.sums()

    def give_back(self, masses: Tensor, ids: Tensor, kept_out: Tensor, sums: Tensor) -> Tensor:
        """Leave only the `kept_out` [R] largest tokens out, and return `sums()`.

        What else `take_heavy` returned is not needed here: the logits are as they were.
        """
        self.leave_out(kept_out)
        return self.sums()

    def sums(self) -> Tensor:
        """Return the probability of each block, [R, B] float64, without the tokens that are left out.

        What remains of a block is summed anew, so that nothing cancels.
        """
        num_rows, vocab_size = self._logits.shape
        masses = torch.empty_like(self._block_tops, dtype=torch.float64)
        if not num_rows:
            return masses
        statistics = self._block_tops, self.tops, self._sums
        with on_device(masses):
            block_masses_kernel[(num_rows, -(-self.num_blocks // MASS_BLOCKS))](
                self._block_tops, self._block_sums, self.tops, self._sums, masses, self.num_blocks, self.power,
                BLOCKS=MASS_BLOCKS, enable_fp_fusion=True,
            )  # fmt: skip
            count = self._keys.shape[1]
            if count:
                chosen = (_ID_MASK - (self._keys & _ID_MASK)) // COLUMN_BLOCK
                remaining_masses_kernel[(num_rows, -(-count // CHOSEN_BLOCKS))](
                    self._logits, self._logits.stride(0), chosen, self._cutoffs, *statistics, masses, vocab_size,
                    self.num_blocks, count, self.power, CHOSEN=CHOSEN_BLOCKS, WIDTH=COLUMN_BLOCK,
                    enable_fp_fusion=True,
                )  # fmt: skip
        return masses

    def invert(self, block_ends: Tensor, targets: Tensor) -> Tensor:
        """Return the tokens at which each row's cumulative mass, in id order, first exceeds its targets.

        Args:
            block_ends: cumulative sum of `sums()`, [R, B] float64.
            targets: [R, n] float64, not negative, below the row's total but for rounding.

        Returns:
            Token ids, [R, n] int64; a token of mass 0 never comes out of a row that has mass.
        """
        total = block_ends[:, -1:]
        # rounding may put a target on the very end, where no block lies above it
        targets = torch.minimum(targets, torch.nextafter(total, torch.zeros_like(total)))
        block = torch.searchsorted(block_ends, targets, right=True).clamp(max=self.num_blocks - 1)
        before = torch.where(block > 0, block_ends.gather(1, (block - 1).clamp(min=0)), 0.0)
        rests = (targets - before).clamp(min=0.0)
        ids = torch.empty_like(block)
        num_rows, count = block.shape
        if ids.numel():
            with on_device(ids):
                invert_blocks_kernel[(num_rows, -(-count // INVERTED_BLOCKS))](
                    self._logits, self._logits.stride(0), block, rests, self._cutoffs, self._block_tops, self.tops,
                    self._sums, ids, self._logits.shape[1], self.num_blocks, count, self.power,
                    CHOSEN=INVERTED_BLOCKS, WIDTH=COLUMN_BLOCK, enable_fp_fusion=True,
                )  # fmt: skip
        return ids

    def _largest_keys(self, rows: slice, count: int, chosen: int) -> Tensor:
        """Return the `count` largest keys of some rows, falling.

        As a block's best key is the key of its maximum, the blocks with the `chosen` best of those hold all of them.
        """
        tops = self._block_tops[rows]
        groups = -(-self.num_blocks // COLUMN_BLOCK)
        every_group = torch.arange(groups, device=tops.device).expand(len(tops), groups).contiguous()
        block_keys = _keys_of(tops, every_group)
        best = block_keys.topk(chosen, dim=1, sorted=False).values
        blocks = _ID_MASK - (best & _ID_MASK)
        return _keys_of(self._logits[rows], blocks).topk(count, dim=1).values


def largest_ids(logits: Tensor, k: int) -> Tensor:
    """Return the ids of each row's k largest logits, ascending, [T, k] int64; of equal logits the lower id wins.

    Exact: the same ids as the samplers' `largest_ids`, ties included, without a wait for the device.

    Args:
        logits: [T, V] bfloat16, float16 or float32 on a GPU.
        k: 1 to V.
    """
    return LogitBlocks(logits).largest(k)[1].sort(dim=1).values


def _keys_of(logits: Tensor, blocks: Tensor) -> Tensor:
    """Return the keys of all tokens of chosen blocks: logits [R, V], blocks [R, C] int64; [R, C * 128] int64."""
    num_rows, chosen = blocks.shape
    keys = torch.empty((num_rows, chosen * COLUMN_BLOCK), dtype=torch.int64, device=logits.device)
    with on_device(logits):
        keys_kernel[(num_rows, -(-chosen // CHOSEN_BLOCKS))](
            logits, logits.stride(0), blocks, keys, logits.shape[1], chosen, CHOSEN=CHOSEN_BLOCKS, WIDTH=COLUMN_BLOCK,
            enable_fp_fusion=True,
        )  # fmt: skip
    return keys
