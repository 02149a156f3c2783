import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from logitstore.errors import InvalidInput
from logitstore.samplers import TopP
from logitstore.samplers.column_blocks import ColumnBlocks


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 2**31),
    st.integers(1, 700),
    st.sampled_from([0.1, 0.5, 0.9, 0.95, 1.0]),
    st.sampled_from([0.3, 2.0, 6.0]),
)
def test_top_p_is_the_fewest_tokens_that_reach_p(seed, vocab_size, p, scale):
    logits = scale * torch.randn(5, vocab_size, generator=torch.Generator().manual_seed(seed))
    targets = TopP(p)(logits)
    probabilities = torch.softmax(logits.double(), -1)
    for position in range(5):
        row = targets.slice(position, position + 1)
        ordered = probabilities[position].sort(descending=True).values
        kept = row.num_entries
        assert float(ordered[:kept].sum()) >= p - 1e-5
        assert kept == 1 or float(ordered[: kept - 1].sum()) < p + 1e-6
        assert row.ids.tolist() == sorted(probabilities[position].topk(kept).indices.tolist())
        assert torch.allclose(row.weights.double(), probabilities[position][row.ids.long()], rtol=1e-5)


def test_max_k_cuts_and_lower_ids_win_ties():
    targets = TopP(0.9, max_k=3)(torch.zeros(1, 10))
    assert targets.ids.tolist() == [0, 1, 2]
    assert targets.weights.tolist() == pytest.approx([0.1] * 3)


def test_tokens_of_probability_zero_are_left_out():
    assert TopP(1.0)(torch.tensor([[0.0, -float("inf"), 0.0]])).ids.tolist() == [0, 2]


def test_positions_that_no_store_can_hold_are_refused():
    logits = torch.zeros(2, 80_000)
    logits[0, 5] = 30.0
    with pytest.raises(InvalidInput, match="position 11 needs more than 65535 entries"):
        TopP(0.95)(logits, first_position=10)
    assert TopP(0.95, max_k=100)(logits).counts.tolist() == [1, 100]


@pytest.mark.parametrize("options", [{"p": 0.0}, {"p": 1.5}, {"p": True}, {"p": "a"}, {"max_k": 0}, {"max_k": 70_000}])
def test_parameters_out_of_range_are_refused(options):
    with pytest.raises(InvalidInput, match="was wanted"):
        TopP(**options)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 5000), st.integers(1, 60))
def test_the_largest_masses_of_blocks_are_the_largest_of_all(seed, rows, vocab_size, count):
    # few distinct values, so that ties abound
    masses = torch.randint(0, 50, (rows, vocab_size), generator=torch.Generator().manual_seed(seed)).float()
    values, ids = ColumnBlocks(masses.clone()).largest(count)
    wanted = masses.topk(min(count, vocab_size), dim=-1).values
    assert torch.equal(values, wanted)
    assert torch.equal(masses.gather(1, ids), values)
    assert all(len(set(row)) == len(row) for row in ids.tolist())
