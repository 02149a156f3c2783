"""A store of a language so simple that a student learns it in seconds, without any file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from logitstore.targets import SparseTargets

VOCAB_SIZE = 60
SEQ_LEN = 16
DRAWS = 50


def teacher_probabilities() -> torch.Tensor:
    """The toy teacher, [V, V] float64: token i is followed by i + 1, i + 2 or i + 5, or rarely by anything."""
    rows = torch.full((VOCAB_SIZE, VOCAB_SIZE), 0.05 / VOCAB_SIZE, dtype=torch.float64)
    places = torch.arange(VOCAB_SIZE)
    for step, weight in ((1, 0.5), (2, 0.3), (5, 0.15)):
        rows[places, (places + step) % VOCAB_SIZE] += weight
    return rows


@dataclass(frozen=True, eq=False)
class ToySequence:
    index: int
    tokens: np.ndarray
    targets: SparseTargets


@dataclass(frozen=True, eq=False)
class ToyBatch:
    tokens: torch.Tensor
    labels: torch.Tensor
    targets: SparseTargets


def shifted(tokens: torch.Tensor) -> torch.Tensor:
    return torch.cat([tokens[1:], torch.tensor([-100])])


def toy_store(num_sequences: int, *, seed: int = 0) -> list[ToySequence]:
    """Sequences drawn from the toy teacher, with random-sampling targets."""
    generator = torch.Generator().manual_seed(seed)
    rows = teacher_probabilities()
    store = []
    for index in range(num_sequences):
        tokens = [int(torch.randint(VOCAB_SIZE, (1,), generator=generator))]
        while len(tokens) < SEQ_LEN:
            tokens.append(int(torch.multinomial(rows[tokens[-1]], 1, generator=generator)))
        draws = torch.multinomial(rows[tokens], DRAWS, replacement=True, generator=generator)
        counts = torch.zeros(SEQ_LEN, VOCAB_SIZE).scatter_add_(1, draws, torch.ones(SEQ_LEN, DRAWS))
        store.append(ToySequence(index, np.array(tokens, dtype=np.int32), sparse(counts / DRAWS)))
    return store


def sparse(dense: torch.Tensor) -> SparseTargets:
    """The non-zero weights of dense rows [T, V]."""
    rows, ids = dense.nonzero(as_tuple=True)
    counts = torch.bincount(rows, minlength=len(dense))
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    return SparseTargets(offsets, ids.int(), dense[rows, ids].float(), sampler="random-sampling")


class ToyTeacher:
    """Yields the toy teacher's logits in blocks of 5 rows, with 4 columns more than there are tokens."""

    def logit_blocks(self, sequences: list[np.ndarray]) -> Iterator[tuple[int, int, torch.Tensor]]:
        rows = torch.nn.functional.pad(teacher_probabilities().log(), (0, 4), value=3.0).float()
        for index, tokens in enumerate(sequences):
            for first in range(0, len(tokens), 5):
                yield index, first, rows[tokens[first : first + 5]]
