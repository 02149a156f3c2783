"""What the losses refuse, each with its own message, before anything is computed."""

# T positions, V vocabulary, B sequences, S positions of a sequence

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor

from logitstore.errors import InvalidInput
from logitstore.losses.select_lse_reference import IGNORED_LABEL
from logitstore.targets import PAD_ID, PaddedTargets, SparseTargets, check_ids

_LOGIT_DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


def check_rows(
    name: str,
    rows: Tensor,
    targets: SparseTargets | PaddedTargets,
    labels: Tensor | None,
    position_weights: Tensor | None,
) -> None:
    """Raise InvalidInput where shapes, dtypes or devices do not fit each other.

    `rows`, [T, ...] or [B, S, ...], has one for each position; `name` is what the caller calls them: student_logits,
    local_logits or hidden.
    """
    _check_row_tensor(name, rows)
    if not isinstance(targets, SparseTargets | PaddedTargets):
        raise InvalidInput(f"targets are a {type(targets).__name__}; SparseTargets or PaddedTargets were wanted.")
    _check_same_device(name, targets, rows)
    num_positions = rows.shape[:-1].numel()
    if targets.num_positions != num_positions:
        raise InvalidInput(
            f"targets have {targets.num_positions} positions, {name} {num_positions} (shape {tuple(rows.shape)}); "
            "there must be one target for each row. Neither is shifted: the target of position t belongs to the "
            f"{name} at t."
        )
    if labels is not None:
        _check_by_position("labels", labels, name, rows)
        if labels.dtype != torch.int64:
            raise InvalidInput(f"labels are {labels.dtype}; torch.int64 was wanted: labels.long().")
    if position_weights is not None:
        _check_by_position("position_weights", position_weights, name, rows)
        if not position_weights.dtype.is_floating_point:
            raise InvalidInput(
                f"position_weights are {position_weights.dtype}; a floating dtype was wanted: position_weights.float()."
            )


def check_values(
    targets: SparseTargets | PaddedTargets,
    labels: Tensor | None,
    position_weights: Tensor | None,
    vocab_size: int,
    *,
    debug: bool,
) -> None:
    """Raise InvalidInput where ids, offsets, weights or labels hold what they must not.

    On a GPU looking at values would make the host wait for the device in every step, and a compiler cannot look at
    them at all: there they are checked in debug mode only, or not. Repeated ids are looked for in debug mode only.
    """
    if torch.compiler.is_compiling() or targets.ids.device.type == "meta":
        return
    if targets.ids.device.type != "cpu" and not debug:
        return
    _check_entries(targets, vocab_size)
    if debug:
        _check_ids_are_unique(targets)
    if labels is not None:
        _check_label_range(labels, vocab_size)
    if position_weights is not None and not bool(position_weights.isfinite().all()):
        raise InvalidInput("position_weights hold NaN or an infinity; finite factors were wanted, 0 to leave one out.")


def check_is_whole(name: str, tensor: Tensor) -> None:
    """Raise InvalidInput where a tensor is a DTensor, a part of which lies on each rank."""
    if hasattr(tensor, "full_tensor"):
        raise InvalidInput(
            f"{name}: a DTensor, of which each rank holds a part, where a plain tensor was wanted. Pass "
            f"{name}.full_tensor(), or call the loss within the module that FSDP gathers; for logits split by "
            "vocabulary there is logitstore.losses.vocab_parallel_sparse_kd_loss, which takes logits.to_local()."
        )


def check_entropy(targets: SparseTargets | PaddedTargets, *, tempered: bool) -> Tensor:
    """Return the teacher's entropy of each position, [T]; raise InvalidInput where a KL cannot be had from it."""
    if targets.teacher_entropy is None:
        raise InvalidInput(
            'value is "kl" but the targets carry no teacher_entropy, without which only the cross-entropy is known; '
            'use value="soft_cross_entropy" (the gradient is the same), or a store built with the entropy.'
        )
    if tempered:
        raise InvalidInput(
            'value is "kl", but at this temperature the kept weights are tempered and renormalised, and '
            "teacher_entropy belongs to the full teacher at teacher temperature "
            f'{targets.teacher_temperature:g}; use value="soft_cross_entropy" (the gradient is the same).'
        )
    return targets.teacher_entropy


