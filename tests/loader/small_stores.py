"""Small real stores, and comparisons of what a loader made of them."""

from __future__ import annotations

from dataclasses import fields

import torch

from logitstore.samplers import RandomSampling
from logitstore.store import Store, create_store, open_store
from logitstore.targets import PaddedTargets, SparseTargets

VOCAB_SIZE = 40
EOD_ID = 3


def make_store(path, lengths, *, masked=(), document_starts=(), **provenance) -> Store:
    """A store of random sequences; `masked` are (sequence, position), `document_starts` offsets for every sequence."""
    generator = torch.Generator().manual_seed(11)
    sampler = RandomSampling(draws=6)
    with create_store(path, vocab_size=VOCAB_SIZE, sampler=sampler, **{"eod_id": EOD_ID, **provenance}) as writer:
        for index, length in enumerate(lengths):
            tokens = torch.randint(0, VOCAB_SIZE, (length,), generator=generator)
            logits = 3 * torch.randn(length, VOCAB_SIZE, generator=generator)
            targets = sampler(logits, seed=5, index=index)
            targets = mask_positions(targets, [position for sequence, position in masked if sequence == index])
            writer.append(tokens, targets, document_starts=[s for s in document_starts if s < length])
    return open_store(path)


def mask_positions(targets: SparseTargets, positions) -> SparseTargets:
    keep = ~torch.isin(targets.rows, torch.tensor(positions, dtype=torch.int64))
    counts = targets.counts.clone()
    counts[positions] = 0
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return SparseTargets(offsets, targets.ids[keep], targets.weights[keep], sampler=targets.sampler)


def assert_same_tensors(found, wanted) -> None:
    """Two dataclasses hold equal tensors, dtypes included."""
    assert type(found) is type(wanted)
    for field in fields(found):
        one, other = getattr(found, field.name), getattr(wanted, field.name)
        if isinstance(one, torch.Tensor):
            torch.testing.assert_close(one, other, rtol=0, atol=0)
        elif isinstance(one, SparseTargets | PaddedTargets):
            assert_same_tensors(one, other)
        else:
            assert one == other


def ids_of(batches) -> list[list[int]]:
    return [batch.sequence_ids.tolist() for batch in batches]
