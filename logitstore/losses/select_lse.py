"""`select_lse` as a custom operator: which path serves a device, shapes for the compiler, and the gradient."""

# T positions, V vocabulary, E entries (CSR; id -1 is padding)

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from logitstore.errors import InvalidInput
from logitstore.losses.select_lse_cpu import select_lse_backward_cpu, select_lse_cpu
from logitstore.losses.select_lse_reference import (
    SelectLse,
    select_lse_backward_reference,
    select_lse_reference,
    statistics_dtype,
)


class _Path(NamedTuple):
    """One way to compute the primitive; both functions have the signatures of the reference."""

    forward: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]
    backward: Callable[..., Tensor]


_REFERENCE = _Path(select_lse_reference, select_lse_backward_reference)
_CPU = _Path(select_lse_cpu, select_lse_backward_cpu)


def select_lse(
    logits: Tensor,
    offsets: Tensor,
    ids: Tensor,
    labels: Tensor | None = None,
    *,
    temperature: float = 1.0,
    softcap: float = 0.0,
    with_mean: bool = False,
) -> SelectLse:
    """Return the log-sum-exp of each position and its logits at the ids: all that a sparse loss needs of logits.

    Any loss of these values has the gradient `d_lse * softmax + d_selected at the ids`, so that this one function and
    its gradient carry them all. The second-order gradient is refused. Offsets and ids are trusted here; the losses
    check them at their door.

    Args:
        logits: [T, V] bfloat16, float16, float32 or float64; on a GPU columns that do not lie side by side are copied.
        offsets: [T + 1] int64, from 0 to E.
        ids: [E] int32, below V, unique within a position (on the CPU repeated ones add up); -1 is padding.
        labels: [T] int64, -100 is ignored; or None.
        temperature: above 0.
        softcap: above 0, or 0 for none.
        with_mean: whether the mean over the vocabulary is wanted.

    Returns:
        `SelectLse`; float64 on the CPU and for float64 logits, else float32.
    """
    return SelectLse(*_select_lse(logits, offsets, ids, labels, float(temperature), float(softcap), with_mean))


def path_for(logits: Tensor) -> _Path:
    """Return the path that serves these logits: CPU, Triton, or the reference."""
    if logits.device.type == "cpu":
        return _CPU
    if logits.device.type == "cuda" and logits.dtype != torch.float64:
        return _triton_path() or _REFERENCE
    return _REFERENCE


def refuse_second_order(*, always: bool = False) -> None:
    """Raise InvalidInput in a backward pass that is to be differentiated again (create_graph=True), or always."""
    if always or torch.is_grad_enabled():
        raise InvalidInput(
            "a gradient of the gradient of a sparse loss was asked for (create_graph=True, gradient penalty); only "
            "first derivatives are implemented. The dense loss of torch has the others."
        )


@cache
def _triton_path() -> _Path | None:
    try:
        kernels: Any = importlib.import_module("logitstore.triton_kernels.select_lse")
    except ModuleNotFoundError as missing:
        if (missing.name or "").split(".")[0] != "triton":
            raise
        return None
    return _Path(kernels.select_lse_forward, kernels.select_lse_backward)


@torch.library.custom_op(
    "logitstore::select_lse",
    mutates_args=(),
    schema="(Tensor logits, Tensor offsets, Tensor ids, Tensor? labels, float temperature, float softcap, "
    "bool with_mean) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _select_lse(logits: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    lse, lse_one, mean, selected, label_logits = path_for(logits).forward(logits, *arguments)
    return lse, lse_one, mean, selected, label_logits


@torch.library.custom_op(
    "logitstore::select_lse_backward",
    mutates_args=(),
    schema="(Tensor logits, Tensor offsets, Tensor ids, Tensor? labels, float temperature, float softcap, "
    "Tensor lse, Tensor lse_one, Tensor selected, Tensor label_logits, Tensor d_lse, Tensor d_lse_one, "
    "Tensor d_mean, Tensor d_selected, Tensor d_label) -> Tensor",
)
def _select_lse_backward(logits: Tensor, *arguments: Any) -> Tensor:
    return path_for(logits).backward(logits, *arguments)


@_select_lse.register_fake
def _(
    logits: Tensor,
    offsets: Tensor,
    ids: Tensor,
    labels: Tensor | None,
    temperature: float,
    softcap: float,
    with_mean: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    def empty(length: int) -> Tensor:
        return logits.new_empty(length, dtype=statistics_dtype(logits))

    num_positions = logits.shape[0]
    return (
        empty(num_positions),
        empty(0 if temperature == 1 else num_positions),
        empty(num_positions if with_mean else 0),
        empty(ids.shape[0]),
        empty(0 if labels is None else num_positions),
    )


@_select_lse_backward.register_fake
def _(logits: Tensor, *arguments: Any) -> Tensor:
    return torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    logits, offsets, ids, labels, temperature, softcap, _ = inputs
    lse, lse_one, _, selected, label_logits = output
    ctx.save_for_backward(logits, offsets, ids, labels, lse, lse_one, selected, label_logits)
    ctx.options = temperature, softcap


def _backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
    d_lse, d_lse_one, d_mean, d_selected, d_label = gradients
    logits, offsets, ids, labels, *statistics = ctx.saved_tensors
    grad = _select_lse_backward(
        logits, offsets, ids, labels, *ctx.options, *statistics, d_lse, d_lse_one, d_mean, d_selected, d_label
    )
    return grad, None, None, None, None, None, None


_select_lse.register_autograd(_backward, setup_context=_save_for_backward)
_select_lse_backward.register_autograd(lambda ctx, *gradients: refuse_second_order(always=True))
