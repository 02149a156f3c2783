import pytest
import torch

from logitstore.errors import InvalidInput
from logitstore.samplers import RandomSampling, Threshold, TopK, total_variance
from tests.samplers.unbiasedness import DISTRIBUTIONS, SEED, logits_of


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize(
    "sampler",
    [RandomSampling(12), RandomSampling(12, 0.8), RandomSampling(5, 1.3), Threshold(12), Threshold(4, grid=16)],
    ids=str,
)
def test_closed_forms_are_the_variances_that_draws_show(sampler, name):
    logits, p = logits_of(DISTRIBUTIONS[name])
    dense = sampler(logits, seed=SEED).to_dense(len(p)).double()
    found = float((dense - p).square().sum(1).mean())
    spread = float((dense - p).square().sum(1).std()) / len(dense) ** 0.5
    # 40 statistics, P(|z| > 5.5) is below 1e-6 each
    assert abs(found - float(total_variance(sampler, logits[:1]))) < 5.5 * spread + 1e-6


def test_biased_samplers_have_no_variance_to_tell():
    with pytest.raises(InvalidInput, match="top-k is biased"):
        total_variance(TopK(5), torch.zeros(1, 9))


def test_no_positions_have_no_variance():
    assert total_variance(Threshold(5), torch.zeros(0, 9)).shape == (0,)
