"""An experiment: forward and gradient of a row in one program, to see whether the second loop reads from L2.

Not in the package: the losses need a gradient of the log-sum-exp that is known before the forward pass. Should the
second read be free, a path for scalar reductions, where it is, would save a third of the traffic.
"""

import triton
import triton.language as tl
from torch import Tensor

from logitstore.triton_kernels.configurations import RowConfiguration, on_device
from logitstore.triton_kernels.row_loops import row_sums, write_block


@triton.jit
def one_pass_kernel(
    logits,
    stride,
    d_lse,
    lse_out,
    vocab_size,
    REVERSED: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write the log-sum-exp of a row, then d_lse * softmax over the row, from its end where REVERSED."""
    row = tl.program_id(0).to(tl.int64)
    lse, _, _ = row_sums(
        logits, row, stride, 0, vocab_size, 1.4426950408889634, 0.0, False, False, False, True, VECTOR, BLOCK
    )
    tl.store(lse_out + row, lse)
    a = tl.load(d_lse + row)
    address = logits + (row * (stride // VECTOR)) * VECTOR
    blocks = tl.cdiv(vocab_size, BLOCK)
    for step in range(blocks):
        block = step
        if REVERSED:
            block = blocks - 1 - step
        columns = block * BLOCK + tl.arange(0, BLOCK)
        write_block(address, address, columns, columns < vocab_size, lse, 0.0, a, 0.0, 0.0, 1.0, 0.0, False, False)


def one_pass(logits: Tensor, d_lse: Tensor, lse: Tensor, configuration: RowConfiguration, *, from_end: bool) -> None:
    """Overwrite `logits` [T, V], V a multiple of 16, by d_lse * softmax, and `lse` [T] by the log-sum-exp."""
    with on_device(logits):
        one_pass_kernel[(len(logits),)](
            logits, logits.stride(0), d_lse, lse, logits.shape[1], REVERSED=from_end, VECTOR=16 // logits.itemsize,
            BLOCK=configuration.block, num_warps=configuration.num_warps, enable_fp_fusion=True,
        )  # fmt: skip
