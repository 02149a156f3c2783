"""The public samplers on top of the kernels. Run by test_kernels.py, in the interpreter or on a GPU.

A GPU takes the kernels by itself. Interpreted, the samplers are told to, as CPU tensors go through torch.
"""

import sys

import pytest
import torch

from logitstore.errors import InvalidInput
from logitstore.samplers import RandomSampling, Threshold, TopK, TopP
from logitstore.samplers.column_blocks import kernels_for
from logitstore.triton_kernels import logit_blocks
from tests.triton_kernels.kernel_device import DEVICE

SAMPLERS = {
    "threshold": Threshold(20),
    "threshold-of-one": Threshold(1),
    "threshold-of-many": Threshold(130),
    "random-sampling": RandomSampling(50),
    "random-sampling-of-a-power": RandomSampling(30, proposal_power=0.8),
    "top-k": TopK(2),
    "top-p": TopP(0.9, max_k=40),
}
#: two columns; odd, within a block of columns; several blocks; several tiles of blocks, odd
SIZES = {2: torch.float32, 101: torch.bfloat16, 1_280: torch.float16, 9_011: torch.bfloat16}
KEY = {"seed": 5, "index": 3, "first_position": 7}


class Kernels:
    """The path of a GPU, which remembers what was asked of it."""

    def __init__(self) -> None:
        self.asked = []
        self.known = kernels_for

    def kernels_for(self, logits):
        # on a GPU the samplers choose; what they choose is looked at
        kernels = logit_blocks if DEVICE == "cpu" and logit_blocks.serves(logits) else self.known(logits)
        self.asked.append(kernels is logit_blocks)
        return kernels


@pytest.fixture
def kernels(monkeypatch):
    kernels = Kernels()
    for module in ("column_blocks", "top_k"):
        monkeypatch.setattr(sys.modules[f"logitstore.samplers.{module}"], "kernels_for", kernels.kernels_for)
    return kernels


def random_logits(num_rows, vocab_size, *, dtype=torch.float32, scale=2.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(num_rows, vocab_size, generator=generator) * scale).to(dtype)


def by_torch(sampler, logits, monkeypatch, **key):
    with monkeypatch.context() as patch:
        for module in ("column_blocks", "top_k"):
            patch.setattr(sys.modules[f"logitstore.samplers.{module}"], "kernels_for", lambda logits: None)
        return sampler(logits, **key)


@pytest.mark.parametrize("vocab_size", SIZES)
@pytest.mark.parametrize("name", SAMPLERS)
def test_the_same_key_gives_the_same_entries_as_torch(name, vocab_size, kernels, monkeypatch):
    # a draw within rounding (1e-6) of the edge of two tokens may differ: of these fixed ones none does
    sampler, logits = SAMPLERS[name], random_logits(4, vocab_size, dtype=SIZES[vocab_size])
    wanted = by_torch(sampler, logits, monkeypatch, **KEY)
    assert kernels.asked == []
    found = sampler(logits.to(DEVICE), **KEY).to("cpu")
    assert kernels.asked
    assert all(kernels.asked)
    assert torch.equal(found.offsets, wanted.offsets)
    assert torch.equal(found.ids, wanted.ids)
    torch.testing.assert_close(found.weights, wanted.weights, rtol=3e-6, atol=1e-7)
    assert (found.head_counts is None) == (wanted.head_counts is None)
    if wanted.head_counts is not None:
        assert torch.equal(found.head_counts, wanted.head_counts)
    other = sampler(logits.to(DEVICE), **KEY | {"seed": 6}).to("cpu")
    if sampler.unbiased and vocab_size > 2:
        assert not torch.equal(other.ids, found.ids)


@pytest.mark.parametrize("name", SAMPLERS)
def test_ties_and_masked_tokens_give_the_same_entries_as_torch(name, kernels, monkeypatch):
    logits = random_logits(4, 700, dtype=torch.bfloat16).round()
    logits[1] = float("-inf")
    logits[1, [3, 300, 699]] = torch.tensor([0.0, 2.0, 1.0], dtype=torch.bfloat16)
    logits[2, 5] = 30.0
    sampler = SAMPLERS[name]
    wanted, found = by_torch(sampler, logits, monkeypatch, **KEY), sampler(logits.to(DEVICE), **KEY).to("cpu")
    assert kernels.asked
    if isinstance(sampler, Threshold):
        # which of equal tokens are in the head is open there: none of these rows has such a choice
        assert torch.equal(found.head_counts, wanted.head_counts)
    assert torch.equal(found.offsets, wanted.offsets)
    assert torch.equal(found.ids, wanted.ids)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_row_does_not_depend_on_its_neighbours_nor_on_where_a_call_begins(name, kernels):
    sampler, logits = SAMPLERS[name], random_logits(5, 400).to(DEVICE)
    whole = sampler(logits, seed=1, index=2, first_position=0).slice(2, 4)
    part = sampler(logits[2:4], seed=1, index=2, first_position=2)
    assert torch.equal(part.ids, whole.ids)
    assert torch.equal(part.weights, whole.weights)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("bad", ["nan", "inf", "-inf"])
def test_bad_logits_are_refused_with_their_position(name, bad, kernels):
    logits = random_logits(4, 300)
    logits[2] = float("-inf") if bad == "-inf" else logits[2]
    logits[2, 17] = float(bad)
    with pytest.raises(InvalidInput, match="position 9 have ") as refusal:
        SAMPLERS[name](logits.to(DEVICE), **KEY)
    assert refusal.value.kind == "bad-logits"


@pytest.mark.parametrize("name", SAMPLERS)
def test_no_positions_give_no_targets(name, kernels):
    targets = SAMPLERS[name](torch.empty(0, 300, device=DEVICE), **KEY)
    assert targets.num_positions == 0


def test_float64_goes_through_torch(kernels):
    Threshold(20)(random_logits(2, 300).double().to(DEVICE))
    assert kernels.asked == [False]
