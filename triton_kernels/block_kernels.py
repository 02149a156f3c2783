"""Kernels of the samplers: rows of teacher logits seen as blocks of 128 columns, without their probabilities.

A token's *key* orders a row by logit, and equal logits by id, the lower one in front: it is unique, so that everything
that goes by keys is exact and does not depend on the order in which anything runs.
"""

# R rows, V vocabulary, B blocks of columns, C chosen blocks, n targets
# ruff: noqa: ANN001, ANN201, SIM108
# mypy: ignore-errors
# (this is Triton's language, which type checkers do not know)

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
#: the key of what is no token: below every other
NO_KEY = tl.constexpr(-0x7FFFFFFFFFFFFFFF)
_RUNTIME = ["stride"]


@triton.jit
def finite_or_zero(top):
    """What to subtract from logits whose largest is `top`: an infinite maximum cannot be subtracted."""
    return tl.where(tl.abs(top) == float("inf"), 0.0, top)


@triton.jit
def row_address(logits, row, stride, ALIGNED: tl.constexpr, VECTOR: tl.constexpr):
    """Return a row's first address, written so that the compiler sees an aligned one."""
    if ALIGNED:
        start = (row * (stride // VECTOR)) * VECTOR
    else:
        start = row * stride
    return logits + start


@triton.jit
def add_tile(z, places, known, tops_out, sums_out, top, total, power, BLOCKS: tl.constexpr):
    """Store the maximum and the sum of some blocks, and fold them into those of the row.

    `z` [BLOCKS, 128] is -inf beyond the row; a block's sum is relative to its maximum, the row's to `top`.
    """
    tops = tl.max(z, axis=1)
    scale = power * LOG2E
    sums = tl.sum(tl.exp2((z - finite_or_zero(tops)[:, None]) * scale), axis=1)
    tl.store(tops_out + places, tops, mask=known)
    tl.store(sums_out + places, sums, mask=known)
    new_top = tl.maximum(top, tl.max(tops, axis=0))
    reference = finite_or_zero(new_top)
    added = tl.sum(tl.where(sums == 0.0, 0.0, sums * tl.exp2((tops - reference) * scale)), axis=0)
    return new_top, total * tl.exp2((top - reference) * scale) + added


@triton.jit(do_not_specialize=_RUNTIME)
def block_statistics_kernel(
    logits,
    stride,
    block_tops,
    block_sums,
    row_tops,
    row_sums,
    vocab_size,
    num_blocks,
    power,
    ALIGNED: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCKS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """One row, one pass: maximum and sum of exp(power * (z - maximum)) of each block and of the row."""
    row = tl.program_id(0).to(tl.int64)
    address = row_address(logits, row, stride, ALIGNED, VECTOR)
    tops_out, sums_out = block_tops + row * num_blocks, block_sums + row * num_blocks
    block = tl.arange(0, BLOCKS)
    columns = block[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    top, total = float("-inf"), 0.0
    whole = vocab_size // (BLOCKS * WIDTH)
    for tile in range(whole):
        z = tl.load(address + tile * (BLOCKS * WIDTH) + columns).to(tl.float32)
        places = tile * BLOCKS + block
        top, total = add_tile(z, places, places < num_blocks, tops_out, sums_out, top, total, power, BLOCKS)
    if whole * (BLOCKS * WIDTH) < vocab_size:
        last = whole * (BLOCKS * WIDTH) + columns
        rest = tl.load(address + last, mask=last < vocab_size, other=float("-inf")).to(tl.float32)
        places = whole * BLOCKS + block
        top, total = add_tile(rest, places, places < num_blocks, tops_out, sums_out, top, total, power, BLOCKS)
    tl.store(row_tops + row, top)
    # rescaling to an infinite maximum may have made 0 * inf of the sum
    tl.store(row_sums + row, tl.where(top == float("inf"), float("inf"), total))


@triton.jit
def probability_unit(tops, row_top, row_sum, power):
    """Return what a block's relative sum is to be multiplied by to become a probability, in float64."""
    distance = (tops - finite_or_zero(row_top)).to(tl.float64) * power
    return tl.exp(distance) / row_sum.to(tl.float64)


@triton.jit
def block_masses_kernel(block_tops, block_sums, row_tops, row_sums, masses, num_blocks, power, BLOCKS: tl.constexpr):
    """Write the probability of each block, float64."""
    row = tl.program_id(0).to(tl.int64)
    row_top, row_sum = tl.load(row_tops + row), tl.load(row_sums + row)
    block = tl.program_id(1) * BLOCKS + tl.arange(0, BLOCKS)
    known = block < num_blocks
    places = row * num_blocks + block
    tops = tl.load(block_tops + places, mask=known, other=0.0)
    sums = tl.load(block_sums + places, mask=known, other=0.0).to(tl.float64)
    tl.store(masses + places, sums * probability_unit(tops, row_top, row_sum, power), mask=known)


@triton.jit
def load_chosen(address, block, columns, known, vocab_size, WIDTH: tl.constexpr):
    """Return logits [n, 128] of chosen blocks [n], -inf beyond the row, and the token ids there."""
    tokens = block[:, None] * WIDTH + columns[None, :]
    inside = known[:, None] & (tokens < vocab_size)
    return tl.load(address + tokens, mask=inside, other=float("-inf")).to(tl.float32), tokens, inside


@triton.jit
def token_keys(z, tokens, inside):
    """Return the int64 key of each token: 32 bits that order as the logit does, then the id, reversed."""
    # + 0.0 makes one zero of -0.0 and 0.0, which are equal
    bits = (z + 0.0).to(tl.int32, bitcast=True)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    keys = (ordered.to(tl.int64) << 32) + (0x7FFFFFFF - tokens.to(tl.int64))
    return tl.where(inside, keys, NO_KEY)


@triton.jit(do_not_specialize=_RUNTIME)
def keys_kernel(logits, stride, chosen, keys, vocab_size, num_chosen, CHOSEN: tl.constexpr, WIDTH: tl.constexpr):
    """Write the keys of all tokens of the chosen blocks [R, C]: [R, C, 128] int64."""
    row = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * CHOSEN + tl.arange(0, CHOSEN)
    known = place < num_chosen
    block = tl.load(chosen + row * num_chosen + place, mask=known, other=0)
    columns = tl.arange(0, WIDTH)
    z, tokens, inside = load_chosen(logits + row * stride, block, columns, known, vocab_size, WIDTH)
    target = keys + (row * num_chosen + place)[:, None] * WIDTH + columns[None, :]
    tl.store(target, token_keys(z, tokens, inside), mask=known[:, None])


@triton.jit
def remaining_exponentials(z, tokens, inside, tops, cutoff, power):
    """Return exp(power * (z - top of the block)), 0 for tokens whose key reaches the row's cutoff."""
    left_out = token_keys(z, tokens, inside) >= cutoff
    exponentials = tl.exp2((z - finite_or_zero(tops)[:, None]) * (power * LOG2E))
    return tl.where(inside & (left_out == 0), exponentials, 0.0)


@triton.jit(do_not_specialize=_RUNTIME)
def remaining_masses_kernel(
    logits,
    stride,
    chosen,
    cutoffs,
    block_tops,
    row_tops,
    row_sums,
    masses,
    vocab_size,
    num_blocks,
    num_chosen,
    power,
    CHOSEN: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Overwrite the probability of the chosen blocks by that of their tokens below the cutoff.

    A block may be chosen twice: both write the same value.
    """
    row = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * CHOSEN + tl.arange(0, CHOSEN)
    known = place < num_chosen
    block = tl.load(chosen + row * num_chosen + place, mask=known, other=0)
    z, tokens, inside = load_chosen(logits + row * stride, block, tl.arange(0, WIDTH), known, vocab_size, WIDTH)
    tops = tl.load(block_tops + row * num_blocks + block, mask=known, other=0.0)
    left = remaining_exponentials(z, tokens, inside, tops, tl.load(cutoffs + row), power)
    unit = probability_unit(tops, tl.load(row_tops + row), tl.load(row_sums + row), power)
    tl.store(masses + row * num_blocks + block, tl.sum(left, axis=1).to(tl.float64) * unit, mask=known)


@triton.jit(do_not_specialize=_RUNTIME)
def invert_blocks_kernel(
    logits,
    stride,
    chosen,
    rests,
    cutoffs,
    block_tops,
    row_tops,
    row_sums,
    ids,
    vocab_size,
    num_blocks,
    num_targets,
    power,
    CHOSEN: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Find, in the block chosen for each target, the first token at which the cumulative mass exceeds the rest.

    Sums are float64, in id order. A rest beyond the block's mass, which rounding may cause, ends at its last token
    that has mass.
    """
    row = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * CHOSEN + tl.arange(0, CHOSEN)
    known = place < num_targets
    block = tl.load(chosen + row * num_targets + place, mask=known, other=0)
    columns = tl.arange(0, WIDTH)
    z, tokens, inside = load_chosen(logits + row * stride, block, columns, known, vocab_size, WIDTH)
    tops = tl.load(block_tops + row * num_blocks + block, mask=known, other=0.0)
    left = remaining_exponentials(z, tokens, inside, tops, tl.load(cutoffs + row), power)
    unit = probability_unit(tops, tl.load(row_tops + row), tl.load(row_sums + row), power)
    rest = tl.load(rests + row * num_targets + place, mask=known, other=0.0) / unit
    ends = tl.cumsum(left.to(tl.float64), axis=1)
    passed = tl.sum((ends <= rest[:, None]).to(tl.int32), axis=1)
    last = tl.max(tl.where(left > 0.0, columns[None, :], 0), axis=1)
    tl.store(ids + row * num_targets + place, block * WIDTH + tl.minimum(passed, last), mask=known)
