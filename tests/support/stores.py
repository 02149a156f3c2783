"""Small real stores for tests."""

import numpy as np
import torch

from logitstore.samplers import RandomSampling
from logitstore.store import create_store

VOCAB_SIZE = 50


def random_targets(lengths, *, sampler=None, vocab_size=VOCAB_SIZE, seed=0):
    """Return tokens and sparse targets of sequences of the given lengths."""
    generator = torch.Generator().manual_seed(seed)
    sampler = sampler or RandomSampling(8)
    logits = [3 * torch.randn(length, vocab_size, generator=generator) for length in lengths]
    rng = np.random.default_rng(seed)
    tokens = [rng.integers(0, vocab_size, length).astype(np.int32) for length in lengths]
    return tokens, [sampler(rows, seed=seed, index=index) for index, rows in enumerate(logits)]


def make_store(path, *, lengths, sampler=None, vocab_size=VOCAB_SIZE, seed=0, sequences_per_shard=4, **provenance):
    """Write a sealed store; return the tokens and targets that went in."""
    sampler = sampler or RandomSampling(8)
    tokens, targets = random_targets(lengths, sampler=sampler, vocab_size=vocab_size, seed=seed)
    options = {"vocab_size": vocab_size, "sampler": sampler, "sequences_per_shard": sequences_per_shard}
    with create_store(path, **options, **provenance) as writer:
        for ids, sparse in zip(tokens, targets, strict=True):
            writer.append(ids, sparse)
    return tokens, targets
