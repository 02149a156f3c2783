"""Trainer on a store with the teacher's entropy: the loss is a true KL."""

import pytest
import torch

from logitstore.errors import InvalidInput
from logitstore.loader import LogitDataset
from logitstore.losses import sparse_kd_loss
from logitstore.samplers import Threshold, teacher_statistics
from logitstore.store import create_store
from logitstore.targets import concatenate_targets
from logitstore.training import TrainerPlugin

VOCAB_SIZE = 40


def dataset_at(path, *, with_entropy):
    generator = torch.Generator().manual_seed(4)
    sampler = Threshold(10)
    with create_store(path, vocab_size=VOCAB_SIZE, sampler=sampler) as writer:
        for index, length in enumerate([9, 4, 7]):
            logits = 2 * torch.randn(length, VOCAB_SIZE, generator=generator)
            targets = sampler(logits, index=index)
            if with_entropy:
                entropy = teacher_statistics(logits, None, ["entropy"])["entropy"]
                targets = type(targets)(**{**vars(targets), "teacher_entropy": entropy})
            writer.append(torch.randint(0, VOCAB_SIZE, (length,), generator=generator), targets)
    return LogitDataset(path, shuffle=False, rank=0, world_size=1)


def test_the_plugin_reports_the_kl_where_the_entropy_is_stored(tmp_path):
    dataset = dataset_at(tmp_path / "s", with_entropy=True)
    batch = TrainerPlugin.collate(list(dataset))
    logits = torch.randn(3, 9, VOCAB_SIZE, generator=torch.Generator().manual_seed(5))
    kl, cross_entropy = (
        TrainerPlugin(dataset, value=value).compute_loss({"logits": logits}, batch["labels"])
        for value in ("kl", "soft_cross_entropy")
    )
    stored = concatenate_targets([sample.targets for sample in dataset])
    assert float(cross_entropy - kl) == pytest.approx(float(stored.teacher_entropy.double().mean()), rel=1e-5)
    flat = torch.cat([logits[row, : len(sample.tokens)] for row, sample in enumerate(dataset)])
    assert float(kl) == pytest.approx(float(sparse_kd_loss(flat, stored, value="kl")), rel=1e-5)


def test_the_plugin_refuses_a_kl_without_the_entropy(tmp_path):
    with pytest.raises(InvalidInput, match="teacher_entropy"):
        TrainerPlugin(dataset_at(tmp_path / "s", with_entropy=False), value="kl")
