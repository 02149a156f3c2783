"""The entries of sparse targets as flat tensors, whatever form the targets came in."""

# T positions, K entries of the widest position, E entries (CSR: all entries; padded: T * K places)

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from logitstore.targets import PaddedTargets, SparseTargets


@dataclass(frozen=True)
class Entries:
    """The entries of T positions, flat.

    Attributes:
        rows: position of each entry, [E] int64, ascending.
        ids: token id of each entry, [E] int64, none negative: a place of padding holds id 0 and weight 0.
        weights: [E] floating point.
        has_target: whether a position has entries at all, [T] bool.
    """

    rows: Tensor
    ids: Tensor
    weights: Tensor
    has_target: Tensor


def flatten_entries(targets: SparseTargets | PaddedTargets, dtype: torch.dtype) -> Entries:
    """Return the entries of `targets` with weights in `dtype`; nothing here waits for a GPU."""
    if isinstance(targets, SparseTargets):
        return Entries(targets.rows, targets.ids.long(), targets.weights.to(dtype), targets.counts > 0)
    num_positions, width = targets.ids.shape
    is_entry = targets.ids >= 0
    rows = torch.arange(num_positions, device=targets.ids.device).repeat_interleave(width)
    ids = targets.ids.long().clamp(min=0).flatten()
    weights = torch.where(is_entry, targets.weights.to(dtype), 0.0).flatten()
    return Entries(rows, ids, weights, is_entry.any(dim=1))


def temper_and_renormalise(entries: Entries, temperature: float) -> Entries:
    """Return the entries with weights w^(1/temperature), divided by their sum over each position.

    For exact probabilities this is the teacher at `temperature`, restricted to the tokens kept. A position whose
    weights are all 0 keeps them.
    """
    num_positions = len(entries.has_target)
    # relative to the heaviest entry: at a low temperature the powers of small probabilities would all become 0
    heaviest = entries.weights.new_zeros(num_positions)
    heaviest = heaviest.scatter_reduce(0, entries.rows, entries.weights, "amax")[entries.rows]
    relative = torch.where(heaviest > 0, entries.weights / heaviest, 0.0)
    powers = relative ** (1.0 / temperature)
    sums = powers.new_zeros(num_positions).index_add(0, entries.rows, powers)[entries.rows]
    return replace(entries, weights=torch.where(heaviest > 0, powers / sums, 0.0))
