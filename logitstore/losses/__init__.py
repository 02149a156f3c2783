"""Losses: student logits and sparse targets in, a differentiable loss out."""

from __future__ import annotations

from logitstore.losses.front import sparse_kd_loss

__all__ = ["sparse_kd_loss"]
