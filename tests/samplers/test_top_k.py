import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from logitstore.errors import InvalidInput
from logitstore.samplers import TopK


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 40), st.data())
def test_top_k_equals_a_stable_sort_also_with_ties(seed, rows, vocab_size, data):
    k = data.draw(st.integers(1, vocab_size))
    # few distinct values, so that ties abound
    logits = torch.randint(0, 4, (rows, vocab_size), generator=torch.Generator().manual_seed(seed)).float()
    order = torch.sort(logits, dim=-1, descending=True, stable=True).indices[:, :k].sort(dim=-1).values
    targets = TopK(k)(logits)
    assert torch.equal(targets.ids.view(rows, k).long(), order)
    wanted = torch.softmax(logits.double(), -1).gather(1, order)
    assert torch.allclose(targets.weights.view(rows, k).double(), wanted, rtol=1e-6)


def test_weights_are_not_renormalised():
    targets = TopK(2)(torch.tensor([[0.5, 0.3, 0.2]]).log())
    assert targets.ids.tolist() == [0, 1]
    assert targets.weights.tolist() == pytest.approx([0.5, 0.3])


def test_tokens_of_probability_zero_are_left_out():
    targets = TopK(3)(torch.tensor([[0.0, -float("inf"), 0.0, -float("inf")]]))
    assert targets.ids.tolist() == [0, 2]


def test_k_above_the_vocabulary_is_refused():
    with pytest.raises(InvalidInput, match="k is 5, more than the 4 columns"):
        TopK(5)(torch.zeros(1, 4))


@pytest.mark.parametrize("k", [0, -1, 65_536, 1.5])
def test_k_out_of_range_is_refused(k):
    with pytest.raises(InvalidInput, match="k is"):
        TopK(k)
