"""A decoder of the usual shape, in plain torch: what a training step costs around the loss."""

# B sequences, S positions of a sequence, D width, V vocabulary

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    """Attention and a gated feed-forward layer, each behind a norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, inner = heads, width * 8 // 3 // 8 * 8
        self.attention_norm, self.feed_norm = nn.RMSNorm(width), nn.RMSNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 2 * inner, bias=False), nn.Linear(inner, width, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        """Return the states [B, S, D] after the layer."""
        B, S, D = states.shape
        query, key, value = (
            self.qkv(self.attention_norm(states)).view(B, S, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        states = states + self.project(mixed.transpose(1, 2).reshape(B, S, D))
        gate, up = self.up(self.feed_norm(states)).chunk(2, dim=-1)
        return states + self.down(functional.silu(gate) * up)


class Student(nn.Module):
    """Embedding, layers and a norm; the head is a weight [V, D] of its own, for the loss to multiply with."""

    def __init__(self, layers: int, width: int, heads: int, vocab_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.layers = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm = nn.RMSNorm(width)
        self.head = nn.Parameter(torch.randn(vocab_size, width) / width**0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the last hidden states [B, S, D] of tokens [B, S]."""
        states: Tensor = self.norm(self.layers(self.embedding(tokens)))
        return states
