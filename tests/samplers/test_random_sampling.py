import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from logitstore.errors import InvalidInput
from logitstore.samplers import RandomSampling, Threshold, TopK, TopP, sampler_from_dict
from logitstore.samplers.column_blocks import ColumnBlocks
from logitstore.samplers.philox import Purpose, uniforms
from logitstore.samplers.random_sampling import count_draws, draw_ids, log_sum_exp
from tests.support.peak_memory import peak_bytes_of

DRAWS = 20_000
# z statistics per case at most 1,001; P(|z| > 5.5) is 4e-8 each, so a false alarm in all cases together is below 1e-3
MAX_Z = 5.5

DISTRIBUTIONS = {
    "coin": torch.tensor([0.3, 0.7]),
    "peaked": torch.cat([torch.tensor([0.97]), torch.full((300,), 0.0001)]),
    "flat": torch.full((257,), 1 / 257),
    "zipf": 1 / torch.arange(1, 1001).float(),
    "certain": torch.tensor([0.0, 1.0, 0.0]),
}


def logits_of(name, rows=1):
    p = DISTRIBUTIONS[name].double()
    return (p / p.sum()).log().float().expand(rows, -1), p / p.sum()


def z_of_mean_weights(sampler, logits, p, transform=lambda dense: dense):
    """z statistics of the mean weight of each token over the rows; tokens below 25 expected hits are pooled."""
    dense = transform(sampler(logits, seed=5, index=2).to_dense(len(p)).double())
    rare = p * sampler.draws * len(dense) < 25 if hasattr(sampler, "draws") else p < 0
    columns = torch.cat([dense[:, ~rare], dense[:, rare].sum(1, keepdim=True)], dim=1)
    wanted = torch.cat([p[~rare], p[rare].sum()[None]])
    error = columns.mean(0) - wanted
    spread = columns.std(0) / len(dense) ** 0.5
    return torch.where(error.abs() < 1e-6, 0.0, error / spread.clamp(min=1e-12))


@pytest.mark.parametrize("power", [1.0, 0.8])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_weights_are_unbiased(name, power):
    logits, p = logits_of(name, DRAWS)
    z = z_of_mean_weights(RandomSampling(draws=12, proposal_power=power), logits, p)
    assert float(z.abs().max()) < MAX_Z


def test_control_renormalised_top_k_is_biased():
    logits, p = logits_of("zipf", DRAWS)
    noisy = logits + 1e-3 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    z = z_of_mean_weights(TopK(12), noisy, p, lambda dense: dense / dense.sum(1, keepdim=True))
    assert float(z.abs().max()) > 10


def test_control_self_normalised_importance_weights_are_biased():
    logits, p = logits_of("zipf", DRAWS)
    dense = RandomSampling(draws=12, proposal_power=0.8)(logits, seed=5).to_dense(len(p)).double()
    head = (dense / dense.sum(1, keepdim=True))[:, :10].sum(1)
    z = (head.mean() - p[:10].sum()) / head.std() * len(head) ** 0.5
    assert abs(float(z)) > 10


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_weights_sum_to_one(name):
    logits, _ = logits_of(name, 500)
    for draws in (1, 7, 50):
        targets = RandomSampling(draws)(logits)
        sums = torch.zeros(500, dtype=torch.float64).index_add(0, targets.rows, targets.weights.double())
        assert float((sums - 1).abs().max()) < 1e-6


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 5), st.sampled_from([1, 2, 127, 128, 129, 1000]), st.integers(1, 30))
def test_two_level_draws_equal_a_plain_inverse_in_float64(seed, rows, vocab_size, draws):
    generator = torch.Generator().manual_seed(seed)
    p = torch.softmax(3 * torch.randn(rows, vocab_size, generator=generator), -1)
    u = torch.rand(rows, draws, generator=generator, dtype=torch.float64)
    found = draw_ids(ColumnBlocks(p), u)
    ends = p.double().cumsum(-1)
    total = ends[:, -1:]
    below = torch.where(found > 0, ends.gather(1, (found - 1).clamp(min=0)), 0.0)
    slack = 1e-6 * total  # block sums are float32
    assert bool((u * total >= below - slack).all())
    assert bool((u * total <= ends.gather(1, found) + slack).all())
    assert bool((p.gather(1, found) > 0).all())


def test_extreme_uniforms_never_draw_a_token_of_probability_zero():
    p = torch.zeros(2, 400)
    p[0, 5], p[1, [130, 399]] = 1.0, 0.5
    u = torch.tensor([[0.0, 0.5, 1 - 2**-53]] * 2, dtype=torch.float64)
    assert draw_ids(ColumnBlocks(p), u).tolist() == [[5, 5, 5], [130, 399, 399]]


