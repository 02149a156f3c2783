"""`select_lse` and its gradient in plain torch: the readable truth, and the path of devices without a kernel."""

# T positions, V vocabulary, E entries (CSR; id -1 is padding)

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

#: a position with this label has no hard-label term
IGNORED_LABEL = -100


class SelectLse(NamedTuple):
    """What the losses need to know of the logits z; s = softcap * tanh(z / softcap), or z without a softcap.

    A position without entries is *skipped*: its logits are never looked at, and it holds 0 throughout.

    Attributes:
        lse: log sum exp(s / temperature), [T].
        lse_one: log sum exp(s), [T]; empty, [0], at temperature 1, where it is `lse`.
        mean: mean of s over the vocabulary, [T]; [0] unless asked for.
        selected: s at the ids, [E]; 0 at padding.
        label_logits: s at the label, [T]; 0 where it is ignored; [0] without labels.
    """

    lse: Tensor
    lse_one: Tensor
    mean: Tensor
    selected: Tensor
    label_logits: Tensor


def statistics_dtype(logits: Tensor) -> torch.dtype:
    """Return the dtype of `SelectLse` for these logits.

    On the CPU it is float64: [T] and [E] values cost nothing beside [T, V], and lse - z then does not cancel. On other
    devices it is float32, but for float64 logits.
    """
    return torch.float64 if logits.dtype == torch.float64 or logits.device.type == "cpu" else torch.float32


def entry_rows(offsets: Tensor, num_entries: int) -> Tensor:
    """Return the position of each entry, [E] int64; nothing here waits for a GPU."""
    positions = torch.arange(len(offsets) - 1, device=offsets.device)
    return torch.repeat_interleave(positions, offsets.diff(), output_size=num_entries)


def has_entries(offsets: Tensor, ids: Tensor) -> Tensor:
    """Return which positions have an entry that is not padding, [T] bool."""
    return sum_by_position((ids >= 0).float(), offsets) > 0


def sum_by_position(values: Tensor, offsets: Tensor) -> Tensor:
    """Return the sum of each position's values, [T], of values [E]: the same bits in every run, on a GPU too."""
    # unsafe leaves out checks that would wait for a GPU; the losses check offsets at their door
    return torch.segment_reduce(values, "sum", offsets=offsets, unsafe=True, initial=0)


def select_lse_reference(
    logits: Tensor,
    offsets: Tensor,
    ids: Tensor,
    labels: Tensor | None,
    temperature: float,
    softcap: float,
    with_mean: bool,
) -> SelectLse:
    """Return `SelectLse` of logits [T, V]; differentiable by autograd where `logits` are.

    Args:
        logits: [T, V] floating point, any strides.
        offsets: [T + 1] int64, from 0 to E.
        ids: [E] int32, below V; -1 is padding. Repeated ids add up.
        labels: [T] int64, -100 is ignored; or None.
        temperature: above 0.
        softcap: above 0, or 0 for none.
        with_mean: whether `mean` is wanted.
    """
    dtype = statistics_dtype(logits)
    valid = has_entries(offsets, ids)
    # skipped rows are replaced before anything is computed from them: 0 * NaN would be NaN
    values = _capped(torch.where(valid[:, None], logits.to(dtype), 0.0), softcap)
    none = values.new_empty(0)
    selected = values[entry_rows(offsets, len(ids)), ids.long().clamp(min=0)]
    return SelectLse(
        lse=torch.where(valid, torch.logsumexp(values / temperature, -1), 0.0),
        lse_one=none if temperature == 1 else torch.where(valid, torch.logsumexp(values, -1), 0.0),
        mean=torch.where(valid, values.mean(-1), 0.0) if with_mean else none,
        selected=torch.where(ids >= 0, selected, 0.0),
        label_logits=none if labels is None else _label_logits(values, labels, valid),
    )


def select_lse_backward_reference(
    logits: Tensor,
    offsets: Tensor,
    ids: Tensor,
    labels: Tensor | None,
    temperature: float,
    softcap: float,
    lse: Tensor,
    lse_one: Tensor,
    selected: Tensor,
    label_logits: Tensor,
    d_lse: Tensor,
    d_lse_one: Tensor,
    d_mean: Tensor,
    d_selected: Tensor,
    d_label: Tensor,
    out: Tensor | None = None,
) -> Tensor:
    """Return the gradient at the logits, [T, V] in their dtype; written into `out` (may be `logits`) where given.

    (ds/dz) * (d_lse / temperature * softmax(s / temperature) + d_lse_one * softmax(s) + d_mean / V, plus d_selected at
    the ids and d_label at the label). Exactly 0 in skipped rows.
    """
    dtype = lse.dtype
    valid = has_entries(offsets, ids)[:, None]
    values = _capped(torch.where(valid, logits.to(dtype), 0.0), softcap)
    grad = (d_lse / temperature)[:, None] * torch.exp(values / temperature - lse[:, None])
    if temperature != 1:
        grad = grad + d_lse_one[:, None] * torch.exp(values - lse_one[:, None])
    if len(d_mean):
        grad = grad + d_mean[:, None] / logits.shape[-1]
    rows = entry_rows(offsets, len(ids))
    at_ids = torch.where(ids >= 0, d_selected, 0.0)
    grad = grad.index_put((rows, ids.long().clamp(min=0)), at_ids, accumulate=True)
    if labels is not None:
        at_label = torch.where(labels != IGNORED_LABEL, d_label, 0.0)[:, None]
        grad = grad.scatter_add(1, labels.clamp(min=0)[:, None], at_label)
    if softcap:
        grad = grad * (1 - (values / softcap) ** 2)
    grad = torch.where(valid, grad, 0.0).to(logits.dtype)
    return grad if out is None else out.copy_(grad)


def _capped(values: Tensor, softcap: float) -> Tensor:
    return softcap * torch.tanh(values / softcap) if softcap else values


def _label_logits(values: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    at_label = values.gather(1, labels.clamp(min=0)[:, None])[:, 0]
    return torch.where(valid & (labels != IGNORED_LABEL), at_label, 0.0)
