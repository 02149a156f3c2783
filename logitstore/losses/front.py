"""The front door of the losses over logits: checks, the primitive, and the reduction."""

# T positions, V vocabulary, B sequences, S positions of a sequence

from __future__ import annotations

import torch
from torch import Tensor

from logitstore.losses.checks import check_rows, check_values
from logitstore.losses.options import LossOptions, MissingMass, Reduction, Value, debug_is_on
from logitstore.losses.position_losses import position_losses
from logitstore.losses.positions import Positions, make_positions
from logitstore.losses.select_lse import select_lse
from logitstore.losses.select_lse_reference import statistics_dtype
from logitstore.targets import PaddedTargets, SparseTargets


def sparse_kd_loss(
    student_logits: Tensor,
    targets: SparseTargets | PaddedTargets,
    labels: Tensor | None = None,
    alpha: float = 1.0,
    temperature: float = 1.0,
    reduction: Reduction = "mean",
    *,
    value: Value = "soft_cross_entropy",
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    missing_mass: MissingMass = "ignore",
    position_weights: Tensor | None = None,
    debug: bool | None = None,
) -> Tensor:
    """Return the distillation loss of student logits against sparse targets, mixed with that of hard labels.

    Each position with a target has the loss alpha * KD + (1 - alpha) * CE + z_loss * lse(z)^2. KD is the soft
    cross-entropy sum_i w_i * (lse(z / temperature) - z_i / temperature) over the position's entries, whose weights
    need not sum to 1, and CE the cross-entropy of its label at temperature 1, 0 where the label is -100. A position
    without entries (masked, padding) has no target: its loss and its gradient are exactly 0, the label's included,
    and whatever its logits hold. All terms are had in one pass over the logits and their gradient in another, with
    no [T, V] memory but the gradient. First derivatives only.

    KD is not multiplied by temperature^2; docs/decisions/0003-no-temperature-squared.md says how to have that. A
    temperature other than 1 needs targets captured at it (teacher temperature), and such targets need it. Only
    top-k and top-p targets captured at 1 are tempered here: w^(1/temperature), renormalised over the kept entries.

    Args:
        student_logits: [T, V] or [B, S, V] (then T = B * S), bfloat16, float16, float32 or float64. Computed in
            float32, float64 in float64. Not shifted: the row of position t predicts tokens[t + 1].
        targets: over the same T positions, on the same device; in padded form id -1 is padding. Ids are unique within
            a position.
        labels: int64, [T] or [B, S], already shifted: the label of position t is tokens[t + 1]; -100 is ignored.
        alpha: weight of the targets, in [0, 1]; below 1 labels are needed.
        temperature: of the KD term, above 0.
        reduction: "none", "sum" or "mean". The mean is the sum of all terms divided by the number of positions
            that have entries, the same number for all, also where labels are -100 and whatever `position_weights`
            hold; without such positions it is 0.
        value: "soft_cross_entropy", or "kl", which subtracts the teacher's entropy from KD. With unbiased targets
            that estimates the true forward KL (one position's estimate may be negative); top-k and top-p lack the
            tail's part. The gradient is the same.
        label_smoothing: share of CE that goes to the uniform distribution over V, as in torch's cross_entropy.
        z_loss: weight of the squared log-sum-exp, which keeps logits from drifting; not scaled by alpha.
        softcap: logits become softcap * tanh(logits / softcap) before all else; None for none.
        missing_mass: for top-k and top-p, whose weights sum to less than 1. "ignore" uses them as they are;
            "renormalise" divides by their sum; "tail" makes all tokens that were not kept one more entry, with the
            missing mass as its weight (temperature 1 only). Where the student's mass there is below 1e-4 its
            logarithm is replaced by the tangent.
        position_weights: a constant factor for each position's loss, floating, [T] or [B, S].
        debug: whether to look for repeated ids too, and at values on a GPU, which waits for it. None takes the
            environment variable LOGITSTORE_DEBUG.

    Returns:
        float32, or float64 for float64 logits; a scalar, or for "none" the leading shape of `student_logits`.

    Raises:
        InvalidInput: shapes, dtypes, devices or options that do not fit; a temperature or a treatment of missing mass
            the targets are not valid with; "kl" without teacher_entropy, or where the weights are changed here. Ids,
            offsets, weights and labels out of range are found on the CPU, outside torch.compile, or in debug mode.
    """
    options = LossOptions(
        alpha, temperature, reduction, value, label_smoothing, z_loss, softcap, missing_mass
    )  # fmt: skip
    options.check_labels(has_labels=labels is not None)
    check_rows("student_logits", student_logits, targets, labels, position_weights)
    check_values(targets, labels, position_weights, student_logits.shape[-1], debug=debug_is_on(debug))
    dtype = statistics_dtype(student_logits)
    positions = make_positions(targets, labels, position_weights, options, dtype)
    losses = logit_losses(student_logits.flatten(0, -2), positions, options)
    return reduce_losses(losses, positions, options, student_logits)


def logit_losses(logits: Tensor, positions: Positions, options: LossOptions) -> Tensor:
    """Return the loss of each position, [T], of logits [T, V]; nothing is checked."""
    found = select_lse(
        logits,
        positions.entries.offsets,
        positions.entries.ids,
        positions.labels,
        temperature=options.temperature,
        softcap=options.softcap_or_0,
        with_mean=options.needs_mean,
    )
    return position_losses(found, positions, options)


def reduce_losses(losses: Tensor, positions: Positions, options: LossOptions, rows: Tensor) -> Tensor:
    """Return losses [T] reduced, in float32 unless `rows` are float64; for "none" in the leading shape of `rows`."""
    dtype = torch.float64 if rows.dtype == torch.float64 else torch.float32
    if options.reduction == "none":
        return losses.to(dtype).view(rows.shape[:-1])
    total = losses.sum()
    return (total if options.reduction == "sum" else total / positions.num_targets).to(dtype)
