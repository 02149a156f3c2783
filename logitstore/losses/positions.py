"""What a loss knows of its positions, apart from the student's logits."""

# T positions, E entries

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from logitstore.losses.checks import check_entropy
from logitstore.losses.entries import Entries, flatten_entries, renormalise
from logitstore.losses.options import LossOptions
from logitstore.losses.validity import check_missing_mass, needs_tempering
from logitstore.targets import PaddedTargets, SparseTargets


@dataclass(frozen=True)
class Positions:
    """T positions: their entries and whatever else weighs in their loss.

    Attributes:
        entries: with the weights as the loss uses them.
        labels: [T] int64, -100 is ignored; None where the loss has no hard-label term.
        entropy: what is subtracted from the distilled term, [T]; None for nothing.
        weights: factor of each position's loss, [T]; None for 1.
    """

    entries: Entries
    labels: Tensor | None
    entropy: Tensor | None
    weights: Tensor | None

    @property
    def num_targets(self) -> Tensor:
        """How many positions have a target, but at least 1: what a mean divides by."""
        return self.entries.has_target.sum().clamp(min=1)

    def with_target(self) -> tuple[Positions, Tensor, list[int]]:
        """Leave out the positions without a target.

        The one place in which a GPU makes the host wait, once in a call: what is left has a shape that depends on
        values.

        Returns:
            the N positions that have a target; which they are, [N] int64, ascending; where the entries of each begin,
            on the host.
        """
        entries = self.entries
        # those with a target in front: their number is all that is missing to take them
        order = entries.has_target.byte().argsort(descending=True, stable=True)
        num_kept, *starts = on_host(torch.cat([entries.has_target.sum()[None], entries.offsets[order]]))
        keep, rest = order[:num_kept], (self.labels, self.entropy, self.weights)
        kept = entries.take(keep)
        if entries.width is not None:
            starts = [place * entries.width for place in range(num_kept)]
        positions = Positions(kept, *(None if tensor is None else tensor[keep] for tensor in rest))
        return positions, keep, starts[:num_kept]

    def part(self, start: int, stop: int, first_entry: int, last_entry: int) -> Positions:
        """Return positions `start:stop`, whose entries are `first_entry:last_entry`."""
        entries = self.entries
        cut = replace(
            entries,
            offsets=entries.offsets[start : stop + 1] - first_entry,
            ids=entries.ids[first_entry:last_entry],
            weights=entries.weights[first_entry:last_entry],
            has_target=entries.has_target[start:stop],
        )
        rest = (self.labels, self.entropy, self.weights)
        return Positions(cut, *(None if tensor is None else tensor[start:stop] for tensor in rest))


def on_host(values: Tensor) -> list[int]:
    """Return whole numbers [n] as a list; for those of a GPU the host waits."""
    found: list[int] = values.tolist()
    return found


def make_positions(
    targets: SparseTargets | PaddedTargets,
    labels: Tensor | None,
    position_weights: Tensor | None,
    options: LossOptions,
    dtype: torch.dtype,
) -> Positions:
    """Return the positions of checked targets, with everything in `dtype`.

    Raises:
        InvalidInput: an option is not valid on these targets (temperature, missing mass, KL).
    """
    tempered = needs_tempering(targets, options.temperature)
    check_missing_mass(targets, options)
    entropy = check_entropy(targets, tempered=tempered) if options.value == "kl" else None
    entries = flatten_entries(targets, dtype)
    if tempered or options.missing_mass == "renormalise":
        entries = renormalise(entries, options.temperature if tempered else 1.0)
    return Positions(
        entries,
        labels.flatten() if labels is not None and options.uses_labels else None,
        None if entropy is None else entropy.to(dtype),
        None if position_weights is None else position_weights.detach().flatten().to(dtype),
    )
