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
    """

    offsets: Tensor
    ids: Tensor
    weights: Tensor
    has_target: Tensor

    @property
    def rows(self) -> Tensor:
        """Position of each entry, [E] int64, ascending."""
        return entry_rows(self.offsets, len(self.ids))

    def sums(self, values: Tensor) -> Tensor:
        """Return the sum of each position's values, [T], of values [E]."""
        return sum_by_position(values, self.offsets)


def flatten_entries(targets: SparseTargets | PaddedTargets, dtype: torch.dtype) -> Entries:
    """Return the entries of `targets` with weights in `dtype`; nothing here waits for a GPU."""
    if isinstance(targets, SparseTargets):
        return Entries(
            targets.offsets.contiguous(), targets.ids.contiguous(), targets.weights.to(dtype), targets.counts > 0
        )
    num_positions, width = targets.ids.shape
    is_entry = targets.ids >= 0
    offsets = torch.arange(num_positions + 1, device=targets.ids.device) * width
    weights = torch.where(is_entry, targets.weights.to(dtype), 0.0).flatten()
    return Entries(offsets, targets.ids.flatten(), weights, is_entry.any(dim=1))


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
