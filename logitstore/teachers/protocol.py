"""What `build` asks of a teacher: tokens in, logits out."""

# S tokens of a sequence, V logits width

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: token ids of one sequence, [S], any integer dtype
TokenArray = NDArray[np.integer[Any]]


class Teacher(Protocol):
    """A causal language model whose logits can be read in blocks of positions."""

    @property
    def logits_width(self) -> int:
        """V: columns of the logits. Columns beyond the tokenizer are among them, unmasked."""
        ...

    @property
    def context_length(self) -> int | None:
        """The longest sequence the teacher reads, in tokens; None where it knows no limit."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the logits are."""
        ...

    def check_seq_len(self, seq_len: int) -> None:
        """Raise TeacherError of kind "context-too-short" where `seq_len` is beyond the context length."""
        ...

    def plan_batch_size(self, seq_len: int) -> int:
        """Return how many sequences of `seq_len` tokens to give to one `logit_blocks`, at least 1."""
        ...

    def logit_blocks(self, tokens: Sequence[TokenArray]) -> Iterator[tuple[int, int, Tensor]]:
        """Yield the logits of a batch of sequences, each position of each sequence exactly once and in order.

        Row r of a block is the next-token distribution after tokens[0..first_position + r] of that sequence. The
        blocks may be inference tensors: change them in place under `torch.inference_mode()` only.

        Args:
            tokens: sequences of any lengths, each [S].

        Yields:
            (number of the sequence in the batch, first_position, logits [rows, V] floating point on `device`).

        Raises:
            InvalidInput: a sequence is not one row of integers, or holds an id the teacher does not know.
            TeacherError: kind "context-too-short".
        """
        ...

    def provenance(self) -> dict[str, Any]:
        """Return what identifies the teacher, ready for JSON: equal dictionaries mean equal logits."""
        ...
