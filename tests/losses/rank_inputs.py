"""The same inputs in every process: those of two ranks, and of one that has it all."""

from __future__ import annotations

import torch
from torch import nn

from logitstore.losses import linear_sparse_kd_loss
from tests.losses.random_targets import random_labels, random_logits, random_targets

VOCAB = 23
#: columns of each rank, of different width; the entries of some positions all lie on one of them
COLUMNS = [(0, 9), (9, VOCAB)]
OPTIONS = {
    "plain": {},
    "none": {"reduction": "none", "alpha": 0.3},
    "all": {
        "alpha": 0.3, "label_smoothing": 0.1, "z_loss": 0.01, "softcap": 5.0, "missing_mass": "tail",
        "position_weights": torch.linspace(0.5, 2.0, 6),
    },
    "tempered": {"alpha": 0.3, "temperature": 2.0, "z_loss": 0.01},
}  # fmt: skip


class Student(nn.Module):
    """An embedding and a layer; float64, so that the order of summation hardly matters."""

    def __init__(self, *, tied: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(6)

        def weight(*shape):
            return nn.Parameter(torch.randn(*shape, generator=generator, dtype=torch.float64))

        self.embedding, self.layer = weight(VOCAB, 5), weight(5, 5)
        self.head = None if tied else weight(VOCAB, 5)

    @property
    def head_weight(self):
        return self.embedding if self.head is None else self.head

    def forward(self, tokens):
        return torch.tanh(self.embedding[tokens] @ self.layer)


class StudentWithLoss(Student):
    """A student whose forward pass ends in the loss, where FSDP has gathered the head's weight."""

    def forward(self, tokens, targets, reduction):
        return linear_sparse_kd_loss(super().forward(tokens), self.head_weight, targets, reduction=reduction)


def batch_of_rank(rank):
    """Tokens and targets; as many positions with a target on each rank, so that the means weigh the same."""
    counts = [[2, 0, 3, 1], [1, 1, 0, 4]][rank]
    generator = torch.Generator().manual_seed(rank)
    return torch.randint(0, VOCAB, (4,), generator=generator), random_targets(counts, VOCAB, seed=rank)


def wide_batch():
    """Logits of all columns, targets and labels; a position without entries, one with entries on one rank only."""
    counts = [3, 0, 1, 5, 2, 1]
    logits = random_logits(6, VOCAB, dtype=torch.float64)
    logits[4, :9] = -torch.inf  # nothing at all on the first rank
    targets = random_targets(counts, VOCAB, sampler="top-k")
    targets.weights.mul_(0.8)
    targets.ids[9:11] = torch.tensor([12, 20])  # those of position 4
    labels = random_labels(6, VOCAB)
    labels[4] = 13
    return logits, targets, labels
