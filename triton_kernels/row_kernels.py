"""Kernels of `select_lse`: one program per position, no atomics, so that two runs give the same bits.

What a loop counts is counted in float32: with int32 counts Triton 3.9 compiles for gfx942 as if no position had an
entry, and drops the code behind `count > 0` (seen with `bench/check_kernels.py`; the cause was not traced).
"""

# T positions, V vocabulary, E entries, s = capped logits
# ruff: noqa: ANN001, ANN201
# mypy: ignore-errors
# (this is Triton's language, which type checkers do not know)

import triton
import triton.language as tl

from logitstore.triton_kernels.row_loops import (
    capped,
    capped_slope,
    dense_gradient,
    row_body,
    row_sums,
    write_dense_gradient,
)

# strides change with every shape; only the vocabulary's divisibility is worth a compilation
_RUNTIME = ["stride", "out_stride", "lead", "out_lead"]
IGNORED_LABEL = tl.constexpr(-100)


@triton.jit
def gather_entries(
    row_logits, begin, end, ids, selected, vocab_size, softcap, SOFTCAP: tl.constexpr, ENTRY_BLOCK: tl.constexpr
):
    """Store s at each entry of a row, 0 at padding, NaN at an id beyond the vocabulary; return the entries' number."""
    entries = 0.0
    for start in range(begin, end, ENTRY_BLOCK):
        places = start + tl.arange(0, ENTRY_BLOCK)
        tokens = tl.load(ids + places, mask=places < end, other=-1)
        known = (tokens >= 0) & (tokens < vocab_size)
        s = capped(tl.load(row_logits + tokens, mask=known, other=0.0).to(tl.float32), softcap, SOFTCAP)
        s = tl.where(tokens < vocab_size, s, float("nan"))
        tl.store(selected + places, s, mask=places < end)
        entries += tl.sum((tokens >= 0).to(tl.float32), axis=0)
    return entries


@triton.jit
def count_entries(begin, end, ids, ENTRY_BLOCK: tl.constexpr):
    """Return how many places of a row are no padding, as a float32 (see the module's docstring)."""
    entries = 0.0
    for start in range(begin, end, ENTRY_BLOCK):
        places = start + tl.arange(0, ENTRY_BLOCK)
        tokens = tl.load(ids + places, mask=places < end, other=-1)
        entries += tl.sum((tokens >= 0).to(tl.float32), axis=0)
    return entries


@triton.jit
def store_label_logit(row_logits, row, label, has_entries, label_logits, vocab_size, softcap, SOFTCAP: tl.constexpr):
    """Store s at the row's label: 0 where the label is ignored or the row skipped, NaN beyond the vocabulary."""
    wanted = has_entries & (label != IGNORED_LABEL)
    known = (label >= 0) & (label < vocab_size)
    s = capped(tl.load(row_logits + label, mask=wanted & known, other=0.0).to(tl.float32), softcap, SOFTCAP)
    tl.store(label_logits + row, tl.where(wanted, tl.where(known, s, float("nan")), 0.0))


@triton.jit(do_not_specialize=_RUNTIME)
def select_lse_forward_kernel(
    logits,
    stride,
    lead,
    offsets,
    ids,
    labels,
    lse_out,
    lse_one_out,
    mean_out,
    selected,
    label_logits,
    vocab_size,
    inverse_temperature,
    softcap,
    HAS_LABELS: tl.constexpr,
    SOFTCAP: tl.constexpr,
    WITH_ONE: tl.constexpr,
    WITH_MEAN: tl.constexpr,
    ALIGNED: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK: tl.constexpr,
    ENTRY_BLOCK: tl.constexpr,
):
    """One row: gather the entries, then one pass for log-sum-exp and mean. A skipped row's logits are never read."""
    row = tl.program_id(0).to(tl.int64)
    row_logits = logits + row * stride
    begin, end = tl.load(offsets + row), tl.load(offsets + row + 1)
    entries = gather_entries(row_logits, begin, end, ids, selected, vocab_size, softcap, SOFTCAP, ENTRY_BLOCK)
    if HAS_LABELS:
        label = tl.load(labels + row)
        store_label_logit(row_logits, row, label, entries > 0, label_logits, vocab_size, softcap, SOFTCAP)
    lse, lse_one, mean = 0.0, 0.0, 0.0
    if entries > 0:
        lse, lse_one, mean = row_sums(
            logits, row, stride, lead, vocab_size, inverse_temperature * 1.4426950408889634, softcap,
            SOFTCAP, WITH_ONE, WITH_MEAN, ALIGNED, VECTOR, BLOCK,
        )  # fmt: skip
    tl.store(lse_out + row, lse)
    if WITH_ONE:
        tl.store(lse_one_out + row, lse_one)
    if WITH_MEAN:
        tl.store(mean_out + row, mean)


