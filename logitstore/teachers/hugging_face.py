"""Teachers from Hugging Face checkpoints and GGUF files."""

# B sequences, S tokens of a sequence, V logits width

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from logitstore.errors import InvalidInput, TeacherError
from logitstore.teachers.load_errors import translated
from logitstore.teachers.logits_budget import logits_budget
from logitstore.teachers.protocol import TokenArray
from logitstore.teachers.quiet import quiet, require_transformers
from logitstore.teachers.row_blocks import VERIFIED_TOKENS, block_logits, blocks_match, logits_close
from logitstore.teachers.sequences import check_context, check_sequences, pad_sequences
from logitstore.teachers.teacher_info import TeacherInfo, inspect_teacher
from logitstore.teachers.weights_hash import hash_weights

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
#: beyond this a GPU is busy anyway, while a small vocabulary would let a batch grow until its hidden states fill memory
MOST_SEQUENCES = 64

logger = logging.getLogger(__name__)


class HuggingFaceTeacher:
    """A causal language model in memory, ready to give logits.

    Args:
        model: a `transformers` causal language model on its device.
        info: what its config says.
        max_logits_bytes: bytes of logits that may exist at once; None for a share of the free memory.

    Raises:
        TeacherError: kind "not-a-causal-lm", logits depend on later tokens.
        InvalidInput: `max_logits_bytes` is not positive.
    """

    def __init__(self, model: Any, info: TeacherInfo, *, max_logits_bytes: int | None = None) -> None:
        self.model = model.eval().requires_grad_(False)
        self.info = info
        self._name = str(info.checkpoint)
        self._device: torch.device = model.device
        self._num_ids = int(model.get_input_embeddings().weight.shape[0])
        self.max_logits_bytes = logits_budget(self._device, max_logits_bytes)
        logits = self._probe()
        self._logits_width = logits.shape[-1]
        self._logits_itemsize = logits.element_size()

    @property
    def logits_width(self) -> int:
        """V: columns of the logits, measured."""
        return self._logits_width

    @property
    def vocab_size(self) -> int:
        return self._logits_width

    @property
    def context_length(self) -> int | None:
        return self.info.context_length

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    def check_seq_len(self, seq_len: int) -> None:
        """Raise TeacherError of kind "context-too-short" where `seq_len` is beyond the context length."""
        check_context(seq_len, self.context_length, self._name)

    def plan_batch_size(self, seq_len: int) -> int:
        """Return how many sequences of `seq_len` tokens have logits within the budget, from 1 to 64."""
        self.check_seq_len(seq_len)
        return max(1, min(MOST_SEQUENCES, self._rows_in_budget // seq_len))

    def logit_blocks(self, tokens: Sequence[TokenArray]) -> Iterator[tuple[int, int, Tensor]]:
        """Yield the logits of a batch, each position of each sequence exactly once and in order.

        As many sequences as fit the budget run at once; one that alone does not fit has its body run once and its
        head in blocks of positions. See `Teacher.logit_blocks` for the rest.

        Yields:
            (number in the batch, first_position, logits [rows, V] in the model's own dtype on `device`), views of
            inference tensors.
        """
        check_sequences(tokens, num_ids=self._num_ids, context_length=self.context_length, teacher=self._name)
        for numbers in self._split(tokens):
            rows = pad_sequences([tokens[number] for number in numbers], self._device)
            if rows.shape[1] > self._rows_in_budget and self._blocks_are_exact:
                for first, logits in self._stepwise(block_logits(self.model, rows, self._rows_in_budget)):
                    yield numbers[0], first, logits
                continue
            whole = self._forward(rows)
            for number, logits in zip(numbers, whole, strict=True):
                yield number, 0, logits[: len(tokens[number])]

    def weights_sha256(self) -> str:
        """Return the sha256 over name, dtype, shape and bytes of every weight as loaded."""
        return self._weights_sha256

    def provenance(self) -> dict[str, Any]:
        """Return what identifies the teacher, ready for JSON."""
        checkpoint = self.info.checkpoint
        return {
            "id": checkpoint.model,
            "gguf_file": checkpoint.gguf_file,
            "revision": checkpoint.revision,
            "commit": self.info.commit,
            "model_type": self.info.model_type,
            "weights_sha256": self.weights_sha256(),
            "dtype": str(self.dtype).removeprefix("torch."),
            "context_length": self.context_length,
            "logits_width": self.logits_width,
            "num_parameters": int(self.model.num_parameters()),
        }

    @cached_property
    def _weights_sha256(self) -> str:
        return hash_weights(self.model.state_dict())

    @property
    def _rows_in_budget(self) -> int:
        return max(1, self.max_logits_bytes // (self._logits_width * self._logits_itemsize))

    @cached_property
    def _blocks_are_exact(self) -> bool:
        rows = self._short_tokens()
        with torch.inference_mode(), quiet():
            exact = blocks_match(
                self.model, rows, self.model(input_ids=rows, use_cache=False, return_dict=True).logits[0]
            )
        if not exact:
            logger.warning(
                "teacher %s cannot run its head in blocks, so the logits of a whole sequence must fit into memory, "
                "beyond the budget of %d bytes.",
                self._name,
                self.max_logits_bytes,
            )
        return exact

    def _split(self, tokens: Sequence[TokenArray]) -> Iterator[list[int]]:
        """Yield the numbers of consecutive sequences whose padded logits fit the budget together."""
        group: list[int] = []
        width = 0
        for number, sequence in enumerate(tokens):
            width = max(width, len(sequence))
            if group and (len(group) + 1) * width > self._rows_in_budget:
                yield group
                group, width = [], len(sequence)
            group.append(number)
        if group:
            yield group

    def _forward(self, rows: Tensor) -> Tensor:
        """Return the logits [B, S, V] of token rows [B, S]."""
        with torch.inference_mode(), quiet():
            logits: Tensor = self.model(input_ids=rows, use_cache=False, return_dict=True).logits
        return logits

    @staticmethod
    def _stepwise(blocks: Iterator[tuple[int, Tensor]]) -> Iterator[tuple[int, Tensor]]:
        """Pull blocks under inference mode, without holding the caller in it between them."""
        while True:
            with torch.inference_mode(), quiet():
                block = next(blocks, None)
            if block is None:
                return
            yield block

    def _short_tokens(self) -> Tensor:
        length = min(VERIFIED_TOKENS, self.context_length or VERIFIED_TOKENS)
        return pad_sequences([np.arange(length) % self._num_ids], self._device)

    def _probe(self) -> Tensor:
        """Return the logits of a few tokens, having seen that they do not depend on the tokens after them."""
        tokens = self._short_tokens()
        other = tokens.clone()
        other[0, -1] = (tokens[0, -1] + 1) % self._num_ids
        logits, changed = self._forward(tokens)[0], self._forward(other)[0]
        if not logits_close(changed[:-1], logits[:-1]):
            raise TeacherError(
                f"teacher {self._name} ({type(self.model).__name__}) is no causal language model: its logits change "
                "with the tokens after a position. A decoder that sees only earlier tokens was wanted.",
                kind="not-a-causal-lm",
            )
        return logits


def load_teacher(
    model: str | Path,
    *,
    gguf_file: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    dtype: Dtype = "auto",
    device: str = "auto",
    max_logits_bytes: int | None = None,
    info: TeacherInfo | None = None,
) -> HuggingFaceTeacher:
    """Load a teacher and see that it is causal.

    Args:
        model: folder, single .gguf file, or repository on the Hugging Face hub.
        gguf_file: name of the GGUF file in that folder or repository.
        revision: branch, tag or commit on the hub.
        trust_remote_code: run Python code that comes with the checkpoint.
        dtype: type of the weights; "auto" is the checkpoint's own on a GPU, float32 on the CPU and for GGUF.
        device: such as "cuda:1"; "auto" is the first GPU where there is one.
        max_logits_bytes: bytes of logits that may exist at once; None for a share of the free memory.
        info: what `inspect_teacher` returned for the same teacher, which saves reading its config again.

    Raises:
        TeacherError: as `inspect_teacher`; kind "teacher-unreadable" also where weights are damaged or missing.
        InvalidInput: `dtype`, `device` or `max_logits_bytes` cannot be used.
    """
    place = _choose_device(device)
    if dtype != "auto" and dtype not in DTYPES:
        raise InvalidInput(f"dtype is {dtype!r}; one of auto, {', '.join(DTYPES)} was wanted.")
    if info is None:
        info = inspect_teacher(model, gguf_file=gguf_file, revision=revision, trust_remote_code=trust_remote_code)
    checkpoint = info.checkpoint
    transformers = require_transformers(gguf=checkpoint.gguf_file is not None)
    weights_dtype: Any = DTYPES.get(dtype, "auto")
    if dtype == "auto" and (place.type == "cpu" or checkpoint.gguf_file is not None):
        weights_dtype = torch.float32
    with translated(checkpoint, "weights"), quiet(downloads=True, stderr=checkpoint.gguf_file is None):
        loaded, report = transformers.AutoModelForCausalLM.from_pretrained(
            checkpoint.model, config=info.config, dtype=weights_dtype, output_loading_info=True, **info.options()
        )
        _check_complete(report, str(checkpoint))
        loaded = loaded.to(place)
    return HuggingFaceTeacher(loaded, info, max_logits_bytes=max_logits_bytes)


def _check_complete(report: dict[str, Any], name: str) -> None:
    """Refuse a checkpoint that lacks weights: transformers would fill them with random numbers."""
    missing = sorted(map(str, report.get("missing_keys", ())))
    if missing:
        raise TeacherError(
            f"the weights of teacher {name} are incomplete: {len(missing)} are missing, such as {missing[0]}. Is it a "
            "checkpoint without a language-model head, or a download that was cut off?",
            kind="teacher-unreadable",
        )


def _choose_device(device: str) -> torch.device:
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise InvalidInput(f"device is {device!r}; auto, cpu, cuda, cuda:1 or mps was wanted.") from error
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise InvalidInput(
            f"device {device} was asked for, but PyTorch finds {torch.cuda.device_count()} CUDA devices."
        )
    if place.type == "mps" and not torch.backends.mps.is_available():
        raise InvalidInput("device mps was asked for, but PyTorch finds none.")
    return place
