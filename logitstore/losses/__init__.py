"""Losses: a student's logits, or its hidden states and head, and sparse targets in, a differentiable loss out."""

from __future__ import annotations

from logitstore.losses.front import sparse_kd_loss
from logitstore.losses.linear import linear_sparse_kd_loss
from logitstore.losses.select_lse import select_lse
from logitstore.losses.select_lse_reference import SelectLse
from logitstore.losses.vocab_parallel import vocab_parallel_sparse_kd_loss

__all__ = [
    "SelectLse",
    "linear_sparse_kd_loss",
    "select_lse",
    "sparse_kd_loss",
    "vocab_parallel_sparse_kd_loss",
]
