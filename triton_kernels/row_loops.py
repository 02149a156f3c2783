"""What the row kernels share, as device functions: one program walks one row of logits, block by block.

A row is walked in three parts: a head of fewer than VECTOR elements up to the first 16-byte boundary (none where all
rows are aligned), whole blocks without a mask, and a masked tail. So whole blocks move in 128-bit accesses whatever the
row stride, also for contiguous rows of an odd vocabulary.
"""

# V vocabulary, s = capped logits
# ruff: noqa: ANN001, ANN201, RET505
# mypy: ignore-errors
# (this is Triton's language, which type checkers do not know)

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def tanh(x):
    """The hyperbolic tangent to a few float32 ulps; near 0 by its series, where the other form would cancel."""
    square = x * x
    series = -0.05396825396825397 + square * 0.021869488536155202
    series = -0.3333333333333333 + square * (0.13333333333333333 + square * series)
    far = 1.0 - 2.0 / (1.0 + tl.exp2(x * (2.0 * LOG2E)))
    return tl.where(tl.abs(x) < 0.3, x + x * square * series, far)


@triton.jit
def capped(z, softcap, SOFTCAP: tl.constexpr):
    """Return softcap * tanh(z / softcap), or z where there is no softcap."""
    if SOFTCAP:
        return softcap * tanh(z / softcap)
    else:
        return z


@triton.jit
def capped_slope(s, softcap, SOFTCAP: tl.constexpr):
    """Return ds/dz from s itself, so that a gradient needs no saved z."""
    if SOFTCAP:
        ratio = s / softcap
        return 1.0 - ratio * ratio
    else:
        return 1.0


