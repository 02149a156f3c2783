import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from logitstore.errors import InvalidInput
from logitstore.samplers import Threshold
from logitstore.samplers.grid import default_grid, round_to_grid
from logitstore.samplers.threshold import sample_threshold
from logitstore.samplers.threshold_rule import solve_threshold
from logitstore.samplers.variance import threshold_variances
from tests.samplers.unbiasedness import DISTRIBUTIONS


@st.composite
def distributions(draw):
    """Small distributions of all shapes: zeros, ties and one heavy token included."""
    weights = draw(
        st.lists(st.sampled_from([0.0, 0.0, 1.0, 1.0, 2.0, 0.5, 5.0, 40.0, 1e-3, 0.37]), min_size=1, max_size=24)
    )
    p = torch.tensor([*weights, draw(st.floats(0.01, 60.0))], dtype=torch.float64)
    return p / p.sum()


def expected_entries(p, draws):
    """k as the documentation says it, in plain Python."""
    sum_of_chances = math.fsum(min(1.0, draws * float(x)) for x in p)
    heavy = sum(float(x) * draws >= 1 for x in p)
    left = sum(0 < float(x) * draws < 1 for x in p)
    return min(max(math.ceil(sum_of_chances - 1e-5), heavy + (left > 0)), int((p > 0).sum()))


def optimal_chances(p, size):
    """The chances of being kept, sum `size`, with the least sum of p^2 / chance, by bisection on the multiplier.

    The stationary point of the Lagrangian p^2 / chance + lambda * chance with chance <= 1 is min(1, c p).
    """
    p = [float(x) for x in p]
    low, high = 0.0, 1e12
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if math.fsum(min(1.0, middle * x) for x in p) < size else (low, middle)
    return [min(1.0, high * x) for x in p]


def exact_moments(p, draws, grid):
    """Mean and second moment of every weight, over a fine lattice of the two uniform numbers, [V] float64 each."""
    points = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    sampling, rounding = (x.flatten() for x in torch.meshgrid(points, points[::8], indexing="ij"))
    rows = p.float().expand(len(sampling), -1).clone()
    dense = sample_threshold(rows, draws, grid, sampling, rounding).to_dense(len(p)).double()
    return dense.mean(0), dense.square().mean(0)


@settings(max_examples=150, deadline=None)
@given(distributions(), st.integers(1, 30))
@example(torch.tensor([2.0] * 6 + [5.0], dtype=torch.float64) / 17, 9)
def test_thresholds_are_optimal_for_their_number_of_entries(p, draws):
    values = p.sort(descending=True).values[:draws]
    rest = (p.sum() - values.sum()).clamp(min=0) if len(p) > draws else torch.zeros(())
    solution = solve_threshold(values[None], rest.double()[None], draws)
    size = expected_entries(p, draws)
    assert int(solution.head_counts + solution.tail_counts) == size
    chances = optimal_chances(p, size)
    least = math.fsum(float(x) ** 2 / c for x, c in zip(p, chances, strict=True) if x > 0) - float((p * p).sum())
    found = float(threshold_variances(p.float()[None], draws, [None]))
    assert found == pytest.approx(least, rel=1e-4, abs=1e-7)
    tail = float(solution.tail / solution.total)
    if solution.tail_counts > 0:
        threshold = tail / int(solution.tail_counts)
        assert threshold <= 1 / draws + 1e-6
        assert float(values[int(solution.head_counts) - 1]) >= threshold - 1e-9 or solution.head_counts == 0


@settings(max_examples=60, deadline=None)
@given(distributions(), st.integers(1, 12), st.integers(0, 2**31))
def test_no_other_chances_with_as_many_entries_have_less_variance(p, draws, seed):
    size = expected_entries(p, draws)
    best = float(threshold_variances(p.float()[None], draws, [None])) + float((p * p).sum())
    generator = torch.Generator().manual_seed(seed)
    positive = p[p > 0]
    optimum = torch.tensor(optimal_chances(positive, size), dtype=torch.float64)
    for scale in (1e-3, 0.05, 0.5):
        step = scale * torch.randn(len(positive), generator=generator, dtype=torch.float64)
        other = (optimum + step).clamp(1e-3, 1.0)
        other = (other * size / other.sum()).clamp(max=1.0)
        assert float(other.sum()) <= size + 1e-9
        assert float((positive**2 / other).sum()) >= best - 1e-6


@pytest.mark.parametrize("grid", [16, 64, 1 << 16])
@pytest.mark.parametrize(
    "name", ["coin", "peaked", "ties at the threshold", "fewer tokens than draws", "head below the grid"]
)
def test_variance_in_closed_form_is_that_of_the_weights(name, grid):
    p = (DISTRIBUTIONS[name] / DISTRIBUTIONS[name].sum()).double()
    mean, square = exact_moments(p, 12, grid)
    # a lattice of 400 x 50 uniform numbers is right to about one step of each
    assert torch.allclose(mean, p, atol=1e-3)
    found = float((square - p * p).sum())
    assert found == pytest.approx(float(threshold_variances(p.float()[None], 12, [grid])), abs=3e-4, rel=0.05)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 400), st.integers(1, 60), st.sampled_from([0.1, 1.0, 4.0, 12.0]))
