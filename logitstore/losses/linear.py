"""The front door of the loss over hidden states and a head's weight, which never has all logits at once."""

# T positions, V vocabulary, D hidden width, B sequences, S positions of a sequence, N positions with a target

from __future__ import annotations

import torch
from torch import Tensor

from logitstore.errors import InvalidInput
from logitstore.losses.checks import check_is_whole, check_rows, check_values
from logitstore.losses.front import reduce_losses
from logitstore.losses.linear_chunks import ChunkedHead, LinearLosses
from logitstore.losses.linear_op import linear_losses_in_graph
from logitstore.losses.options import LossOptions, MissingMass, Reduction, Value, debug_is_on
from logitstore.losses.positions import Positions, make_positions
from logitstore.losses.select_lse_reference import statistics_dtype
from logitstore.targets import PaddedTargets, SparseTargets


def linear_sparse_kd_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: SparseTargets | PaddedTargets,
    labels: Tensor | None = None,
    alpha: float = 1.0,
    temperature: float = 1.0,
    reduction: Reduction = "mean",
    *,
    bias: Tensor | None = None,
    chunk_bytes: int | None = None,
    value: Value = "soft_cross_entropy",
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    missing_mass: MissingMass = "ignore",
    position_weights: Tensor | None = None,
    debug: bool | None = None,
) -> Tensor:
    """Return `sparse_kd_loss(hidden @ weight.T + bias, ...)` without ever having all of those logits.

    The logits are made for a chunk of positions at a time, and their gradient is written over them. For "mean" and
    "sum" the gradients of hidden states and weight are taken in the forward pass and handed over by the backward
    pass, so that a second backward raises; for "none" each backward makes the logits once more (a third more work).
    Positions without a target are left out before the first product. The weight's gradient is summed up in float32
    and rounded once; what needs no gradient (a frozen head, `torch.no_grad`) costs no product. A weight tied to the
    embedding is passed as it is. First derivatives only. In torch.compile it is one operator of the graph.

    Args:
        hidden: last hidden states, [T, D] or [B, S, D], bfloat16, float16, float32 or float64. Under autocast hidden
            states, weight and bias are cast as `torch.nn.functional.linear` does. On a CPU 16-bit products are taken
            in float32, with a copy of the weight.
        weight: of the head, [V, D], as in `torch.nn.Linear`; not a DTensor: call within the module that FSDP
            gathers, or pass `weight.full_tensor()`.
        targets: over the same T positions, as in `sparse_kd_loss`.
        labels: as there.
        alpha: as there.
        temperature: as there.
        reduction: as there.
        bias: [V], or None.
        chunk_bytes: most that a chunk's logits may take, at least one row; by default 1 GiB on a GPU, and on a CPU
            32 MiB or 256 rows, whichever is more.
        value: as in `sparse_kd_loss`.
        label_smoothing: as there.
        z_loss: as there.
        softcap: as there.
        missing_mass: as there.
        position_weights: as there.
        debug: as there.

    Returns:
        float32, or float64 for float64 hidden states; a scalar, or for "none" the leading shape of `hidden`.

    Raises:
        InvalidInput: as in `sparse_kd_loss`; hidden states, weight and bias that do not fit each other; a second
            backward for "mean" and "sum". On a GPU the host waits once a call, to learn which positions have a target.
    """
    options = LossOptions(
        alpha, temperature, reduction, value, label_smoothing, z_loss, softcap, missing_mass
    )  # fmt: skip
    options.check_labels(has_labels=labels is not None)
    check_rows("hidden", hidden, targets, labels, position_weights)
    hidden, weight, bias = _checked_head(hidden, weight, bias)
    _check_chunk_bytes(chunk_bytes)
    check_values(targets, labels, position_weights, len(weight), debug=debug_is_on(debug))
    positions = make_positions(targets, labels, position_weights, options, statistics_dtype(hidden))
    wanted = [tensor is not None and tensor.requires_grad for tensor in (hidden, weight, bias)]
    for_hidden, for_weight, for_bias = (torch.is_grad_enabled() and need for need in wanted)
    run = linear_losses_in_graph if torch.compiler.is_compiling() else _losses
    losses = run(
        hidden.flatten(0, -2), weight, bias, positions, options, chunk_bytes, (for_hidden, for_weight, for_bias)
    )
    return reduce_losses(losses, positions, options, hidden)


def _losses(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    positions: Positions,
    options: LossOptions,
    chunk_bytes: int | None,
    needs: tuple[bool, bool, bool],
) -> Tensor:
    """Return the losses [T] for "none", else their sum, a scalar."""
    kept, keep, starts = positions.with_target()
    summed = options.reduction != "none"
    chunked = ChunkedHead(kept, starts, options, chunk_bytes, summed, needs)
    rows = hidden if len(keep) == len(hidden) else hidden.index_select(0, keep)
    found: Tensor = LinearLosses.apply(rows, weight, bias, chunked)  # type: ignore[no-untyped-call]
    if summed:
        return found
    return found.new_zeros(len(hidden)).index_put((keep,), found)


def _checked_head(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return hidden, weight and bias as a linear layer would multiply them; raise InvalidInput where it could not."""
    for name, tensor, rank in (("weight", weight, 2), ("bias", bias, 1)):
        if tensor is not None:
            _check_head_tensor(name, tensor, rank, hidden)
    if weight.shape[1] != hidden.shape[-1] or len(weight) == 0:
        raise InvalidInput(
            f"weight has shape {tuple(weight.shape)}, hidden {tuple(hidden.shape)}; a weight [V, {hidden.shape[-1]}] "
            "with V of at least 1 was wanted, as torch.nn.Linear has it."
        )
    if bias is not None and len(bias) != len(weight):
        raise InvalidInput(f"bias has {len(bias)} values, weight {len(weight)} rows; one value a row was wanted.")
    device = hidden.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device) and hidden.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
        hidden, weight, bias = hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and tensor.dtype != hidden.dtype:
            raise InvalidInput(f"{name} is {tensor.dtype}, hidden {hidden.dtype}; one dtype was wanted, or autocast.")
    return hidden, weight, bias


def _check_head_tensor(name: str, tensor: Tensor, rank: int, hidden: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise InvalidInput(f"{name} is a {type(tensor).__name__}; a torch.Tensor was wanted.")
    check_is_whole(name, tensor)
    if tensor.ndim != rank:
        raise InvalidInput(
            f"{name} has shape {tuple(tensor.shape)}; {rank} dimension(s) were wanted, as torch.nn.Linear has it."
        )
    if tensor.device != hidden.device:
        raise InvalidInput(f"{name} is on {tensor.device}, hidden on {hidden.device}; move one of them.")


def _check_chunk_bytes(chunk_bytes: int | None) -> None:
    if chunk_bytes is not None and (isinstance(chunk_bytes, bool) or not isinstance(chunk_bytes, int)):
        raise InvalidInput(f"chunk_bytes is {chunk_bytes!r}; a whole number of bytes was wanted, or None.")
    if chunk_bytes is not None and chunk_bytes < 1:
        raise InvalidInput(f"chunk_bytes is {chunk_bytes}; at least 1 was wanted (one row is always allowed).")
