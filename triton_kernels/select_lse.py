"""Launchers of the primitive `select_lse` and of its gradient; the mathematics is in `logitstore.losses`."""

# T positions, V vocabulary, E entries (CSR), s = softcap * tanh(logits / softcap), or the logits

from __future__ import annotations

import torch
from torch import Tensor

from logitstore.triton_kernels.configurations import (
    DTYPES,
    RowAlignment,
    RowConfiguration,
    on_device,
    row_configuration,
    serves,
)
from logitstore.triton_kernels.row_kernels import select_lse_backward_kernel, select_lse_forward_kernel

#: entries taken at a time; a position rarely has more
ENTRY_BLOCK = 128


def select_lse_forward(
    logits: Tensor,
    offsets: Tensor,
    ids: Tensor,
    labels: Tensor | None,
    temperature: float,
    softcap: float,
    with_mean: bool,
    *,
    configuration: RowConfiguration | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return log-sum-exp, mean and gathered logits of each position, all float32, in one pass over the logits.

    Two runs give the same bits. Logits are read in 128-bit accesses whatever the row stride; where rows do not start
    on 16-byte boundaries (row stride no multiple of 8 bfloat16 or 4 float32) their two ends are read element by
    element. Another column stride than 1 costs a copy.

    Args:
        logits: [T, V] bfloat16, float16 or float32 on a GPU.
        offsets: [T + 1] int64, contiguous; position t has the entries offsets[t]:offsets[t + 1].
        ids: [E] int32, contiguous, unique within a position; negative ones are padding.
        labels: [T] int64, -100 is ignored; or None.
        temperature: above 0.
        softcap: 0 for none.
        with_mean: whether the mean over the vocabulary is wanted.
        configuration: block and warps; by default those of `row_configuration(V)`.

    Returns:
        lse [T], log sum exp(s / temperature); lse_one [T], log sum exp(s), [0] where temperature is 1; mean [T] of s,
        [0] unless wanted; selected [E], s at the ids, 0 at padding; label_logits [T], s at the label, 0 where
        ignored, [0] without labels. A position without entries has 0 throughout and its logits are not read. An id
        or label beyond the vocabulary, which no one can check here without a wait, comes out as NaN.

    Raises:
        ValueError: logits that the kernels do not serve, or whose shape does not fit the offsets.
    """
    _check(logits, offsets)
    rows = _with_unit_columns(logits)
    num_rows, vocab_size = rows.shape
    with_one = temperature != 1.0
    lse = rows.new_empty(num_rows, dtype=torch.float32)
    lse_one = lse.new_empty(num_rows if with_one else 0)
    mean = lse.new_empty(num_rows if with_mean else 0)
    selected = lse.new_empty(len(ids))
    label_logits = lse.new_empty(0 if labels is None else num_rows)
    if num_rows:
        alignment = RowAlignment.of(rows)
        chosen = configuration or row_configuration(vocab_size)
        with on_device(rows):
            select_lse_forward_kernel[(num_rows,)](
                rows, rows.stride(0), alignment.lead, offsets, ids, offsets if labels is None else labels.contiguous(),
                lse, lse_one, mean, selected, label_logits, vocab_size, 1.0 / temperature, float(softcap),
                HAS_LABELS=labels is not None, SOFTCAP=softcap != 0, WITH_ONE=with_one, WITH_MEAN=with_mean,
                ALIGNED=alignment.aligned, VECTOR=alignment.vector, BLOCK=chosen.block, ENTRY_BLOCK=ENTRY_BLOCK,
                num_warps=chosen.num_warps, enable_fp_fusion=True,
            )  # fmt: skip
    return lse, lse_one, mean, selected, label_logits


def select_lse_backward(
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
    *,
    configuration: RowConfiguration | None = None,
) -> Tensor:
    """Return the gradient with respect to the logits, [T, V] in their dtype, rounded once from float32.

    Two runs give the same bits. Every element is written: a position without entries gets zeros, and the column of an
    entry or label is written whole from float32 values. Row strides: see `select_lse_forward`; besides, where `out` and
    `logits` do not start their rows equally far from a 16-byte boundary, `out` is written element by element.

    Args:
        logits: what the forward pass was given.
        offsets: the same.
        ids: the same.
        labels: the same.
        temperature: the same.
        softcap: the same.
        lse: what the forward pass returned.
        lse_one: the same.
        selected: the same.
        label_logits: the same.
        d_lse: gradient of lse, [T] float32.
        d_lse_one: of lse_one, [T], or [0] where that is [0].
        d_mean: of mean, [T], or [0] where that is [0].
        d_selected: of selected, [E].
        d_label: of label_logits, [T], or [0] where that is [0].
        out: [T, V] in the dtype of `logits`, which it may be itself; allocated contiguous by default.
        configuration: block and warps; by default those of `row_configuration(V)`.

    Raises:
        ValueError: logits that the kernels do not serve, or an `out` of another shape or dtype.
    """
    _check(logits, offsets)
    if out is None:
        out = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
    elif out.shape != logits.shape or out.dtype != logits.dtype:
        raise ValueError(f"out is {out.dtype} {tuple(out.shape)}; {logits.dtype} {tuple(logits.shape)} was wanted.")
    rows, target = _with_unit_columns(logits), _with_unit_columns(out)
    num_rows, vocab_size = rows.shape
    if num_rows:
        alignment, out_alignment = RowAlignment.of(rows), RowAlignment.of(target)
        chosen = configuration or row_configuration(vocab_size)
        has_labels = labels is not None
        with on_device(rows):
            select_lse_backward_kernel[(num_rows,)](
                rows, rows.stride(0), target, target.stride(0), alignment.lead, out_alignment.lead,
                offsets, ids, labels.contiguous() if labels is not None else offsets,
                lse, lse_one, selected, label_logits, d_lse.contiguous(), d_lse_one.contiguous(), d_mean.contiguous(),
                d_selected.contiguous(), d_label.contiguous(), vocab_size, 1.0 / temperature, float(softcap),
                HAS_LABELS=has_labels, SOFTCAP=softcap != 0, WITH_ONE=len(lse_one) > 0, WITH_MEAN=len(d_mean) > 0,
                ALIGNED=alignment.aligned, OUT_ALIGNED=out_alignment.aligned,
                SAME_PHASE=out_alignment == alignment, VECTOR=alignment.vector, BLOCK=chosen.block, ENTRY_BLOCK=ENTRY_BLOCK, num_warps=chosen.num_warps, enable_fp_fusion=True,
            )  # fmt: skip
    return out if target is out else out.copy_(target)


def _check(logits: Tensor, offsets: Tensor) -> None:
    if logits.ndim != 2 or logits.shape[1] < 1 or not serves(logits):
        wanted = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        raise ValueError(
            f"logits are {logits.dtype} {tuple(logits.shape)} on {logits.device}; the kernels take {wanted} [T, V] on "
            "a GPU. logitstore.sparse_kd_loss takes the others too."
        )
    if offsets.shape != (len(logits) + 1,):
        raise ValueError(f"offsets have shape {tuple(offsets.shape)}; [{len(logits) + 1}] was wanted.")


def _with_unit_columns(rows: Tensor) -> Tensor:
    return rows if rows.shape[1] == 1 or rows.stride(1) == 1 else rows.contiguous()
