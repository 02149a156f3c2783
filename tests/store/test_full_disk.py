"""A disk that really fills up: a small tmpfs, where mounting is allowed."""

import os
import subprocess

import numpy as np
import pytest
import torch

from logitstore.errors import StoreError
from logitstore.samplers import RandomSampling
from logitstore.store import create_store, open_store, verify_store
from tests.support.small_disks import small_disk

VOCAB_SIZE = 5000


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "disk", "256k") as folder:
        yield folder


def fill(path, *, resume=False, sequences=40):
    sampler = RandomSampling(50)
    with create_store(path, vocab_size=VOCAB_SIZE, sampler=sampler, sequences_per_shard=4, resume=resume) as writer:
        for index in range(writer.num_sequences, sequences):
            logits = torch.randn(64, VOCAB_SIZE, generator=torch.Generator().manual_seed(index))
            writer.append(np.arange(64), sampler(logits, index=index))


def test_a_full_disk_is_told_and_the_store_goes_on_when_there_is_space(disk, tmp_path):
    ballast = disk / "ballast"
    ballast.write_bytes(os.urandom(96 << 10))
    with pytest.raises(StoreError, match="disk is full") as caught:
        fill(disk / "s")
    assert (caught.value.kind, caught.value.exit_code) == ("disk-full", 1)
    assert list((disk / "s" / "attempts").iterdir()) == []
    with pytest.raises(StoreError, match="unfinished"):
        open_store(disk / "s")
    committed = len(list((disk / "s" / "commits").iterdir()))
    assert committed >= 1
    ballast.unlink()
    subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
    fill(disk / "s", resume=True)
    fill(tmp_path / "whole")
    assert verify_store(disk / "s") == []
    for shard in range(10):
        name = f"sequences/c/{shard}"
        assert (disk / "s" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
