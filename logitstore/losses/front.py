"""The front door of the losses: checks, the choice of weights, and the reduction."""

# T positions, V vocabulary, B sequences, S positions of a sequence

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from logitstore.losses.checks import check_entropy, check_options, check_tensors
from logitstore.losses.entries import flatten_entries, temper_and_renormalise
from logitstore.losses.reference import position_losses
from logitstore.losses.temperature import needs_tempering
from logitstore.targets import PaddedTargets, SparseTargets


def sparse_kd_loss(
    student_logits: Tensor,
    targets: SparseTargets | PaddedTargets,
    labels: Tensor | None = None,
    alpha: float = 1.0,
    temperature: float = 1.0,
    reduction: Literal["none", "sum", "mean"] = "mean",
    *,
    value: Literal["soft_cross_entropy", "kl"] = "soft_cross_entropy",
) -> Tensor:
    """Return the distillation loss of student logits against sparse targets, mixed with that of hard labels.

    Each position with a target has the loss alpha * KD + (1 - alpha) * CE. KD is the soft cross-entropy
    sum_i w_i * (lse(z / temperature) - z_i / temperature) over the position's entries, whose weights need not sum
    to 1, and CE the cross-entropy of its label at temperature 1, 0 where the label is -100. A position without
    entries (masked, padding) has no target: its loss and its gradient are exactly 0, the label's included, and
    whatever its logits hold.

    KD is not multiplied by temperature^2; docs/decisions/0003-no-temperature-squared.md says how to have that. A
    temperature other than 1 needs targets captured at it (teacher temperature), and such targets need it. Only
    top-k and top-p targets captured at 1 are tempered here: w^(1/temperature), renormalised over the kept entries.

    Args:
        student_logits: [T, V] or [B, S, V] (then T = B * S), bfloat16, float16, float32 or float64. Computed in
            float32, float64 in float64. Not shifted: the row of position t predicts tokens[t + 1].
        targets: over the same T positions, on the same device; in padded form id -1 is padding.
        labels: int64, [T] or [B, S], already shifted: the label of position t is tokens[t + 1]; -100 is ignored.
        alpha: weight of the targets, in [0, 1]; below 1 labels are needed.
        temperature: of the KD term, above 0.
        reduction: "none", "sum" or "mean". The mean is the sum of both terms divided by the number of positions
            that have entries, the same number for both, also where labels are -100; without such positions it is 0.
        value: "soft_cross_entropy", or "kl", which subtracts the teacher's entropy from KD. With unbiased targets
            that estimates the true forward KL (one position's estimate may be negative); top-k and top-p lack the
            tail's part. The gradient is the same.

    Returns:
        float32, or float64 for float64 logits; a scalar, or for "none" the leading shape of `student_logits`.

    Raises:
        InvalidInput: shapes, dtypes, devices or options that do not fit; a temperature the targets are not valid at;
            "kl" without teacher_entropy, or at a temperature where the weights are tempered here. Ids, offsets and
            labels out of range are found on the CPU only, as looking at them would stall a GPU.
    """
    check_options(alpha, temperature, reduction, value, has_labels=labels is not None)
    check_tensors(student_logits, targets, labels)
    tempered = needs_tempering(targets, temperature)
    entropy = check_entropy(targets, tempered=tempered) if value == "kl" else None

    dtype = torch.float64 if student_logits.dtype == torch.float64 else torch.float32
    entries = flatten_entries(targets, dtype)
    if tempered:
        entries = temper_and_renormalise(entries, temperature)
    flat_labels = None if labels is None else labels.flatten()
    losses = position_losses(student_logits.flatten(0, -2), entries, flat_labels, alpha=alpha, temperature=temperature)
    if entropy is not None:
        losses = losses - alpha * torch.where(entries.has_target, entropy.to(dtype), 0.0)
    if reduction == "none":
        return losses.view(student_logits.shape[:-1])
    if reduction == "sum":
        return losses.sum()
    return losses.sum() / entries.has_target.sum().clamp(min=1)