def _check_row_tensor(name: str, rows: Tensor) -> None:
    width = "V" if name.endswith("logits") else "D"
    if not isinstance(rows, Tensor):
        raise InvalidInput(f"{name} are a {type(rows).__name__}; a torch.Tensor was wanted.")
    check_is_whole(name, rows)
    if rows.ndim not in (2, 3):
        raise InvalidInput(
            f"{name} have shape {tuple(rows.shape)}; [T, {width}] or [B, S, {width}] was wanted, a row for each "
            "position."
        )
    if rows.dtype not in _LOGIT_DTYPES:
        raise InvalidInput(f"{name} are {rows.dtype}; bfloat16, float16, float32 or float64 was wanted.")
    if rows.shape[-1] == 0:
        what = "vocabulary" if width == "V" else "width"
        raise InvalidInput(f"{name} have shape {tuple(rows.shape)}; a {what} of at least 1 was wanted.")


def _check_same_device(name: str, targets: SparseTargets | PaddedTargets, rows: Tensor) -> None:
    for field in fields(targets):
        tensor = getattr(targets, field.name)
        if isinstance(tensor, Tensor) and tensor.device != rows.device:
            raise InvalidInput(
                f"targets.{field.name} is on {tensor.device}, {name} on {rows.device}; move the targets with "
                "targets.to(device)."
            )


def _check_by_position(what: str, tensor: Tensor, name: str, rows: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise InvalidInput(f"{what} are a {type(tensor).__name__}; a torch.Tensor was wanted.")
    leading = rows.shape[:-1]
    if tensor.shape not in (leading, (leading.numel(),)):
        raise InvalidInput(
            f"{what} have shape {tuple(tensor.shape)}, {name} {tuple(rows.shape)}; {what} of shape {tuple(leading)} "
            f"were wanted, one for each row of {name} (the label of position t is tokens[t + 1])."
        )
    if tensor.device != rows.device:
        raise InvalidInput(f"{what} are on {tensor.device}, {name} on {rows.device}; move the {what}.")


def _check_label_range(labels: Tensor, vocab_size: int) -> None:
    wrong = labels[(labels != IGNORED_LABEL) & ((labels < 0) | (labels >= vocab_size))]
    if len(wrong):
        raise InvalidInput(
            f"labels hold {int(wrong[0])}, which is neither {IGNORED_LABEL} (ignored) nor one of the {vocab_size} "
            f"columns of the student's logits (0 to {vocab_size - 1})."
        )


def _check_entries(targets: SparseTargets | PaddedTargets, vocab_size: int) -> None:
    ids, weights = targets.ids, targets.weights
    if isinstance(targets, PaddedTargets):
        is_entry = ids != PAD_ID
        ids, weights = ids[is_entry], weights[is_entry]
    else:
        _check_offsets(targets)
    check_ids(ids, vocab_size)
    # a sum is quick, and finite only if all of them are; where it is not, they are looked at one by one
    if not bool(weights.sum().isfinite()) and not bool(weights.isfinite().all()):
        raise InvalidInput(
            f"targets.weights hold {float(weights[~weights.isfinite()][0])}; finite weights were wanted. Were they "
            "made from logits that overflowed?"
        )


def _check_offsets(targets: SparseTargets) -> None:
    offsets = targets.offsets
    if offsets[0] != 0 or offsets[-1] != targets.num_entries or bool((targets.counts < 0).any()):
        raise InvalidInput(
            f"targets.offsets go from {int(offsets[0])} to {int(offsets[-1])}; they must start at 0, never fall, and "
            f"end at the {targets.num_entries} entries there are."
        )


def _check_ids_are_unique(targets: SparseTargets | PaddedTargets) -> None:
    if isinstance(targets, PaddedTargets):
        num_positions, width = targets.ids.shape
        rows = torch.arange(num_positions, device=targets.ids.device).repeat_interleave(width)
    else:
        rows = targets.rows
    ids = targets.ids.flatten().long()
    rows, ids = rows[ids >= 0], ids[ids >= 0]
    found, times = torch.unique(torch.stack([rows, ids]), dim=1, return_counts=True)
    if bool((times > 1).any()):
        row, token = found[:, times > 1][:, 0].tolist()
        raise InvalidInput(
            f"targets hold token id {token} more than once at position {row}; ids must be unique within a position. "
            "Add the weights of equal ids up where the targets are made."
        )