@triton.jit
def write_fixups(
    out_row,
    begin,
    end,
    ids,
    selected,
    d_selected,
    label,
    label_logit,
    d_label,
    lse,
    lse_one,
    a,
    b,
    c,
    vocab_size,
    inverse_temperature,
    softcap,
    HAS_LABELS: tl.constexpr,
    SOFTCAP: tl.constexpr,
    WITH_ONE: tl.constexpr,
    ENTRY_BLOCK: tl.constexpr,
):
    """Write the columns of the entries and of the label, each once and whole, from saved float32 values."""
    label_is_entry = 0.0
    for start in range(begin, end, ENTRY_BLOCK):
        places = start + tl.arange(0, ENTRY_BLOCK)
        tokens = tl.load(ids + places, mask=places < end, other=-1)
        known = (tokens >= 0) & (tokens < vocab_size)
        s = tl.load(selected + places, mask=known, other=0.0)
        gradient = dense_gradient(s, lse, lse_one, a, b, c, inverse_temperature, WITH_ONE)
        gradient += tl.load(d_selected + places, mask=known, other=0.0)
        if HAS_LABELS:
            is_label = known & (tokens == label)
            gradient += tl.where(is_label, d_label, 0.0)
            label_is_entry += tl.sum(is_label.to(tl.float32), axis=0)
        gradient *= capped_slope(s, softcap, SOFTCAP)
        tl.store(out_row + tokens, gradient.to(out_row.dtype.element_ty), mask=known)
    if HAS_LABELS:
        gradient = dense_gradient(label_logit, lse, lse_one, a, b, c, inverse_temperature, WITH_ONE) + d_label
        gradient *= capped_slope(label_logit, softcap, SOFTCAP)
        wanted = (label >= 0) & (label < vocab_size) & (label_is_entry == 0)
        tl.store(out_row + label, gradient.to(out_row.dtype.element_ty), mask=wanted)


@triton.jit
def write_zeros(
    out, row, out_stride, lead, vocab_size, ALIGNED: tl.constexpr, VECTOR: tl.constexpr, BLOCK: tl.constexpr
):
    """Write zeros over a row; `lead` and ALIGNED are those of `out`."""
    body, head = row_body(out, row, out_stride, lead, ALIGNED, VECTOR)
    length = vocab_size
    if not ALIGNED:
        head = tl.minimum(head, vocab_size)
        length = vocab_size - head
        nothing = tl.zeros([VECTOR], dtype=out.dtype.element_ty)
        tl.store(out + row * out_stride + tl.arange(0, VECTOR), nothing, mask=tl.arange(0, VECTOR) < head)
    zeros = tl.zeros([BLOCK], dtype=out.dtype.element_ty)
    whole = length // BLOCK * BLOCK
    for start in range(0, whole, BLOCK):
        tl.store(body + start + tl.arange(0, BLOCK), zeros)
    if whole < length:
        tl.store(body + whole + tl.arange(0, BLOCK), zeros, mask=whole + tl.arange(0, BLOCK) < length)


@triton.jit(do_not_specialize=_RUNTIME)
def select_lse_backward_kernel(
    logits,
    stride,
    out,
    out_stride,
    lead,
    out_lead,
    offsets,
    ids,
    labels,
    lse_in,
    lse_one_in,
    selected,
    label_logits,
    d_lse,
    d_lse_one,
    d_mean,
    d_selected,
    d_label_logits,
    vocab_size,
    inverse_temperature,
    softcap,
    HAS_LABELS: tl.constexpr,
    SOFTCAP: tl.constexpr,
    WITH_ONE: tl.constexpr,
    WITH_MEAN: tl.constexpr,
    ALIGNED: tl.constexpr,
    OUT_ALIGNED: tl.constexpr,
    SAME_PHASE: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK: tl.constexpr,
    ENTRY_BLOCK: tl.constexpr,
):
    """One row: write the dense gradient, then, behind a barrier, the columns of the entries and the label."""
    row = tl.program_id(0).to(tl.int64)
    out_row = out + row * out_stride
    begin, end = tl.load(offsets + row), tl.load(offsets + row + 1)
    lse = tl.load(lse_in + row)
    a = tl.load(d_lse + row) * inverse_temperature
    lse_one, b, c = 0.0, 0.0, 0.0
    if WITH_ONE:
        lse_one, b = tl.load(lse_one_in + row), tl.load(d_lse_one + row)
    if WITH_MEAN:
        c = tl.load(d_mean + row) / vocab_size
    label, label_logit, d_label = -1, 0.0, 0.0
    if HAS_LABELS:
        label = tl.load(labels + row)
        label_logit, d_label = tl.load(label_logits + row), tl.load(d_label_logits + row)
    if count_entries(begin, end, ids, ENTRY_BLOCK) > 0:
        write_dense_gradient(
            logits, out, row, stride, out_stride, lead, vocab_size, lse, lse_one, a, b, c, inverse_temperature,
            softcap, SOFTCAP, WITH_ONE, ALIGNED, SAME_PHASE, VECTOR, BLOCK,
        )  # fmt: skip
        # another thread may have written the dense value of an entry's column: it must come first
        tl.debug_barrier()
        write_fixups(
            out_row, begin, end, ids, selected, d_selected, label, label_logit, d_label, lse, lse_one, a, b, c,
            vocab_size, inverse_temperature, softcap, HAS_LABELS, SOFTCAP, WITH_ONE, ENTRY_BLOCK,
        )  # fmt: skip
    else:
        write_zeros(out, row, out_stride, out_lead, vocab_size, OUT_ALIGNED, VECTOR, BLOCK)
