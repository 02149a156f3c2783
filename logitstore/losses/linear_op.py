"""The fused loss as one operator: what torch.compile takes into its graph, where its chunks could not be traced."""

# T positions, V vocabulary, D hidden width, E entries, N positions with a target

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from logitstore.losses.entries import Entries
from logitstore.losses.linear_chunks import ChunkedHead, Gradients, gradient_dtypes, without_autocast
from logitstore.losses.options import LossOptions
from logitstore.losses.positions import Positions
from logitstore.losses.select_lse import refuse_second_order
from logitstore.losses.select_lse_reference import statistics_dtype

_ARGUMENTS = (
    "Tensor hidden, Tensor weight, Tensor? bias, Tensor offsets, Tensor ids, Tensor weights, Tensor has_target, "
    "Tensor? labels, Tensor? entropy, Tensor? position_weights, int width, float alpha, float temperature, "
    "str reduction, float label_smoothing, float z_loss, float softcap, str missing_mass, int chunk_bytes, bool[] needs"
)
#: hidden, weight and bias come first, and alone have a gradient
_NO_GRADIENT = (None,) * (_ARGUMENTS.count(",") - 2)


def linear_losses_in_graph(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    positions: Positions,
    options: LossOptions,
    chunk_bytes: int | None,
    needs: tuple[bool, bool, bool],
) -> Tensor:
    """Return the losses [T] for "none", else their sum, a scalar: the same bits as outside of a graph.

    For "mean" and "sum" the gradients are outputs that the graph keeps until its backward pass, which scales them into
    new memory.
    """
    entries = positions.entries
    found: Tensor = _linear_losses(
        hidden, weight, bias, entries.offsets, entries.ids, entries.weights, entries.has_target, positions.labels,
        positions.entropy, positions.weights, -1 if entries.width is None else entries.width, float(options.alpha),
        float(options.temperature), options.reduction, float(options.label_smoothing), float(options.z_loss),
        options.softcap_or_0, options.missing_mass, -1 if chunk_bytes is None else chunk_bytes, list(needs),
    )[0]  # fmt: skip
    return found


def _chunked(arguments: tuple[Any, ...]) -> tuple[ChunkedHead, Tensor]:
    """Return how to compute what the operators' arguments from `offsets` on ask for, and the positions kept, [N]."""
    offsets, ids, weights, has_target, labels, entropy, position_weights, width, *rest = arguments
    alpha, temperature, reduction, label_smoothing, z_loss, softcap, missing_mass, chunk_bytes, needs = rest
    entries = Entries(offsets, ids, weights, has_target, None if width < 0 else width)
    kept, keep, starts = Positions(entries, labels, entropy, position_weights).with_target()
    options = LossOptions(
        alpha,
        temperature,
        reduction,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
        softcap=softcap or None,
        missing_mass=missing_mass,
    )
    most = None if chunk_bytes < 0 else chunk_bytes
    return ChunkedHead(kept, starts, options, most, reduction != "none", tuple(needs)), keep


def _whole(gradients: Gradients, keep: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients, that of the hidden states with all its rows, and [0] where there is none."""
    for_hidden = gradients.hidden
    if for_hidden is not None and len(keep) < len(hidden):
        for_hidden = for_hidden.new_zeros(hidden.shape).index_copy_(0, keep, for_hidden)
    found = for_hidden, gradients.weight, gradients.bias
    empty = (hidden.new_empty(0, dtype=dtype) for dtype in gradient_dtypes(hidden))
    for_hidden, for_weight, for_bias = (none if grad is None else grad for grad, none in zip(found, empty, strict=True))
    return for_hidden, for_weight, for_bias


@torch.library.custom_op(
    "logitstore::linear_losses", mutates_args=(), schema=f"({_ARGUMENTS}) -> (Tensor, Tensor, Tensor, Tensor)"
)
def _linear_losses(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, *arguments: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    chunked, keep = _chunked(arguments)
    rows = hidden.index_select(0, keep)
    with without_autocast(hidden.device.type):
        losses, gradients = chunked.run(rows, weight, bias, None, gradient=chunked.summed and any(chunked.needs))
    if chunked.summed:
        return losses.sum(), *_whole(gradients, keep, hidden)
    return losses.new_zeros(len(hidden)).index_copy_(0, keep, losses), *_whole(gradients, keep, hidden)


@torch.library.custom_op(
    "logitstore::linear_losses_backward",
    mutates_args=(),
    schema=f"({_ARGUMENTS}, Tensor d_losses) -> (Tensor, Tensor, Tensor)",
)
def _linear_losses_backward(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, *arguments: Any
) -> tuple[Tensor, Tensor, Tensor]:
    *arguments_before, d_losses = arguments
    chunked, keep = _chunked(tuple(arguments_before))
    rows, d_kept = hidden.index_select(0, keep), d_losses.index_select(0, keep)
    with without_autocast(hidden.device.type):
        _, gradients = chunked.run(rows, weight, bias, d_kept, gradient=True)
    return _whole(gradients, keep, hidden)


def _empty_gradients(hidden: Tensor, weight: Tensor, needs: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
    shapes = hidden.shape, weight.shape, weight.shape[:1]
    for_hidden, for_weight, for_bias = (
        hidden.new_empty(shape if need else (0,), dtype=dtype)
        for shape, dtype, need in zip(shapes, gradient_dtypes(hidden), needs, strict=True)
    )
    return for_hidden, for_weight, for_bias


@_linear_losses.register_fake
def _(hidden: Tensor, weight: Tensor, bias: Tensor | None, *arguments: Any) -> tuple[Tensor, ...]:
    summed, needs = arguments[10] != "none", arguments[-1]
    losses = hidden.new_empty(() if summed else hidden.shape[:1], dtype=statistics_dtype(hidden))
    return losses, *_empty_gradients(hidden, weight, needs if summed else [False] * 3)


@_linear_losses_backward.register_fake
def _(hidden: Tensor, weight: Tensor, bias: Tensor | None, *arguments: Any) -> tuple[Tensor, ...]:
    return _empty_gradients(hidden, weight, arguments[-2])


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    # the gradients are outputs to the operator only: no one asks for a gradient at them
    ctx.set_materialize_grads(False)
    ctx.options, ctx.dtype = inputs[10:], inputs[1].dtype
    ctx.summed, ctx.needs = inputs[13] != "none", inputs[-1]
    ctx.save_for_backward(*(output[1:] if ctx.summed else inputs[:10]))


def _backward(ctx: Any, d_losses: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if ctx.summed:
        gradients = tuple(grad * d_losses for grad in ctx.saved_tensors)
    else:
        gradients = _linear_losses_backward(*ctx.saved_tensors, *ctx.options, d_losses)
    wanted = (grad.to(ctx.dtype) if need else None for grad, need in zip(gradients, ctx.needs, strict=True))
    return *wanted, *_NO_GRADIENT


_linear_losses.register_autograd(_backward, setup_context=_save_for_backward)
_linear_losses_backward.register_autograd(lambda ctx, *gradients: refuse_second_order(always=True))
