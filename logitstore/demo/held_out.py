"""Which sequences are held out, and what the teacher says of them, exactly."""

# S positions of a sequence, V teacher's vocabulary, C compact vocabulary

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from logitstore.demo.comparison import HeldOut
from logitstore.demo.vocabulary import CompactVocabulary
from logitstore.errors import InvalidInput

#: one sequence in so many is held out
HELD_OUT_EVERY = 5


def split_sequences(num_sequences: int) -> tuple[list[int], list[int]]:
    """Return the indices to train on and those held out: every fifth sequence.

    Raises:
        InvalidInput: too few sequences to hold one out.
    """
    if num_sequences < HELD_OUT_EVERY:
        raise InvalidInput(
            f"the store has {num_sequences} sequences; at least {HELD_OUT_EVERY} are needed to hold one in "
            f"{HELD_OUT_EVERY} out. Give more text, more positions or shorter sequences."
        )
    held_out = list(range(HELD_OUT_EVERY - 1, num_sequences, HELD_OUT_EVERY))
    return sorted(set(range(num_sequences)) - set(held_out)), held_out


def measure_teacher(
    teacher: Any,
    sequences: Sequence[tuple[np.ndarray, Tensor]],
    vocabulary: CompactVocabulary,
    *,
    vocab_size: int,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> HeldOut:
    """Run the teacher over held-out sequences and keep its distributions over the compact vocabulary.

    Args:
        teacher: its `logit_blocks(tokens)` yields (place in the list, first position, logits [rows, width]).
        sequences: tokens [S] int32 and labels [S] int64 (the teacher's ids) of each.
        vocabulary: maps the teacher's ids to C columns; every label has one of its own.
        vocab_size: V; columns of the logits beyond it stand for no token and are left out, as in the store.
        on_rows: called with the number of rows after each block.
    """
    rows = [torch.zeros(len(tokens), vocabulary.size) for tokens, _ in sequences]
    for index, first, logits in teacher.logit_blocks([tokens for tokens, _ in sequences]):
        block = logits[:, :vocab_size].float().softmax(dim=-1).cpu()
        rows[index][first : first + len(block)] = vocabulary.map_rows(block)
        on_rows(len(block))
    return HeldOut(
        tokens=[vocabulary.map_ids(torch.as_tensor(tokens)) for tokens, _ in sequences],
        labels=[vocabulary.map_labels(labels) for _, labels in sequences],
        teacher=rows,
    )
