"""The losses of a language-model head without its logits: chunks of positions, the gradient taken on the way."""

# N positions (all with a target), V vocabulary, D hidden width, R positions of a chunk, n of this chunk

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from logitstore.errors import InvalidInput
from logitstore.losses.huge_pages import empty_in_huge_pages
from logitstore.losses.options import LossOptions
from logitstore.losses.position_losses import position_gradients, position_losses
from logitstore.losses.positions import Positions
from logitstore.losses.select_lse import path_for, refuse_second_order
from logitstore.losses.select_lse_reference import SelectLse, statistics_dtype

_GPU_CHUNK_BYTES = 2**30
_CPU_CHUNK_BYTES = 2**25
#: with fewer rows the matrix products wait for the weight to come from memory: 45 instead of 57 GFLOP/s at 128 rows
_CPU_CHUNK_ROWS = 256


@dataclass(frozen=True)
class Head:
    """A linear head in the dtype its products are taken in.

    Attributes:
        weight: [V, D].
        bias: [V], or None.
    """

    weight: Tensor
    bias: Tensor | None

    def logits(self, hidden: Tensor, out: Tensor) -> Tensor:
        """Write the logits of hidden [n, D] into `out` [n, V]."""
        if self.bias is None:
            return torch.mm(hidden, self.weight.t(), out=out)
        return torch.addmm(self.bias, hidden, self.weight.t(), out=out)


@dataclass
class Gradients:
    """Gradients of the sum of the losses, None where not needed: hidden [N, D], weight [V, D] and bias [V] fp32."""

    hidden: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    is_empty: bool = True

    def add(self, rows: slice, grad: Tensor, hidden: Tensor, head: Head) -> None:
        """Add the part of the positions `rows`, whose gradient at the logits is `grad` [n, V]."""
        if self.hidden is not None:
            torch.mm(grad, head.weight, out=self.hidden[rows])
        if self.weight is not None:
            _add_product(self.weight, grad.t(), hidden, beta=0 if self.is_empty else 1)
        if self.bias is not None:
            self.bias += grad.sum(0, dtype=self.bias.dtype)
        self.is_empty = False


