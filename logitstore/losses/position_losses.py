"""The loss of each position, from the few numbers of its logits that `select_lse` found."""

# T positions, E entries

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from logitstore.losses.entries import Entries
from logitstore.losses.options import LossOptions
from logitstore.losses.positions import Positions
from logitstore.losses.select_lse_reference import IGNORED_LABEL, SelectLse, sum_by_position

#: below this share of the student's mass in the tail, its logarithm is replaced by its tangent: 1 - sum q cancels there
TAIL_FLOOR = 1e-4


def position_losses(found: SelectLse, positions: Positions, options: LossOptions) -> Tensor:
    """Return the loss of each position, [T] in the dtype of `found`, differentiable at `found` by autograd.

    Exactly 0, with gradient exactly 0, where a position has no entries. A term of weight 0 is not computed, so its
    infinities do not count.
    """
    entries, labels = positions.entries, positions.labels
    lse_one = found.lse if options.temperature == 1 else found.lse_one
    losses = torch.zeros_like(found.lse)
    if options.alpha > 0:
        losses = losses + options.alpha * _distilled(found, entries, options)
    if options.uses_labels and labels is not None:
        smoothing = options.label_smoothing
        hard = lse_one - (1 - smoothing) * found.label_logits
        if smoothing > 0:
            hard = hard - smoothing * found.mean
        losses = losses + (1 - options.alpha) * torch.where(labels == IGNORED_LABEL, 0.0, hard)
    if options.z_loss > 0:
        losses = losses + options.z_loss * lse_one**2
    if positions.entropy is not None:
        losses = losses - options.alpha * positions.entropy
    if positions.weights is not None:
        losses = losses * positions.weights
    return torch.where(entries.has_target, losses, 0.0)


def position_gradients(
    found: SelectLse, positions: Positions, options: LossOptions, d_losses: Tensor | None
) -> SelectLse:
    """Return the gradient of the sum of `position_losses`, weighted by `d_losses` [T], at each part of `found`.

    What autograd would give: within an operator of torch.library it records nothing, and the fused loss is one there.
    """
    entries, labels = positions.entries, positions.labels
    d = torch.ones_like(found.lse) if d_losses is None else d_losses.to(found.lse.dtype)
    d = torch.where(entries.has_target, d if positions.weights is None else d * positions.weights, 0.0)
    d_lse_one, d_mean, d_label = torch.zeros_like(d), torch.zeros_like(found.mean), torch.zeros_like(found.label_logits)
    if options.uses_labels and labels is not None:
        d_hard = (1 - options.alpha) * torch.where(labels == IGNORED_LABEL, 0.0, d)
        d_lse_one, d_label = d_hard, -(1 - options.label_smoothing) * d_hard
        if options.needs_mean:
            d_mean = -options.label_smoothing * d_hard
    if options.z_loss > 0:
        d_lse_one = d_lse_one + 2 * options.z_loss * d * (found.lse if options.temperature == 1 else found.lse_one)
    d_lse, d_selected = _distilled_gradients(found, entries, options, options.alpha * d)
    if options.temperature == 1:
        d_lse, d_lse_one = d_lse + d_lse_one, found.lse_one
    return SelectLse(d_lse, d_lse_one, d_mean, d_selected, d_label)


def log_of_tail(tail: Tensor) -> Tensor:
    """Return log(tail); below `TAIL_FLOOR` its tangent there, whose slope stays finite."""
    floor = torch.full_like(tail, TAIL_FLOOR)
    return torch.where(tail > floor, torch.maximum(tail, floor).log(), floor.log() + tail / floor - 1)


def _distilled(found: SelectLse, entries: Entries, options: LossOptions) -> Tensor:
    total = entries.sums(entries.weights)
    weighted = _weighted_sums(found.selected, entries)
    losses = total * found.lse - weighted / options.temperature
    if options.missing_mass == "tail":
        missing = (1 - total).clamp(min=0)
        losses = losses - missing * log_of_tail(1 - _kept_mass(found, entries))
    return losses


def _weighted_sums(values: Tensor, entries: Entries) -> Tensor:
    """Return the sums over each position's entries of weight * value, [T], of values [E].

    An entry of weight 0 adds nothing, also where q is 0 and its logit -inf.
    """
    if torch.compiler.is_compiling():  # fuses this itself
        return entries.sums(torch.where(entries.weights == 0, 0.0, entries.weights * values))
    sums: Tensor = _WeightedSums.apply(values, entries.weights, entries.offsets)  # type: ignore[no-untyped-call]
    return sums


class _WeightedSums(torch.autograd.Function):
    """The same with one fresh [E] tensor each way: on a CPU fresh pages are half of what entries cost."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, weights: Tensor, offsets: Tensor) -> Tensor:
        ctx.save_for_backward(weights, offsets)
        return sum_by_position((weights * values).masked_fill_(weights == 0, 0.0), offsets)

    @staticmethod
    def backward(ctx: Any, d_sums: Tensor) -> tuple[Tensor, None, None]:
        weights, offsets = ctx.saved_tensors
        d_values = torch.repeat_interleave(d_sums, offsets.diff(), output_size=len(weights))
        return d_values.mul_(weights), None, None


def _distilled_gradients(found: SelectLse, entries: Entries, options: LossOptions, d: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of `_distilled`, weighted by `d` [T], at lse [T] and at the selected logits [E]."""
    if options.alpha == 0:
        return torch.zeros_like(d), torch.zeros_like(found.selected)
    rows, total = entries.rows, entries.sums(entries.weights)
    d_lse, d_selected = d * total, d[rows] * entries.weights / -options.temperature
    if options.missing_mass == "tail":
        kept = torch.where(entries.ids >= 0, (found.selected - found.lse[rows]).exp(), 0.0)
        kept_mass = entries.sums(kept)
        # the tail is 1 - kept_mass, and the slope of its logarithm 1 / tail, or that of the tangent
        pull = d * (1 - total).clamp(min=0) / (1 - kept_mass).clamp(min=TAIL_FLOOR)
        d_lse, d_selected = d_lse - pull * kept_mass, d_selected + pull[rows] * kept
    return d_lse, d_selected


def _kept_mass(found: SelectLse, entries: Entries) -> Tensor:
    """Return the student's mass on the kept tokens of each position, [T]."""
    fixed = found.lse.detach()
    terms = torch.where(entries.ids >= 0, (found.selected - fixed[entries.rows]).exp(), 0.0)
    # the second factor is 1 and carries the gradient at lse: through the gather above it would be summed up by
    # atomics on a GPU, in another order every time
    return entries.sums(terms) * (fixed - found.lse).exp()
