"""Random sparse targets and the inputs that go with them, seeded."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st

from logitstore.losses import sparse_kd_loss
from logitstore.targets import SparseTargets


def random_targets(counts, vocab_size, *, seed=0, normalised=True, **fields) -> SparseTargets:
    """Targets with `counts[t]` entries at position t, ids unique within a position, weights in (0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    ids, weights = [], []
    for count in counts:
        ids.append(torch.randperm(vocab_size, generator=generator)[:count])
        weight = 1.0 - torch.rand(count, generator=generator)
        weights.append(weight / weight.sum() if normalised else weight)
    offsets = torch.tensor([0, *counts]).cumsum(0)
    joined_ids = torch.cat(ids) if ids else torch.empty(0)
    joined_weights = torch.cat(weights) if weights else torch.empty(0)
    return SparseTargets(offsets, joined_ids.int(), joined_weights.float(), **fields)


def random_logits(num_positions, vocab_size, *, seed=1, dtype=torch.float32, scale=3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(num_positions, vocab_size, generator=generator) * scale).to(dtype)


def random_labels(num_positions, vocab_size, *, seed=2, ignored=0.25) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, vocab_size, (num_positions,), generator=generator)
    labels[torch.rand(num_positions, generator=generator) < ignored] = -100
    return labels


def loss_and_grad(logits, targets, labels=None, **options):
    """Return (loss, gradient of its sum) of `sparse_kd_loss`, detached."""
    leaf = logits.detach().clone().requires_grad_()
    loss = sparse_kd_loss(leaf, targets, labels, **options)
    (grad,) = torch.autograd.grad(loss.sum(), leaf)
    return loss.detach(), grad


@dataclass(frozen=True)
class Case:
    """Logits [T, V] float32, targets and labels over the same positions."""

    logits: torch.Tensor
    targets: SparseTargets
    labels: torch.Tensor


@st.composite
def cases(draw) -> Case:
    vocab_size = draw(st.integers(1, 40))
    counts = draw(st.lists(st.integers(0, min(vocab_size, 9)), max_size=6))
    seed = draw(st.integers(0, 2**31))
    return Case(
        random_logits(len(counts), vocab_size, seed=seed, scale=draw(st.sampled_from([0.1, 3.0, 30.0]))),
        random_targets(counts, vocab_size, seed=seed + 1, normalised=draw(st.booleans())),
        random_labels(len(counts), vocab_size, seed=seed + 2),
    )
