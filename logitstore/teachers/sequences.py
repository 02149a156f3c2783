"""Sequences on their way into a teacher: checked at the door, padded to a rectangle."""

# B sequences, S tokens of the longest

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from logitstore.errors import InvalidInput, TeacherError
from logitstore.teachers.protocol import TokenArray


def check_context(seq_len: int, context_length: int | None, teacher: str) -> None:
    """Raise TeacherError of kind "context-too-short" where `seq_len` tokens are beyond `context_length`."""
    if seq_len < 1:
        raise InvalidInput(f"the sequence length is {seq_len}; at least 1 token was wanted.")
    if context_length is not None and seq_len > context_length:
        raise TeacherError(
            f"sequences of {seq_len} tokens do not fit teacher {teacher}, which reads {context_length} at most. "
            f"Choose a sequence length up to {context_length}, or a teacher with a longer context.",
            kind="context-too-short",
        )


def check_sequences(tokens: Sequence[TokenArray], *, num_ids: int, context_length: int | None, teacher: str) -> None:
    """Raise where a sequence is not one row of integers from 0 to `num_ids` - 1 that fits the context.

    An id outside the embedding would be an index error deep inside the teacher, and on a GPU end the process.
    """
    for number, sequence in enumerate(tokens):
        array = np.asarray(sequence)
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise InvalidInput(
                f"sequence {number} of the batch is {array.dtype} with shape {array.shape}; "
                "one row of integer token ids was wanted."
            )
        check_context(len(array), context_length, teacher)
        if array.min() < 0 or array.max() >= num_ids:
            position = int(np.flatnonzero((array < 0) | (array >= num_ids))[0])
            raise InvalidInput(
                f"sequence {number} of the batch has token id {int(array[position])} at position {position}; teacher "
                f"{teacher} knows ids 0 to {num_ids - 1}. Were the tokens made with another tokenizer?",
                kind="token-out-of-range",
            )


def pad_sequences(tokens: Sequence[TokenArray], device: torch.device) -> Tensor:
    """Return the sequences as rows [B, S] int64 on `device`, short ones padded on the right.

    No attention mask goes with them: a causal model's logits at a position do not depend on what follows, so the
    rows of real tokens are right and those of padding are never read. Padding repeats the last token, an id the
    teacher is known to accept.
    """
    width = max(len(sequence) for sequence in tokens)
    rows = np.empty((len(tokens), width), dtype=np.int64)
    for row, sequence in zip(rows, tokens, strict=True):
        row[: len(sequence)] = sequence
        row[len(sequence) :] = sequence[-1]
    return torch.from_numpy(rows).to(device)
