"""The loss of each position in plain torch over dense rows: the readable truth that faster paths are compared with."""

# T positions, V vocabulary

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from logitstore.losses.entries import Entries
from logitstore.losses.options import LossOptions
from logitstore.losses.position_losses import log_of_tail
from logitstore.losses.positions import Positions
from logitstore.losses.select_lse_reference import IGNORED_LABEL


def reference_losses(logits: Tensor, positions: Positions, options: LossOptions) -> Tensor:
    """Return the loss of each position as `sparse_kd_loss` documents it, by autograd through log_softmax.

    Args:
        logits: [T, V] floating point.
        positions: the same T, ids below V, weights in the dtype to compute in.
        options: as checked at the door.

    Returns:
        [T] in the dtype of the weights; exactly 0, with gradient exactly 0, where a position has no entries,
        whatever its logits hold (NaN included).
    """
    entries, labels = positions.entries, positions.labels
    # rows without a target are replaced before anything is computed from them: 0 * NaN would be NaN
    logits = torch.where(entries.has_target[:, None], logits.to(entries.weights.dtype), 0.0)
    if options.softcap is not None:
        logits = options.softcap * torch.tanh(logits / options.softcap)
    losses = logits.new_zeros(len(logits))
    if options.alpha > 0:
        distilled = soft_cross_entropy(logits / options.temperature, entries, tail=options.missing_mass == "tail")
        losses = losses + options.alpha * distilled
    if options.uses_labels and labels is not None:
        hard = functional.cross_entropy(
            logits, labels, reduction="none", ignore_index=IGNORED_LABEL, label_smoothing=options.label_smoothing
        )
        losses = losses + (1 - options.alpha) * hard
    if options.z_loss > 0:
        losses = losses + options.z_loss * torch.logsumexp(logits, -1) ** 2
    if positions.entropy is not None:
        losses = losses - options.alpha * positions.entropy
    if positions.weights is not None:
        losses = losses * positions.weights
    return torch.where(entries.has_target, losses, 0.0)


def soft_cross_entropy(logits: Tensor, entries: Entries, *, tail: bool = False) -> Tensor:
    """Return sum_i w_i * (lse(logits) - logits_i) over the entries of each position, [T].

    Args:
        logits: [T, V], already divided by the temperature.
        entries: of the same T positions; their weights need not sum to 1.
        tail: whether all tokens without an entry are one more, with the weight that is missing to 1.
    """
    log_q = functional.log_softmax(logits, dim=-1)
    rows, ids = entries.rows, entries.ids.long().clamp(min=0)
    # an entry of weight 0 adds nothing, also where q is 0: padding holds id 0 here, whose logit may be -inf
    terms = torch.where(entries.weights == 0, 0.0, -entries.weights * log_q[rows, ids])
    losses = logits.new_zeros(len(logits)).index_add(0, rows, terms)
    if tail:
        kept = torch.zeros_like(log_q, dtype=torch.bool)
        kept[rows[entries.ids >= 0], entries.ids[entries.ids >= 0].long()] = True
        missing = (1 - entries.sums(entries.weights)).clamp(min=0)
        losses = losses - missing * log_of_tail(log_q.exp().masked_fill(kept, 0.0).sum(-1))
    return losses
