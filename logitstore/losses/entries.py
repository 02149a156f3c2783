"""The entries of sparse targets as flat tensors, whatever form the targets came in."""

# T positions, K entries of the widest position, E entries (CSR: all entries; padded: T * K places)

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from logitstore.losses.select_lse_reference import entry_rows, sum_by_position
from logitstore.targets import PaddedTargets, SparseTargets


@dataclass(frozen=True)
class Entries:
    """The entries of T positions, flat.

    Attributes:
        offsets: position t has the entries `offsets[t]:offsets[t + 1]`, [T + 1] int64, contiguous.
        ids: token id of each entry, [E] int32, contiguous; -1 at a place of padding.
        weights: [E] floating point; 0 at a place of padding.
        has_target: whether a position has entries at all, [T] bool.
        width: places of every position, padding included; None in CSR form, which has none and no padding.
    """

    offsets: Tensor
    ids: Tensor
    weights: Tensor
    has_target: Tensor
    width: int | None = None

    @property
    def rows(self) -> Tensor:
        """Position of each entry, [E] int64, ascending."""
        return entry_rows(self.offsets, len(self.ids))

    def take(self, keep: Tensor) -> Entries:
        """Return the entries of the positions `keep`, [N] int64, ascending: all that have a target."""
        has_target = self.has_target[keep]
        if self.width is None:
            # the positions left out have no entries
            return Entries(torch.cat([self.offsets[keep], self.offsets[-1:]]), self.ids, self.weights, has_target)
        shape = len(self.has_target), self.width
        ids, weights = (values.view(shape)[keep].flatten() for values in (self.ids, self.weights))
        return Entries(_even_offsets(keep, self.width), ids, weights, has_target, self.width)

    def sums(self, values: Tensor) -> Tensor:
        """Return the sum of each position's values, [T], of values [E]."""
        return sum_by_position(values, self.offsets)


def flatten_entries(targets: SparseTargets | PaddedTargets, dtype: torch.dtype) -> Entries:
    """Return the entries of `targets` with weights in `dtype`; nothing here waits for a GPU."""
    if isinstance(targets, SparseTargets):
        return Entries(
            targets.offsets.contiguous(), targets.ids.contiguous(), targets.weights.to(dtype), targets.counts > 0
        )
    width = targets.ids.shape[1]
    is_entry = targets.ids >= 0
    offsets = _even_offsets(is_entry, width)
    weights = torch.where(is_entry, targets.weights.to(dtype), 0.0).flatten()
    return Entries(offsets, targets.ids.flatten(), weights, is_entry.any(dim=1), width)


def renormalise(entries: Entries, temperature: float = 1.0) -> Entries:
    """Return the entries with weights w^(1/temperature), divided by their sum over each position.

    For exact probabilities this is the teacher at `temperature`, restricted to the tokens kept. A position whose
    weights are all 0 keeps them.
    """
    # relative to the heaviest entry: at a low temperature the powers of small probabilities would all become 0
    rows = entries.rows
    heaviest = entries.weights.new_zeros(len(entries.has_target))
    heaviest = heaviest.scatter_reduce(0, rows, entries.weights, "amax")[rows]
    relative = torch.where(heaviest > 0, entries.weights / heaviest, 0.0)
    powers = relative ** (1.0 / temperature)
    sums = entries.sums(powers)[rows]
    return replace(entries, weights=torch.where(heaviest > 0, powers / sums, 0.0))


def _even_offsets(positions: Tensor, width: int) -> Tensor:
    """Return the offsets of as many positions as `positions` [N, ...] has, with `width` places each, [N + 1] int64."""
    return torch.arange(len(positions) + 1, device=positions.device) * width
