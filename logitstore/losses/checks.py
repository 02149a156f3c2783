"""What the losses refuse, each with its own message, before anything is computed."""

# T positions, V vocabulary, B sequences, S positions of a sequence

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from logitstore.errors import InvalidInput
from logitstore.losses.reference import IGNORED_LABEL
from logitstore.targets import PAD_ID, PaddedTargets, SparseTargets, check_ids

REDUCTIONS = ("none", "sum", "mean")
VALUES = ("soft_cross_entropy", "kl")
_LOGIT_DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


def check_options(alpha: float, temperature: float, reduction: str, value: str, *, has_labels: bool) -> None:
    """Raise InvalidInput where an option is out of range, or labels are missing that alpha asks for."""
    if not _is_number(alpha) or not 0 <= alpha <= 1:
        raise InvalidInput(f"alpha is {alpha!r}; a number from 0 (labels only) to 1 (targets only) was wanted.")
    if not _is_number(temperature) or not 0 < temperature < float("inf"):
        raise InvalidInput(f"temperature is {temperature!r}; a finite number above 0 was wanted.")
    if reduction not in REDUCTIONS:
        raise InvalidInput(f"reduction is {reduction!r}; one of {', '.join(REDUCTIONS)} was wanted.")
    if value not in VALUES:
        raise InvalidInput(f"value is {value!r}; one of {', '.join(VALUES)} was wanted.")
    if alpha < 1 and not has_labels:
        raise InvalidInput(
            f"alpha is {alpha:g} but there are no labels; pass labels (already shifted), or alpha=1 for the targets "
            "alone."
        )


def check_tensors(student_logits: Tensor, targets: SparseTargets | PaddedTargets, labels: Tensor | None) -> None:
    """Raise InvalidInput where logits, targets and labels do not fit each other.

    Values (ids, offsets, labels) are checked on the CPU only: on a GPU looking at them would make the host wait
    for the device in every step.
    """
    _check_logits(student_logits)
    if not isinstance(targets, SparseTargets | PaddedTargets):
        raise InvalidInput(f"targets are a {type(targets).__name__}; SparseTargets or PaddedTargets were wanted.")
    _check_same_device(targets, student_logits)
    num_positions, vocab_size = student_logits[..., 0].numel(), student_logits.shape[-1]
    if targets.num_positions != num_positions:
        raise InvalidInput(
            f"targets have {targets.num_positions} positions, student_logits {num_positions} (shape "
            f"{tuple(student_logits.shape)}); there must be one target for each row of logits. Neither is shifted: "
            "the target of position t belongs to the logits at t."
        )
    if labels is not None:
        _check_labels(labels, student_logits)
    if student_logits.device.type == "cpu":
        _check_entries(targets, vocab_size)
        if labels is not None:
            _check_label_range(labels, vocab_size)


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


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_logits(student_logits: Tensor) -> None:
    if not isinstance(student_logits, Tensor):
        raise InvalidInput(f"student_logits are a {type(student_logits).__name__}; a torch.Tensor was wanted.")
    if student_logits.ndim not in (2, 3):
        raise InvalidInput(
            f"student_logits have shape {tuple(student_logits.shape)}; [T, V] or [B, S, V] was wanted, a row for each "
            "position."
        )
    if student_logits.dtype not in _LOGIT_DTYPES:
        raise InvalidInput(
            f"student_logits are {student_logits.dtype}; bfloat16, float16, float32 or float64 was wanted."
        )
    if student_logits.shape[-1] == 0:
        raise InvalidInput(
            f"student_logits have shape {tuple(student_logits.shape)}; a vocabulary of at least 1 was wanted."
        )


def _check_same_device(targets: SparseTargets | PaddedTargets, student_logits: Tensor) -> None:
    for field in fields(targets):
        tensor = getattr(targets, field.name)
        if isinstance(tensor, Tensor) and tensor.device != student_logits.device:
            raise InvalidInput(
                f"targets.{field.name} is on {tensor.device}, student_logits on {student_logits.device}; move the "
                "targets with targets.to(device)."
            )


def _check_labels(labels: Tensor, student_logits: Tensor) -> None:
    if not isinstance(labels, Tensor):
        raise InvalidInput(f"labels are a {type(labels).__name__}; a torch.Tensor was wanted.")
    if labels.dtype != torch.int64:
        raise InvalidInput(f"labels are {labels.dtype}; torch.int64 was wanted: labels.long().")
    leading = student_logits.shape[:-1]
    if labels.shape not in (leading, (leading.numel(),)):
        raise InvalidInput(
            f"labels have shape {tuple(labels.shape)}, student_logits {tuple(student_logits.shape)}; labels of shape "
            f"{tuple(leading)} were wanted, one for each row of logits (the label of position t is tokens[t + 1])."
        )
    if labels.device != student_logits.device:
        raise InvalidInput(
            f"labels are on {labels.device}, student_logits on {student_logits.device}; move the labels."
        )


def _check_label_range(labels: Tensor, vocab_size: int) -> None:
    wrong = labels[(labels != IGNORED_LABEL) & ((labels < 0) | (labels >= vocab_size))]
    if len(wrong):
        raise InvalidInput(
            f"labels hold {int(wrong[0])}, which is neither {IGNORED_LABEL} (ignored) nor one of the {vocab_size} "
            f"columns of student_logits (0 to {vocab_size - 1})."
        )


def _check_entries(targets: SparseTargets | PaddedTargets, vocab_size: int) -> None:
    if isinstance(targets, PaddedTargets):
        check_ids(targets.ids[targets.ids != PAD_ID], vocab_size)
        return
    check_ids(targets.ids, vocab_size)
    offsets = targets.offsets
    if offsets[0] != 0 or offsets[-1] != targets.num_entries or bool((targets.counts < 0).any()):
        raise InvalidInput(
            f"targets.offsets go from {int(offsets[0])} to {int(offsets[-1])}; they must start at 0, never fall, and "
            f"end at the {targets.num_entries} entries there are."
        )
