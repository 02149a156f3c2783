"""A disk that really fills up: a small tmpfs, where mounting is allowed."""

import os
import subprocess

import numpy as np
import pytest
import torch

from logitstore.errors import StoreError
from logitstore.samplers import RandomSampling
from logitstore.store import create_store, open_store, verify_store

VOCAB_SIZE = 5000


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(path, *, resume=False, sequences=40):
    sampler = RandomSampling(50)
    with create_store(path, vocab_size=VOCAB_SIZE, sampler=sampler, sequences_per_shard=4, resume=resume) as writer:
        for index in range(writer.num_sequences, sequences):
            logits = torch.randn(64, VOCAB_SIZE, generator=torch.Generator().manual_seed(index))
            writer.append(np.arange(64), sampler(logits, index=index))


def test_a_full_disk_is_told_and_the_store_goes_on_when_there_is_space(small_disk, tmp_path):
    ballast = small_disk / "ballast"
    ballast.write_bytes(os.urandom(96 << 10))
    with pytest.raises(StoreError, match="disk is full") as caught:
        fill(small_disk / "s")
    assert (caught.value.kind, caught.value.exit_code) == ("disk-full", 1)
    assert list((small_disk / "s" / "attempts").iterdir()) == []
    with pytest.raises(StoreError, match="unfinished"):
        open_store(small_disk / "s")
    committed = len(list((small_disk / "s" / "commits").iterdir()))
    assert committed >= 1
    ballast.unlink()
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    fill(small_disk / "s", resume=True)
    fill(tmp_path / "whole")
    assert verify_store(small_disk / "s") == []
    for shard in range(10):
        name = f"sequences/c/{shard}"
        assert (small_disk / "s" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