@pytest.mark.parametrize(
    "sampler", [Threshold(20), RandomSampling(20), RandomSampling(20, proposal_power=1.2), TopK(9), TopP(0.3)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_entries_do_not_depend_on_batching_or_threads(sampler, dtype):
    logits = (4 * torch.randn(37, 40_000, generator=torch.Generator().manual_seed(1))).to(dtype)
    whole = sampler(logits, seed=3, index=9)
    parts = [sampler(logits[i : i + 5], seed=3, index=9, first_position=i) for i in range(0, 37, 5)]
    assert torch.equal(whole.ids, torch.cat([part.ids for part in parts]))
    assert torch.equal(whole.weights, torch.cat([part.weights for part in parts]))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        single = sampler(logits[:1], seed=3, index=9)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(single.weights, whole.slice(0, 1).weights)
    assert torch.equal(single.ids, whole.slice(0, 1).ids)


OTHER_PROCESS = """
import torch
from logitstore.samplers import RandomSampling, Threshold
torch.set_num_threads({threads})
logits = 4 * torch.randn(37, 40_000, generator=torch.Generator().manual_seed(1))
targets = {sampler}(20)(logits[{first}:], seed=3, index=9, first_position={first})
print(targets.ids.tolist(), targets.weights.tolist())
"""


@pytest.mark.parametrize("sampler", ["Threshold", "RandomSampling"])
def test_entries_do_not_depend_on_the_process(sampler):
    def output(threads, first):
        code = OTHER_PROCESS.format(sampler=sampler, threads=threads, first=first)
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    last = output(2, 30)
    assert output(1, 30) == last
    whole = output(2, 0).rstrip("]\n").split("] [")
    assert all(part.endswith(end) for part, end in zip(whole, last.strip("[]\n").split("] ["), strict=True))


def test_seed_and_index_change_the_draw():
    logits, _ = logits_of("zipf", 50)
    ids = {
        (seed, index): RandomSampling(10)(logits, seed=seed, index=index).ids.tolist()
        for seed in (0, 1)
        for index in (0, 1)
    }
    assert len({tuple(v) for v in ids.values()}) == 4


def test_counts_are_what_the_uniforms_say():
    logits, _ = logits_of("coin", 3)
    targets = RandomSampling(40)(logits, seed=1, index=4, first_position=8)
    u = uniforms(torch.arange(8, 11), 40, seed=1, index=4, purpose=Purpose.SAMPLING)
    wanted = (u < 0.3).sum(1) / 40
    assert torch.allclose(targets.to_dense(2)[:, 0], wanted.float())


def test_count_draws_counts_runs():
    offsets, ids, counts = count_draws(torch.tensor([[3, 1, 3], [1, 1, 1]]))
    assert (offsets.tolist(), ids.tolist(), counts.tolist()) == ([0, 2, 3], [1, 3, 1], [1, 2, 3])


def test_log_sum_exp_agrees_with_torch_in_float64():
    logits = 5 * torch.randn(6, 3000, generator=torch.Generator().manual_seed(2))
    for power in (1.0, 0.7):
        assert torch.allclose(
            log_sum_exp(logits, power), torch.logsumexp(power * logits.double(), -1), rtol=0, atol=2e-6
        )


@pytest.mark.parametrize(
    ("change", "found"), [(float("nan"), "NaN at token id 4"), (float("inf"), r"\+inf at token id 4")]
)
@pytest.mark.parametrize("sampler", [Threshold(3), RandomSampling(3), TopK(3), TopP(0.9)])
def test_bad_logits_name_the_position(sampler, change, found):
    logits = torch.zeros(5, 10)
    logits[2, 4] = change
    with pytest.raises(InvalidInput, match=f"position 102 have {found}") as caught:
        sampler(logits, first_position=100)
    assert caught.value.kind == "bad-logits"


@pytest.mark.parametrize("sampler", [Threshold(3), RandomSampling(3), TopK(3), TopP(0.9)])
def test_minus_infinity_is_zero_probability_unless_everywhere(sampler):
    logits = torch.zeros(2, 10)
    logits[:, :8] = float("-inf")
    assert bool((sampler(logits).ids >= 8).all())
    logits[1] = float("-inf")
    with pytest.raises(InvalidInput, match="position 1 have -inf at every token"):
        sampler(logits)


@pytest.mark.parametrize(
    "logits", [torch.zeros(3), torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.int64), [[1.0]]]
)
@pytest.mark.parametrize("sampler", [Threshold(3), RandomSampling(3), TopK(1), TopP(0.9)])
def test_logits_of_another_rank_or_dtype_are_refused(sampler, logits):
    with pytest.raises(InvalidInput, match="logits are"):
        sampler(logits)


@pytest.mark.parametrize(
    "options",
    [{"draws": 0}, {"draws": 70_000}, {"draws": 2.5}, {"proposal_power": 0.0}, {"proposal_power": float("nan")}],
)
def test_parameters_out_of_range_are_refused(options):
    with pytest.raises(InvalidInput, match="was wanted"):
        RandomSampling(**options)


@pytest.mark.parametrize("sampler", [Threshold(7), RandomSampling(7, 0.9), TopK(3), TopP(0.5, 9)])
def test_config_round_trip(sampler):
    assert sampler_from_dict(sampler.to_dict()) == sampler


@pytest.mark.parametrize("config", [{"name": "nothing"}, {"name": "top-k", "draws": 3}, {}])
def test_unknown_configs_are_refused(config):
    with pytest.raises(InvalidInput, match="sampler"):
        sampler_from_dict(config)


def test_many_short_rows_take_little_memory():
    setup = "import torch\nfrom logitstore.samplers import RandomSampling\nlogits = torch.zeros(200_000, 10)"
    # 10 M draws are 80 MB a tensor; searching all of them at once would hold 5 GB of columns
    assert peak_bytes_of(setup, "assert RandomSampling(50)(logits).num_positions == 200_000") < 1500 << 20


def test_no_positions_give_no_entries():
    for sampler in (Threshold(3), RandomSampling(3), RandomSampling(3, 0.5), TopK(3), TopP(0.9)):
        targets = sampler(torch.zeros(0, 10))
        assert (targets.num_positions, targets.num_entries) == (0, 0)
