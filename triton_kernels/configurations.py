"""How a row kernel is launched: block and warps by vocabulary, and what is known of a row's alignment."""

# T positions, V vocabulary

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

#: what kernels read and write; float64 is left to the plain path
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
_VECTOR_BYTES = 16


@dataclass(frozen=True)
class RowConfiguration:
    """Columns that a program takes at a time, and the warps that share them (of 32 threads)."""

    block: int
    warps: int

    @property
    def num_warps(self) -> int:
        """Warps to launch on this build's devices."""
        return launched_warps(self.warps)


#: (largest vocabulary, configuration), at most 32 elements a thread. Chosen from compilations, not from times.
BY_VOCABULARY = (
    (1_024, RowConfiguration(1_024, 4)),
    (4_096, RowConfiguration(4_096, 8)),
    (65_536, RowConfiguration(8_192, 8)),
    (1 << 62, RowConfiguration(16_384, 16)),
)


def row_configuration(vocab_size: int) -> RowConfiguration:
    """Return the configuration for rows of `vocab_size` columns."""
    return next(configuration for limit, configuration in BY_VOCABULARY if vocab_size <= limit)


def launched_warps(warps: int) -> int:
    """Return how many of this build's warps hold the threads of `warps` warps of 32: AMD's have 64."""
    return max(1, warps // 2) if torch.version.hip else warps


def is_interpreted() -> bool:
    """Return whether Triton interprets kernels on the CPU (TRITON_INTERPRET=1), as tests without a GPU do."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def serves(logits: Tensor) -> bool:
    """Return whether the kernels take these logits: bfloat16, float16 or float32 on a GPU (or interpreted)."""
    on_device = logits.is_cuda or (logits.device.type == "cpu" and is_interpreted())
    return on_device and logits.dtype in DTYPES


def on_device(tensor: Tensor) -> AbstractContextManager[object]:
    """Return a context in which kernels are launched on the tensor's device."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


@dataclass(frozen=True)
class RowAlignment:
    """Where the rows of a tensor lie against 16-byte boundaries.

    Attributes:
        vector: elements in 16 bytes.
        lead: elements by which row 0 lies past a boundary.
        step: elements by which each row lies further past one than the row before.
    """

    vector: int
    lead: int
    step: int

    @classmethod
    def of(cls, rows: Tensor) -> RowAlignment:
        """Return the alignment of `rows` [T, V] with column stride 1."""
        vector = _VECTOR_BYTES // rows.element_size()
        lead = rows.data_ptr() % _VECTOR_BYTES // rows.element_size()
        return cls(vector, lead, rows.stride(0) % vector if len(rows) > 1 else 0)

    @property
    def aligned(self) -> bool:
        """Whether every row starts on a boundary."""
        return self.lead == 0 and self.step == 0
