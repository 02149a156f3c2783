"""A teacher made of a function: for logits from elsewhere, and for tests."""

# S tokens of a sequence, V logits width

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from logitstore.errors import InvalidInput, TeacherError
from logitstore.teachers.protocol import TokenArray
from logitstore.teachers.sequences import check_context, check_sequences, pad_sequences


class ArrayTeacher:
    """Logits from a Python function, one sequence at a time.

    Args:
        function: token ids [1, S] int64 on `device` to logits [1, S, V]; it must be causal, that is, position t must
            depend on tokens[0..t] only, and must give the same logits for the same tokens.
        vocab_size: V.
        context_length: the longest sequence the function takes; None for any.
        name: what identifies these logits; a build is resumed only under the same name.
        dtype: floating point type the logits are handed on in.
        device: where the function works.

    Raises:
        InvalidInput: an argument cannot be used.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        *,
        vocab_size: int,
        context_length: int | None = None,
        name: str,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        if vocab_size < 1:
            raise InvalidInput(f"vocab_size is {vocab_size}; at least 1 was wanted.")
        if not dtype.is_floating_point:
            raise InvalidInput(f"dtype is {dtype}; a floating point type was wanted.")
        if not name:
            raise InvalidInput("name is empty; it must identify the logits, because a resumed build compares it.")
        self.function = function
        self.name = name
        self.dtype = dtype
        self._vocab_size = vocab_size
        self._context_length = context_length
        self._device = torch.device(device)

    @property
    def logits_width(self) -> int:
        return self._vocab_size

    @property
    def vocab_size(self) -> int:
        return self._vocab_size

    @property
    def context_length(self) -> int | None:
        return self._context_length

    @property
    def device(self) -> torch.device:
        return self._device

    def check_seq_len(self, seq_len: int) -> None:
        """Raise TeacherError of kind "context-too-short" where `seq_len` is beyond the context length."""
        check_context(seq_len, self._context_length, self.name)

    def plan_batch_size(self, seq_len: int) -> int:
        """Return 1: the function takes one sequence at a time."""
        self.check_seq_len(seq_len)
        return 1

    def logit_blocks(self, tokens: Sequence[TokenArray]) -> Iterator[tuple[int, int, Tensor]]:
        """Yield (number in the batch, 0, logits [S, V] of `dtype` on `device`), one block a sequence.

        Raises:
            InvalidInput: a sequence is not one row of integers from 0 to V - 1.
            TeacherError: kind "context-too-short"; kind "bad-logits", the function gave another shape.
        """
        check_sequences(tokens, num_ids=self._vocab_size, context_length=self._context_length, teacher=self.name)
        for number, sequence in enumerate(tokens):
            with torch.inference_mode():
                logits = self.function(pad_sequences([np.asarray(sequence)], self._device))
            wanted = (1, len(sequence), self._vocab_size)
            if not isinstance(logits, Tensor) or tuple(logits.shape) != wanted:
                found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
                raise TeacherError(
                    f"teacher {self.name} gave {found} for sequence {number} of the batch; "
                    f"logits of shape {wanted} were wanted.",
                    kind="bad-logits",
                )
            yield number, 0, logits[0].to(device=self._device, dtype=self.dtype)

    def provenance(self) -> dict[str, Any]:
        """Return name, logits width, context length and dtype."""
        return {
            "id": self.name,
            "model_type": "function",
            "dtype": str(self.dtype).removeprefix("torch."),
            "context_length": self._context_length,
            "logits_width": self._vocab_size,
        }
