"""The loss of each position in plain torch: the readable truth that faster paths are compared with."""

# T positions, V vocabulary, E entries

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from logitstore.losses.entries import Entries

#: a position with this label has no hard-label term
IGNORED_LABEL = -100


def position_losses(
    logits: Tensor, entries: Entries, labels: Tensor | None, *, alpha: float, temperature: float
) -> Tensor:
    """Return alpha * soft cross-entropy + (1 - alpha) * hard-label cross-entropy of each position.

    The gradient of the first term is (sum of w * q - w) / temperature, with q the softmax of logits / temperature;
    the second is taken at temperature 1.

    Args:
        logits: [T, V] floating point.
        entries: of the same T positions, ids below V, weights in the dtype to compute in.
        labels: [T] int64, -100 where there is none; may be None if alpha is 1.
        alpha: in [0, 1]; a term of weight 0 is not computed, so its infinities do not count.
        temperature: above 0.

    Returns:
        [T] in the dtype of the weights; exactly 0, with gradient exactly 0, where a position has no entries,
        whatever its logits hold (NaN included).
    """
    # rows without a target are replaced before anything is computed from them: 0 * NaN would be NaN
    logits = torch.where(entries.has_target[:, None], logits.to(entries.weights.dtype), 0.0)
    losses = logits.new_zeros(len(logits))
    if alpha > 0:
        losses = losses + alpha * soft_cross_entropy(logits / temperature, entries)
    if alpha < 1 and labels is not None:
        labels = torch.where(entries.has_target, labels, IGNORED_LABEL)
        hard = functional.cross_entropy(logits, labels, reduction="none", ignore_index=IGNORED_LABEL)
        losses = losses + (1 - alpha) * hard
    return losses


def soft_cross_entropy(logits: Tensor, entries: Entries) -> Tensor:
    """Return sum_i w_i * (lse(logits) - logits_i) over the entries of each position, [T].

    Args:
        logits: [T, V], already divided by the temperature.
        entries: of the same T positions; their weights need not sum to 1.
    """
    log_q = functional.log_softmax(logits, dim=-1)[entries.rows, entries.ids]
    # an entry of weight 0 adds nothing, also where q is 0: padding holds id 0, whose logit may be -inf
    terms = torch.where(entries.weights == 0, 0.0, -entries.weights * log_q)
    return logits.new_zeros(len(logits)).index_add(0, entries.rows, terms)
