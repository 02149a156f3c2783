"""The loss as the textbook writes it: dense float64 rows, one position at a time, gradients by autograd."""

from __future__ import annotations

import torch

from logitstore.targets import SparseTargets


def dense_weights(targets: SparseTargets, vocab_size: int) -> torch.Tensor:
    dense = torch.zeros(targets.num_positions, vocab_size, dtype=torch.float64)
    bounds = targets.offsets.tolist()
    for position in range(targets.num_positions):
        for entry in range(bounds[position], bounds[position + 1]):
            dense[position, int(targets.ids[entry])] += float(targets.weights[entry])
    return dense


def log_q(row: torch.Tensor) -> torch.Tensor:
    highest = row.detach().max()
    return row - highest - (row - highest).exp().sum().log()


def dense_loss(logits, targets, labels=None, *, alpha=1.0, temperature=1.0, reduction="mean", entropy=None):
    """Return (loss, gradient) in float64; logits [T, V], `entropy` is subtracted from the first term.

    `targets` are SparseTargets, or dense weights [T, V] of positions that all have a target.
    """
    logits = logits.detach().double().requires_grad_()
    num_positions, vocab_size = logits.shape
    if isinstance(targets, SparseTargets):
        weights, has_target = dense_weights(targets, vocab_size), targets.counts > 0
    else:
        weights, has_target = targets.double(), torch.ones(num_positions, dtype=torch.bool)
    losses = []
    for position in range(num_positions):
        loss = logits[position].sum() * 0.0
        if has_target[position]:
            distilled = -(weights[position] * log_q(logits[position] / temperature)).sum()
            if entropy is not None:
                distilled = distilled - entropy[position].double()
            loss = loss + alpha * distilled
            if labels is not None and labels[position] != -100:
                loss = loss - (1 - alpha) * log_q(logits[position])[labels[position]]
        losses.append(loss)
    per_position = torch.stack(losses) if losses else logits.sum(dim=1)
    total = per_position.sum() / (max(1, int(has_target.sum())) if reduction == "mean" else 1)
    (grad,) = torch.autograd.grad(total, logits)
    return (per_position if reduction == "none" else total).detach(), grad
