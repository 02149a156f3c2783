import pytest
import torch

from logitstore.errors import InvalidInput
from logitstore.losses import sparse_kd_loss
from logitstore.samplers import TopK
from logitstore.targets import SparseTargets
from tests.losses.dense_oracle import dense_loss
from tests.losses.random_targets import loss_and_grad, random_labels, random_logits, random_targets
from tests.losses.tolerances import assert_close_to_oracle

UNBIASED = ["random-sampling", "threshold", None]


@pytest.mark.parametrize("sampler", [*UNBIASED, "top-k", "top-p"])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_targets_captured_at_the_temperature_are_used_as_they_are(sampler, temperature):
    targets = random_targets([3, 0, 5], 11, normalised=False, sampler=sampler, teacher_temperature=temperature)
    logits, labels = random_logits(3, 11, dtype=torch.float64), random_labels(3, 11)
    options = {"alpha": 0.3, "temperature": temperature}
    for form in (targets, targets.to_padded()):
        loss, grad = loss_and_grad(logits, form, labels, **options)
        assert_close_to_oracle(loss, grad, *dense_loss(logits, targets, labels, **options), dtype=torch.float64)


@pytest.mark.parametrize("temperature", [0.05, 0.5, 2.0, 10.0])
def test_top_k_entries_are_tempered_and_renormalised_over_those_kept(temperature):
    teacher, logits = random_logits(4, 30, seed=8), random_logits(4, 30, dtype=torch.float64)
    targets = TopK(6)(teacher)
    kept = targets.to_dense(30) > 0
    wanted_weights = torch.softmax(torch.where(kept, teacher.double() / temperature, -torch.inf), -1)
    wanted, wanted_grad = dense_loss(logits, wanted_weights, temperature=temperature)
    for form in (targets, targets.to_padded(9)):
        loss, grad = loss_and_grad(logits, form, temperature=temperature)
        # the stored probabilities are float32, and a low temperature multiplies their relative error (1e-7)
        torch.testing.assert_close(loss, wanted, rtol=1e-6 / min(1, temperature), atol=0)
        torch.testing.assert_close(grad, wanted_grad, rtol=0, atol=1e-6 / min(1, temperature) ** 2)


def test_tempering_keeps_the_weights_of_improbable_entries_finite_at_low_temperature():
    # 1e-6 to the power of 20 is 0 in float32; relative to its neighbour of the same size it is a half
    targets = SparseTargets(torch.tensor([0, 2]), torch.tensor([0, 1]).int(), torch.full((2,), 1e-6), sampler="top-k")
    logits = torch.zeros(1, 4)
    assert float(sparse_kd_loss(logits, targets, temperature=0.05)) == pytest.approx(
        float(torch.log(torch.tensor(4.0)))
    )


def test_tempering_leaves_weights_of_zero_and_masked_positions_at_zero():
    targets = random_targets([2, 0, 3], 9, sampler="top-p")
    targets.weights[:2] = 0
    for form in (targets, targets.to_padded()):
        loss, grad = loss_and_grad(random_logits(3, 9), form, temperature=2.0, reduction="none")
        assert loss[:2].tolist() == [0, 0]
        assert bool((grad[:2] == 0).all())
        assert loss[2] > 0


def test_tempering_does_nothing_to_what_has_no_positions():
    assert sparse_kd_loss(torch.zeros(0, 3), random_targets([], 3, sampler="top-k"), temperature=2.0) == 0


def test_the_gradient_carries_one_over_temperature_and_no_temperature_squared():
    targets = random_targets([4], 9, teacher_temperature=3.0)
    logits = random_logits(1, 9, dtype=torch.float64)
    _, grad = loss_and_grad(logits, targets, temperature=3.0)
    dense = targets.to_dense(9).double()
    torch.testing.assert_close(grad, (dense.sum() * torch.softmax(logits / 3, -1) - dense) / 3, atol=1e-14, rtol=0)


def test_the_recipe_for_temperature_squared_in_the_decision_holds():
    alpha, temperature = 0.4, 3.0
    targets = random_targets([3, 2], 9, teacher_temperature=temperature)
    logits, labels = random_logits(2, 9, dtype=torch.float64), random_labels(2, 9, ignored=0)
    distilled = sparse_kd_loss(logits, targets, temperature=temperature)
    hard = sparse_kd_loss(logits, targets, labels, alpha=0.0, temperature=temperature)
    scale = alpha * temperature**2 + (1 - alpha)
    mixed = sparse_kd_loss(logits, targets, labels, alpha=alpha * temperature**2 / scale, temperature=temperature)
    torch.testing.assert_close(mixed * scale, alpha * temperature**2 * distilled + (1 - alpha) * hard)


@pytest.mark.parametrize("form", ["csr", "padded"])
@pytest.mark.parametrize("sampler", UNBIASED)
@pytest.mark.parametrize(("captured", "temperature"), [(1.0, 2.0), (2.0, 1.0), (2.0, 3.0)])
def test_an_unbiased_sample_of_another_temperature_is_refused(sampler, captured, temperature, form):
    targets = random_targets([2], 5, sampler=sampler, teacher_temperature=captured)
    targets = targets if form == "csr" else targets.to_padded()
    with pytest.raises(InvalidInput, match="says nothing unbiased about another") as refusal:
        sparse_kd_loss(random_logits(1, 5), targets, temperature=temperature)
    assert f"temperature is {temperature:g}" in str(refusal.value)
    assert f"captured at teacher temperature {captured:g}" in str(refusal.value)
    assert f"--teacher-temperature {temperature:g}" in str(refusal.value)


@pytest.mark.parametrize("sampler", ["top-k", "top-p"])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_top_k_captured_at_another_temperature_than_1_is_refused_away_from_it(sampler, temperature):
    targets = random_targets([2], 5, sampler=sampler, teacher_temperature=2.0)
    with pytest.raises(InvalidInput, match="only top-k and top-p entries captured at 1"):
        sparse_kd_loss(random_logits(1, 5), targets, temperature=temperature)


def test_kl_of_weights_tempered_here_is_refused():
    targets = random_targets([2], 5, sampler="top-k", teacher_entropy=torch.ones(1))
    with pytest.raises(InvalidInput, match="teacher_entropy belongs to the full teacher at teacher temperature 1"):
        sparse_kd_loss(random_logits(1, 5), targets, temperature=2.0, value="kl")
