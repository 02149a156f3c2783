import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from logitstore.errors import InvalidInput
from logitstore.samplers import RandomSampling, Threshold, TopK, TopP, thin, thinned_sampler
from logitstore.samplers.thinning import thin_counts
from logitstore.targets import SparseTargets, concatenate_targets


def some_targets(sampler, rows=40, vocab_size=300, seed=0):
    logits = 2.5 * torch.randn(rows, vocab_size, generator=torch.Generator().manual_seed(seed))
    return sampler(logits, seed=seed)


def row_sums(targets):
    sums = torch.zeros(targets.num_positions, dtype=torch.float64)
    return sums.index_add_(0, targets.rows, targets.weights.double())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 40), st.data())
def test_thinned_threshold_targets_keep_the_layout(seed, draws, data):
    sampler = Threshold(draws)
    fewer = data.draw(st.integers(1, draws - 1))
    before = some_targets(sampler, rows=12, vocab_size=90, seed=seed)
    after = thin(before, fewer, sampler=sampler, seed=seed)
    assert float((row_sums(after) - 1).abs().max()) < 1e-6
    for position in range(12):
        row, source = after.slice(position, position + 1), before.slice(position, position + 1)
        heads, ids = int(row.head_counts), row.ids.tolist()
        assert ids[:heads] == sorted(ids[:heads])
        assert ids[heads:] == sorted(ids[heads:])
        assert set(ids) <= set(source.ids.tolist())
        assert len(set(ids)) == len(ids) <= fewer + 1
        numerators = row.weights[:heads].double() * sampler.head_grid
        assert torch.equal(numerators, numerators.round())
        assert len(set(row.weights[heads:].tolist())) <= 1


def test_a_position_whose_threshold_is_above_the_new_one_stays_as_it_is():
    sampler = Threshold(20)
    before = sampler(torch.tensor([[0.9, 0.05, 0.05]]).log().repeat(50, 1), seed=3)
    after = thin(before, 10, sampler=sampler)
    heavy = before.to_dense(3)[:, 1:].min(1).values >= 0.1
    assert torch.equal(after.to_dense(3)[heavy], before.to_dense(3)[heavy])
    two = sampler(torch.tensor([[0.5, 0.5]]).log().repeat(50, 1), seed=3)
    assert torch.equal(thin(two, 3, sampler=sampler).weights, two.weights)


def test_thinned_counts_are_counts_of_the_fewer_draws():
    sampler = RandomSampling(50)
    before = some_targets(sampler)
    after = thin(before, 12, sampler=sampler)
    counts = after.weights.double() * 12
    assert torch.allclose(counts, counts.round(), atol=1e-5)
    assert float((row_sums(after) - 1).abs().max()) < 1e-6
    more = before.to_dense(300) * 50 - after.to_dense(300) * 12
    assert float(more.min()) > -1e-4  # no token is drawn more often than it was


def test_thinning_counts_is_hypergeometric():
    rows, draws, kept = 20_000, 10, 4
    offsets = torch.arange(rows + 1) * 2
    ids = torch.tensor([1, 7], dtype=torch.int32).repeat(rows)
    weights = torch.tensor([0.3, 0.7]).repeat(rows)
    targets = SparseTargets(offsets, ids, weights, sampler="random-sampling")
    chances = torch.rand(rows, draws, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    first = (thin_counts(targets, draws, kept, chances).to_dense(8)[:, 1] * kept).round().long()
    found = torch.bincount(first, minlength=5).double() / rows
    # 3 marked of 10, 4 taken: C(3, i) C(7, 4 - i) / C(10, 4)
    wanted = torch.tensor([35, 105, 63, 7, 0], dtype=torch.float64) / 210
    assert float((found - wanted).abs().max()) < 5 * (0.25 / rows) ** 0.5


@pytest.mark.parametrize("sampler", [Threshold(20), RandomSampling(30)], ids=str)
def test_masked_positions_stay_masked_and_statistics_stay(sampler):
    some = some_targets(sampler, rows=3)
    empty = sampler(torch.zeros(0, 300))
    masked = SparseTargets(
        torch.zeros(3, dtype=torch.int64),
        empty.ids,
        empty.weights,
        head_counts=None if empty.head_counts is None else torch.zeros(2, dtype=torch.int32),
        sampler=sampler.name,
    )
    joined = concatenate_targets([some, masked, some])
    thinned = thin(joined, 5, sampler=sampler)
    assert (thinned.counts == 0).tolist() == [False] * 3 + [True] * 2 + [False] * 3
    assert thin(empty, 5, sampler=sampler).num_positions == 0


@pytest.mark.parametrize("sampler", [Threshold(20), RandomSampling(30)], ids=str)
def test_thinning_does_not_depend_on_batching(sampler):
    before = some_targets(sampler)
    whole = thin(before, 7, sampler=sampler, seed=9, index=4)
    parts = concatenate_targets(
        [thin(before.slice(i, i + 13), 7, sampler=sampler, seed=9, index=4, first_position=i) for i in range(0, 40, 13)]
    )
    assert torch.equal(whole.ids, parts.ids)
    assert torch.equal(whole.weights, parts.weights)
    other = thin(before, 7, sampler=sampler, seed=9, index=4, generation=1)
    assert not torch.equal(whole.ids, other.ids)


@pytest.mark.parametrize("sampler", [TopK(5), TopP(0.9), RandomSampling(20, 0.8)], ids=str)
def test_samplers_that_cannot_be_thinned_are_refused(sampler):
    with pytest.raises(InvalidInput, match="can be"):
        thin(some_targets(sampler), 3, sampler=sampler)


@pytest.mark.parametrize("draws", [0, 20, 21, 2.5])
def test_draws_that_are_not_fewer_are_refused(draws):
    with pytest.raises(InvalidInput, match="fewer than the 20"):
        thinned_sampler(Threshold(20), draws)


def test_targets_of_another_sampler_or_budget_are_refused():
    with pytest.raises(InvalidInput, match="targets are of threshold"):
        thin(some_targets(Threshold(9)), 3, sampler=RandomSampling(9))
    with pytest.raises(InvalidInput, match="sum to 10 of 9 draws"):
        thin(
            SparseTargets(torch.tensor([0, 1]), torch.tensor([3]).int(), torch.tensor([10 / 9])),
            3,
            sampler=RandomSampling(9),
        )
    with pytest.raises(InvalidInput, match="generation is -1"):
        thin(some_targets(Threshold(9)), 3, sampler=Threshold(9), generation=-1)


def test_the_thinned_sampler_keeps_the_grid():
    assert thinned_sampler(Threshold(50), 8) == Threshold(8, grid=Threshold(50).grid)
    assert thinned_sampler(RandomSampling(50), 8) == RandomSampling(8)