@triton.jit
def row_body(base, row, stride, lead, ALIGNED: tl.constexpr, VECTOR: tl.constexpr):
    """Return the row's first 16-byte aligned address and how many elements lie before it.

    `lead` is how many elements `base` lies past a 16-byte boundary. The arithmetic is written so that the compiler sees
    the alignment.
    """
    if ALIGNED:
        return base + (row * (stride // VECTOR)) * VECTOR, 0
    else:
        first = row * stride + lead
        start = ((first + (VECTOR - 1)) // VECTOR) * VECTOR
        return tl.multiple_of(base - lead, 16) + start, (start - first).to(tl.int32)


@triton.jit
def add_block(s, inside, top, tempered, plain, total, scale, WITH_ONE: tl.constexpr, WITH_MEAN: tl.constexpr):
    """Fold one block into the running maximum, the two sums of exponentials relative to it, and the sum of s.

    `s` is -inf outside of the row; `inside` is the mask of what is inside, or None for a whole block. `top` is -inf at
    first; `tempered` sums exp(s / temperature), `plain` exp(s), both relative to `top`; `scale` is log2(e) / temperature.
    """
    new_top = tl.maximum(top, tl.max(s, axis=0))
    # an infinite maximum cannot be subtracted
    reference = tl.where(tl.abs(new_top) == float("inf"), 0.0, new_top)
    distance = s - reference
    tempered = tempered * tl.exp2((top - reference) * scale) + tl.sum(tl.exp2(distance * scale), axis=0)
    if WITH_ONE:
        plain = plain * tl.exp2((top - reference) * LOG2E) + tl.sum(tl.exp2(distance * LOG2E), axis=0)
    if WITH_MEAN:
        if inside is None:
            total += tl.sum(s, axis=0)
        else:
            total += tl.sum(tl.where(inside, s, 0.0), axis=0)
    return new_top, tempered, plain, total


@triton.jit
def load_block(address, columns, length, softcap, SOFTCAP: tl.constexpr):
    """Return capped logits of a block that ends beyond the row, -inf there, and the mask of what is inside."""
    inside = columns < length
    z = tl.load(address + columns, mask=inside, other=float("-inf")).to(tl.float32)
    return tl.where(inside, capped(z, softcap, SOFTCAP), float("-inf")), inside


@triton.jit
def row_sums(
    logits,
    row,
    stride,
    lead,
    vocab_size,
    scale,
    softcap,
    SOFTCAP: tl.constexpr,
    WITH_ONE: tl.constexpr,
    WITH_MEAN: tl.constexpr,
    ALIGNED: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Return log sum exp(s / temperature), log sum exp(s) and the mean of s of one row, in one pass."""
    body, head = row_body(logits, row, stride, lead, ALIGNED, VECTOR)
    top = float("-inf")
    tempered, plain, total = 0.0, 0.0, 0.0
    length = vocab_size
    if not ALIGNED:
        head = tl.minimum(head, vocab_size)
        length = vocab_size - head
        first, inside = load_block(logits + row * stride, tl.arange(0, VECTOR), head, softcap, SOFTCAP)
        top, tempered, plain, total = add_block(first, inside, top, tempered, plain, total, scale, WITH_ONE, WITH_MEAN)
    whole = length // BLOCK * BLOCK
    for start in range(0, whole, BLOCK):
        z = tl.load(body + start + tl.arange(0, BLOCK)).to(tl.float32)
        s = capped(z, softcap, SOFTCAP)
        top, tempered, plain, total = add_block(s, None, top, tempered, plain, total, scale, WITH_ONE, WITH_MEAN)
    if whole < length:
        last, within = load_block(body, whole + tl.arange(0, BLOCK), length, softcap, SOFTCAP)
        top, tempered, plain, total = add_block(last, within, top, tempered, plain, total, scale, WITH_ONE, WITH_MEAN)
    reference = tl.where(tl.abs(top) == float("inf"), 0.0, top)
    # rescaling sums to an infinite maximum may have made 0 * inf of them
    lse = tl.where(top == float("inf"), top, reference * (scale * LN2) + tl.log2(tempered) * LN2)
    lse_one = 0.0
    if WITH_ONE:
        lse_one = tl.where(top == float("inf"), top, reference + tl.log2(plain) * LN2)
    return lse, lse_one, total / vocab_size


@triton.jit
def dense_gradient(s, lse, lse_one, a, b, c, inverse_temperature, WITH_ONE: tl.constexpr):
    """Return d/ds of everything but the entries and the label: a * softmax(s / temperature) + b * softmax(s) + c."""
    gradient = a * tl.exp2((s * inverse_temperature - lse) * LOG2E) + c
    if WITH_ONE:
        gradient += b * tl.exp2((s - lse_one) * LOG2E)
    return gradient


@triton.jit
def write_block(
    source,
    target,
    columns,
    inside,
    lse,
    lse_one,
    a,
    b,
    c,
    inverse_temperature,
    softcap,
    SOFTCAP: tl.constexpr,
    WITH_ONE: tl.constexpr,
):
    """Read a block of logits and write its dense gradient; `inside` is a mask, or None for a whole block."""
    s = capped(tl.load(source + columns, mask=inside).to(tl.float32), softcap, SOFTCAP)
    gradient = dense_gradient(s, lse, lse_one, a, b, c, inverse_temperature, WITH_ONE)
    gradient *= capped_slope(s, softcap, SOFTCAP)
    tl.store(target + columns, gradient.to(target.dtype.element_ty), mask=inside)


@triton.jit
def write_dense_gradient(
    logits,
    out,
    row,
    stride,
    out_stride,
    lead,
    vocab_size,
    lse,
    lse_one,
    a,
    b,
    c,
    inverse_temperature,
    softcap,
    SOFTCAP: tl.constexpr,
    WITH_ONE: tl.constexpr,
    ALIGNED: tl.constexpr,
    SAME_PHASE: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write the dense gradient of one row. SAME_PHASE: a column of `out` is aligned where that of `logits` is."""
    body, head = row_body(logits, row, stride, lead, ALIGNED, VECTOR)
    if SAME_PHASE:
        out_body, _ = row_body(out, row, out_stride, lead, ALIGNED, VECTOR)
    else:
        out_body = out + row * out_stride + head
    length = vocab_size
    if not ALIGNED:
        head = tl.minimum(head, vocab_size)
        length = vocab_size - head
        write_block(
            logits + row * stride, out + row * out_stride, tl.arange(0, VECTOR), tl.arange(0, VECTOR) < head,
            lse, lse_one, a, b, c, inverse_temperature, softcap, SOFTCAP, WITH_ONE,
        )  # fmt: skip
    whole = length // BLOCK * BLOCK
    for start in range(0, whole, BLOCK):
        write_block(
            body, out_body, start + tl.arange(0, BLOCK), None,
            lse, lse_one, a, b, c, inverse_temperature, softcap, SOFTCAP, WITH_ONE,
        )  # fmt: skip
    if whole < length:
        columns = whole + tl.arange(0, BLOCK)
        write_block(
            body, out_body, columns, columns < length,
            lse, lse_one, a, b, c, inverse_temperature, softcap, SOFTCAP, WITH_ONE,
        )  # fmt: skip
