import pytest
import torch

from logitstore.samplers import RandomSampling, Threshold, TopK, thin
from logitstore.samplers.philox import Purpose, uniforms
from logitstore.samplers.threshold import sample_threshold
from tests.samplers.unbiasedness import (
    DISTRIBUTIONS,
    DRAWS,
    MAX_Z,
    SEED,
    largest_z,
    logits_of,
    weighted_sums,
    z_of_mean,
)

SAMPLERS = [Threshold(12), Threshold(12, grid=4096), Threshold(3), RandomSampling(12), RandomSampling(12, 0.8)]


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_weights_loss_and_gradient_are_unbiased(sampler, name):
    logits, p = logits_of(DISTRIBUTIONS[name])
    assert largest_z(sampler(logits, seed=SEED, index=2), p, sampler.draws) < MAX_Z


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sampler", [Threshold(12), RandomSampling(12)], ids=str)
def test_half_precision_logits_are_sampled_without_bias(sampler, dtype):
    logits, p = logits_of(DISTRIBUTIONS["zipf"], dtype=dtype)
    assert largest_z(sampler(logits, seed=SEED), p, sampler.draws) < MAX_Z


@pytest.mark.parametrize("sampler", [Threshold(20), RandomSampling(20)], ids=str)
def test_a_vocabulary_of_262144_is_sampled_without_bias(sampler):
    generator = torch.Generator().manual_seed(0)
    logits, p = logits_of(torch.softmax(2.5 * torch.randn(262_144, generator=generator), -1))
    assert largest_z(sampler(logits, seed=SEED), p, sampler.draws) < MAX_Z


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("sampler", [Threshold(12), Threshold(3), RandomSampling(12)], ids=str)
def test_thinned_targets_are_unbiased(sampler, name):
    logits, p = logits_of(DISTRIBUTIONS[name])
    targets = sampler(logits, seed=SEED)
    draws = 7 if sampler.draws == 12 else 2
    thinned = thin(targets, draws, sampler=sampler, seed=SEED)
    assert largest_z(thinned, p, draws) < MAX_Z
    if draws == 7:
        sampler_of_7 = type(sampler)(**{**{k: v for k, v in sampler.to_dict().items() if k != "name"}, "draws": 7})
        twice = thin(thinned, 4, sampler=sampler_of_7, seed=SEED, generation=1)
        assert largest_z(twice, p, 4) < MAX_Z


def test_control_renormalised_top_k_is_biased():
    logits, p = logits_of(DISTRIBUTIONS["zipf"])
    noisy = logits + 1e-3 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    targets = TopK(12)(noisy)
    tail = weighted_sums(targets, (p < p[11]).double()) / weighted_sums(targets, torch.ones_like(p))
    assert abs(z_of_mean(tail, p[12:].sum())) > 10


def test_control_self_normalised_importance_weights_are_biased():
    logits, p = logits_of(DISTRIBUTIONS["zipf"])
    targets = RandomSampling(draws=12, proposal_power=0.8)(logits, seed=SEED)
    head = torch.zeros_like(p)
    head[:10] = 1
    assert abs(z_of_mean(weighted_sums(targets, head), p[:10].sum())) < MAX_Z
    normalised = weighted_sums(targets, head) / weighted_sums(targets, torch.ones_like(p))
    assert abs(z_of_mean(normalised, p[:10].sum())) > 10


def test_control_rounding_with_the_samplings_uniforms_is_biased():
    # the tail is worth 1/64 or nothing, and by the same number one token of it is drawn or the other
    logits, p = logits_of(torch.tensor([63.5, 0.25, 0.25]) / 64)
    positions = torch.arange(DRAWS)
    sampling = uniforms(positions, 1, seed=SEED, index=0, purpose=Purpose.SAMPLING)[:, 0]
    rounding = uniforms(positions, 1, seed=SEED, index=0, purpose=Purpose.ROUNDING)[:, 0]
    for uniform, is_biased in ((rounding, False), (sampling, True)):
        targets = sample_threshold(torch.softmax(logits, -1), 12, 64, sampling, uniform)
        z = largest_z(targets, p, 12)
        assert z > 10 if is_biased else z < MAX_Z


def test_control_thinning_with_the_samplings_uniforms_is_biased():
    from logitstore.samplers.thinning import thin_threshold

    logits, p = logits_of(DISTRIBUTIONS["zipf"])
    targets = Threshold(12)(logits, seed=SEED)
    own, reused = (
        uniforms(torch.arange(DRAWS), 1, seed=SEED, index=0, purpose=purpose)[:, 0]
        for purpose in (Purpose.THINNING, Purpose.SAMPLING)
    )
    rounding = uniforms(torch.arange(DRAWS), 1, seed=SEED, index=0, purpose=Purpose.THINNING_ROUNDING)[:, 0]
    assert largest_z(thin_threshold(targets, Threshold(5), own, rounding), p, 5) < MAX_Z
    assert largest_z(thin_threshold(targets, Threshold(5), reused, rounding), p, 5) > 10
