"""Logits that no distribution can be made of."""

# T positions, V logits width

from __future__ import annotations

import math

import torch
from torch import Tensor

from logitstore.errors import TeacherError


def check_logits(logits: Tensor, sequence_index: int, first_position: int) -> None:
    """Raise where a position's logits are not a distribution: NaN, +inf, or -inf throughout.

    A single -inf is a probability of zero and is accepted. One pass: the largest value of a row is NaN where the row
    has a NaN, +inf where it has a +inf, and -inf only where every value is; it costs [T] values, not [T, V].

    Args:
        logits: [T, V] floating point, V >= 1.
        sequence_index: index of the sequence in the store, for the message.
        first_position: position of row 0 in the sequence.

    Raises:
        TeacherError: kind "bad-logits", naming the first bad position.
    """
    largest = logits.amax(dim=-1)
    bad = ~torch.isfinite(largest)
    if not bool(bad.any()):
        return
    row = int(bad.int().argmax())
    value = float(largest[row])
    infinite = "+inf" if value > 0 else f"-inf in all {logits.shape[-1]} columns"
    found = "NaN" if math.isnan(value) else infinite
    raise TeacherError(
        f"the teacher's logits at position {first_position + row} of sequence {sequence_index} have {found}; finite "
        "values were wanted (-inf alone means probability zero). Try dtype float32 or bfloat16, whose range is wider "
        "than float16's, and check the checkpoint.",
        kind="bad-logits",
    )
