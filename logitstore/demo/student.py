"""The demo's student: a small causal transformer in plain torch."""

# B sequences, S positions of a sequence, C columns, D width

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class StudentShape:
    """Size of a student.

    Args:
        columns: C, width of its logits.
        max_length: longest sequence it can read.
        width: D, of its hidden states.
        layers: transformer blocks.
        heads: attention heads; they divide the width.
    """

    columns: int
    max_length: int
    width: int = 128
    layers: int = 2
    heads: int = 4


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, hidden: Tensor) -> Tensor:
        parts = self.query_key_value(self.attention_norm(hidden)).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        hidden = hidden + self.attention_out(mixed.transpose(1, 2).flatten(2))
        changed: Tensor = hidden + self.mlp(hidden)
        return changed


class Student(nn.Module):
    """A causal transformer with learned positions and a head tied to its embedding.

    The parameters depend on `seed` alone, so that two students of one seed begin equal.
    """

    def __init__(self, shape: StudentShape, *, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embedding = nn.Embedding(shape.columns, shape.width)
            self.places = nn.Embedding(shape.max_length, shape.width)
            self.blocks = nn.ModuleList(_Block(shape.width, shape.heads) for _ in range(shape.layers))
            self.norm = nn.LayerNorm(shape.width)
            self.bias = nn.Parameter(torch.zeros(shape.columns))
            # small, as the embedding is also the head: logits of the first step stay near 0
            nn.init.normal_(self.embedding.weight, std=0.02)
            nn.init.normal_(self.places.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits [B, S, C] float32 for tokens [B, S] int64; the row of position t predicts tokens[t + 1]."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        hidden = self.embedding(tokens) + self.places(places)
        for block in self.blocks:
            hidden = block(hidden)
        return functional.linear(self.norm(hidden), self.embedding.weight, self.bias)

    @property
    def num_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(parameter.numel() for parameter in self.parameters())