@dataclass(frozen=True)
class ChunkedHead:
    """How the losses of one call are computed.

    Attributes:
        positions: N, all with a target.
        starts: where the entries of each begin.
        options: of the loss.
        chunk_bytes: most that a chunk of logits may take; None for the default.
        summed: whether the sum of the losses is wanted, whose gradient can be taken in the forward pass.
        needs: whether hidden, weight and bias need a gradient; all False where nothing is recorded.
    """

    positions: Positions
    starts: list[int]
    options: LossOptions
    chunk_bytes: int | None
    summed: bool
    needs: tuple[bool, bool, bool]

    def run(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, d_losses: Tensor | None, *, gradient: bool
    ) -> tuple[Tensor, Gradients]:
        """Return the losses [N] and, if asked for, the gradients of their sum, weighted by `d_losses` [N]."""
        rows, head = hidden, Head(weight, bias)
        if _is_widened(hidden):
            rows, head = hidden.float(), _widened(weight, bias)
        losses = rows.new_empty(len(rows), dtype=statistics_dtype(rows))
        gradients = _new_gradients(rows, head, self.needs if gradient else (False, False, False))
        for part, positions, buffer in self._chunks(rows, head):
            logits = head.logits(rows[part], out=buffer)
            weights = None if d_losses is None else d_losses[part]
            losses[part] = self._losses(logits, positions, weights, gradient=gradient)
            if gradient:
                gradients.add(part, logits, rows[part], head)
        return losses, gradients

    def _losses(self, logits: Tensor, positions: Positions, d_losses: Tensor | None, *, gradient: bool) -> Tensor:
        """Return the losses of one chunk; `logits` become their gradient where one is wanted."""
        options, path = self.options, path_for(logits)
        entries = positions.entries.offsets, positions.entries.ids, positions.labels
        cut = options.temperature, options.softcap_or_0
        found = SelectLse(*path.forward(logits, *entries, *cut, options.needs_mean))
        losses = position_losses(found, positions, options)
        if gradient:
            saved = found.lse, found.lse_one, found.selected, found.label_logits
            grads = position_gradients(found, positions, options, d_losses)
            in_order = grads.lse, grads.lse_one, grads.mean, grads.selected, grads.label_logits
            path.backward(logits, *entries, *cut, *saved, *in_order, out=logits)
        return losses

    def _chunks(self, hidden: Tensor, head: Head) -> Iterator[tuple[slice, Positions, Tensor]]:
        """Give each chunk's positions, what belongs to them, and memory for their logits, [n, V], always the same."""
        num_positions, vocab_size = len(hidden), len(head.weight)
        size = self._chunk_rows(hidden, vocab_size)
        buffer = _buffer(size, vocab_size, hidden)
        bounds = [*self.starts[::size], len(self.positions.entries.ids)]
        for index, start in enumerate(range(0, num_positions, size)):
            stop = min(start + size, num_positions)
            positions = self.positions.part(start, stop, bounds[index], bounds[index + 1])
            yield slice(start, stop), positions, buffer[: stop - start]

    def _chunk_rows(self, hidden: Tensor, vocab_size: int) -> int:
        row_bytes = vocab_size * hidden.itemsize
        if self.chunk_bytes is not None:
            most = self.chunk_bytes // row_bytes
        elif hidden.device.type == "cpu":
            most = max(_CPU_CHUNK_ROWS, _CPU_CHUNK_BYTES // row_bytes)
        else:
            most = _GPU_CHUNK_BYTES // row_bytes
        # chunks of one size: a last one of few rows would cost another pass over the weight's gradient for little
        num_chunks = max(1, -(-len(hidden) // max(1, most)))
        return max(1, -(-len(hidden) // num_chunks))


class LinearLosses(torch.autograd.Function):
    """The losses [N], or their sum, of hidden [N, D], weight [V, D] and bias [V]; how is said by a `ChunkedHead`."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, chunked: ChunkedHead) -> Tensor:
        ctx.chunked, ctx.weight_dtype = chunked, weight.dtype
        in_forward = chunked.summed and any(chunked.needs)
        # the caller has cast by now, and the products of 16-bit matrices on a CPU must not be cast back
        with without_autocast(hidden.device.type):
            losses, gradients = chunked.run(hidden, weight, bias, None, gradient=in_forward)
        if in_forward:
            ctx.gradients = gradients
        else:
            ctx.save_for_backward(hidden, weight, bias)
        return losses.sum() if chunked.summed else losses

    @staticmethod
    def backward(ctx: Any, d_losses: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        refuse_second_order()
        if ctx.chunked.summed:
            gradients, ctx.gradients = ctx.gradients, None
            if gradients is None:
                raise InvalidInput(
                    "a second backward through linear_sparse_kd_loss: its gradients were handed over by the first. "
                    'Call it again, or use reduction="none", which computes them in each backward.'
                )
            scale: Tensor | None = d_losses
        else:
            _, gradients = ctx.chunked.run(*ctx.saved_tensors, d_losses, gradient=True)
            scale = None
        dtype = ctx.weight_dtype
        return (
            _scaled(gradients.hidden, scale, dtype),
            _scaled(gradients.weight, scale, dtype),
            _scaled(gradients.bias, scale, dtype),
            None,
        )


def without_autocast(device: str) -> AbstractContextManager[object]:
    """Return a context without autocast on this type of device."""
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def gradient_dtypes(hidden: Tensor) -> tuple[torch.dtype, torch.dtype, torch.dtype]:
    """Return the dtypes in which the gradients at these hidden states, weight and bias are summed up."""
    wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    return torch.float32 if _is_widened(hidden) else hidden.dtype, wide, wide


def _is_widened(hidden: Tensor) -> bool:
    # CPUs multiply 16-bit matrices slowly, and sum up in 16 bits; elsewhere the products stay in 16 bits
    return hidden.device.type == "cpu" and hidden.itemsize < 4


def _new_gradients(hidden: Tensor, head: Head, needs: tuple[bool, bool, bool]) -> Gradients:
    wide = gradient_dtypes(hidden)[1]
    for_hidden, for_weight, for_bias = needs
    # without positions nothing will be written into them
    new_weight = torch.empty_like if len(hidden) else torch.zeros_like
    return Gradients(
        torch.empty_like(hidden, memory_format=torch.contiguous_format) if for_hidden else None,
        new_weight(head.weight, dtype=wide, memory_format=torch.contiguous_format) if for_weight else None,
        hidden.new_zeros(len(head.weight), dtype=wide) if for_bias else None,
    )


def _widened(weight: Tensor, bias: Tensor | None) -> Head:
    return Head(weight.float(), None if bias is None else bias.float())


def _buffer(num_rows: int, vocab_size: int, like: Tensor) -> Tensor:
    if like.device.type == "cpu":
        return empty_in_huge_pages(torch.Size((num_rows, vocab_size)), like.dtype)
    # rows begin at multiples of 16 bytes, which the kernels need for wide loads
    stride = -(-vocab_size // 8) * 8
    return like.new_empty(num_rows, stride)[:, :vocab_size]


def _add_product(total: Tensor, left: Tensor, right: Tensor, *, beta: int) -> None:
    """Make `total` beta * total + left @ right, summed up in the dtype of `total`; with beta 0 it may hold anything."""
    if left.dtype == total.dtype:
        total.addmm_(left, right, beta=beta)
    elif total.device.type == "cuda":
        torch.ops.aten.addmm.dtype_out(total, left, right, total.dtype, beta=beta, out=total)
    elif beta:
        total += left @ right
    else:
        total.copy_(left @ right)


def _scaled(grad: Tensor | None, scale: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    if grad is None:
        return None
    return (grad if scale is None else grad.mul_(scale)).to(dtype)