def test_layout_of_threshold_targets(seed, vocab_size, draws, scale):
    logits = scale * torch.randn(7, vocab_size, generator=torch.Generator().manual_seed(seed))
    sampler = Threshold(draws)
    targets = sampler(logits, seed=seed)
    grid = sampler.head_grid
    assert torch.equal(targets.offsets[1:] > targets.offsets[:-1], torch.ones(7, dtype=torch.bool))
    for position in range(7):
        row = targets.slice(position, position + 1)
        heads, ids = int(row.head_counts), row.ids.tolist()
        assert ids[:heads] == sorted(ids[:heads])
        assert ids[heads:] == sorted(ids[heads:])
        assert len(set(ids)) == len(ids) <= min(draws + 1, vocab_size)
        numerators = row.weights[:heads].double() * grid
        assert torch.equal(numerators, numerators.round())
        assert bool((row.weights > 0).all())
        assert len(set(row.weights[heads:].tolist())) <= 1
        assert abs(float(row.weights.double().sum()) - 1) < 1e-6
        if len(ids) > heads:
            p = torch.softmax(logits[position].double(), -1)
            # rounding moves the whole head by less than one step of the grid
            tail = 1 - float(p[row.ids[:heads].long()].sum())
            assert abs(float(row.weights[heads:].double().sum()) - tail) <= heads / grid + 1 / grid


def test_weights_sum_to_one_in_float64_for_every_dtype_and_shape():
    for name, p in DISTRIBUTIONS.items():
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            for draws in (1, 2, 7, 20, 300):
                targets = Threshold(draws)(p.log().to(dtype).expand(300, -1), seed=1)
                sums = torch.zeros(300, dtype=torch.float64).index_add_(0, targets.rows, targets.weights.double())
                assert float((sums - 1).abs().max()) < 1e-6, (name, dtype, draws)


def test_a_certain_token_is_one_entry_of_weight_one():
    logits = torch.tensor([[-math.inf, 3.0, -math.inf], [0.0, 80.0, 0.0]])
    targets = Threshold(20)(logits)
    assert targets.ids.tolist() == [1, 1]
    assert targets.weights.tolist() == [1.0, 1.0]
    assert targets.head_counts.tolist() == [1, 1]


def test_tokens_fewer_than_draws_are_all_kept():
    targets = Threshold(50, grid=4)(torch.tensor([[0.5, 0.25, 0.0, 0.25]]).log())
    assert (targets.ids.tolist(), targets.weights.tolist()) == ([0, 1, 3], [0.5, 0.25, 0.25])


@pytest.mark.parametrize("draws", [1, 5, 400, 70])
def test_more_draws_than_columns_or_blocks_agree_with_fewer_columns_first(draws):
    # candidates from a few blocks, and from all columns, where the draws are as many as blocks
    generator = torch.Generator().manual_seed(4)
    logits = 3 * torch.randn(9, 40_000, generator=generator)
    targets = Threshold(draws, grid=1 << 16)(logits)
    p = torch.softmax(logits.double(), -1)
    for position in range(9):
        row = targets.slice(position, position + 1)
        heads = int(row.head_counts)
        assert abs(row.num_entries - expected_entries(p[position], draws)) <= 1
        assert set(row.ids[:heads].tolist()) == set(p[position].topk(heads).indices.tolist())


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=12),
    st.sampled_from([1, 16, 64, 1024]),
    st.floats(0, 1, exclude_max=True),
)
def test_rounding_moves_no_value_by_a_step_and_keeps_the_sum(values, grid, uniform):
    values = torch.tensor([values], dtype=torch.float64)
    values = values / values.sum().clamp(min=1.0)
    whole = torch.tensor([bool(abs(float(values.sum()) - 1) < 1e-12)])
    numerators = round_to_grid(values, grid, torch.tensor([uniform], dtype=torch.float64), whole=whole)
    assert bool(((numerators / grid - values).abs() < 1 / grid + 1e-9).all())
    assert int(numerators.min()) >= 0
    assert abs(int(numerators.sum()) - float(values.sum()) * grid) < 1 + 1e-6
    assert int(numerators.sum()) <= grid
    if bool(whole):
        assert int(numerators.sum()) == grid


def test_rounding_is_unbiased_over_its_uniform_number():
    values = torch.tensor([0.013, 0.3, 0.0, 0.211, 0.0004], dtype=torch.float64)
    uniform = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    rows = values.expand(len(uniform), -1)
    numerators = round_to_grid(rows, 64, uniform, whole=torch.zeros(len(uniform), dtype=torch.bool))
    assert torch.allclose(numerators.double().mean(0) / 64, values, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [{"draws": 0}, {"draws": 70_000}, {"draws": 2.5}, {"grid": 0}, {"grid": 48}, {"grid": 1 << 21}, {"grid": 64.0}],
)
def test_parameters_out_of_range_are_refused(options):
    with pytest.raises(InvalidInput, match="was wanted"):
        Threshold(**options)


def test_the_default_grid_is_recorded():
    assert Threshold(20).to_dict() == {"name": "threshold", "draws": 20, "grid": default_grid(20)}
    assert Threshold(20) == Threshold(20, grid=default_grid(20))
